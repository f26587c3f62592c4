package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/postseal/postseal/internal/durable"
)

// Adopt readies a folder that was restored from a log's published form, its checkpoint and tiles, for [Open]: entries that
// only the lost log's journal held are not to be looked for. It proves nothing, Open does. Where entries wait in a journal,
// or one was begun, it changes nothing.
func Adopt(dir string) error {
	cp, err := os.ReadFile(filepath.Join(dir, checkpointName))
	if err != nil {
		return fmt.Errorf("audit: adopt: checkpoint: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("audit: adopt: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "journal-") {
			return nil
		}
	}
	lines := strings.SplitN(string(cp), "\n", 3)
	if len(lines) < 3 {
		return errCheckpoint
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return errCheckpoint
	}
	if err := durable.WriteFile(filepath.Join(dir, "journal-"+lines[1]), nil); err != nil {
		return fmt.Errorf("audit: adopt: journal: %w", err)
	}
	return nil
}

// ReadPublicKey reads the public key, in note form, of the log whose key file is at path, without opening the log.
func ReadPublicKey(path string) (string, error) {
	k, err := readKeys(path)
	if err != nil {
		return "", err
	}
	return k.public, nil
}
