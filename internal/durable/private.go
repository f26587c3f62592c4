package durable

import (
	"errors"
	"io"
	"os"
)

// ErrExposed says that group or others can read the file.
var ErrExposed = errors.New("durable: file can be read by others")

// ReadPrivate reads the first limit octets of a file that its owner alone can read, or answers [ErrExposed].
func ReadPrivate(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !private(fi) {
		return nil, ErrExposed
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
