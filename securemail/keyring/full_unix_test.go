//go:build unix

package keyring_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/keyring"
)

// TestFullDisk runs a child whose files may not grow: appends fail in their middle, as on a full disk, and later work.
func TestFullDisk(t *testing.T) {
	if path := os.Getenv("KEYRING_FULL"); path != "" {
		require.NoError(t, fillUp(path))
		return
	}
	path := ringPath(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	cmd.Env = append(os.Environ(), "KEYRING_FULL="+path)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	f := open(t, path, nil)
	for i := range 20 {
		_, err := f.Wrap(t.Context(), []byte("k"), fmt.Sprint("full", i))
		require.NoError(t, err)
	}
}

func fillUp(path string) error {
	ctx := context.Background()
	signal.Ignore(syscall.SIGXFSZ)
	f, err := keyring.OpenFile(path, &keyring.Options{Window: 1 << 40})
	if err != nil {
		return err
	}
	kept, err := f.Wrap(ctx, []byte("k"), "kept")
	if err != nil {
		return err
	}
	var free syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &free); err != nil {
		return err
	}
	for i := range 20 {
		fi, err := os.Stat(path + ".scopes")
		if err != nil {
			return err
		}
		full := free
		full.Cur = uint64(fi.Size()) + uint64(10*i)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
			return err
		}
		_, errWrap := f.Wrap(ctx, []byte("k"), fmt.Sprint("full", i))
		_, errDestroy := f.Destroy(ctx, "kept")
		full.Cur = 50
		errLimit := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full)
		errRotate := f.RotateEpoch(ctx)
		_, errUnwrap := f.Unwrap(ctx, kept)
		after, errStat := os.Stat(path + ".scopes")
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &free); err != nil {
			return err
		}
		switch {
		case errWrap == nil || errDestroy == nil || errRotate == nil:
			return errors.New("written beyond the end of the disk")
		case errUnwrap != nil || errStat != nil || errLimit != nil:
			return errors.Join(errUnwrap, errStat, errLimit)
		case after.Size() != fi.Size():
			return errors.New("a half append was left")
		}
		if _, err := f.Wrap(ctx, []byte("k"), fmt.Sprint("full", i)); err != nil {
			return fmt.Errorf("with room again: %w", err)
		}
	}
	return f.Close()
}
