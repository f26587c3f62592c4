// Package durable writes files so that they survive kill -9 at any instruction and a power cut, and tells a write that was
// cut short from damage. It serves the stores that live beside the database: the key ring and the audit log.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const tmpSuffix = ".tmp"

// WriteFile replaces path by data, readable by its owner only: file synced, renamed into place, folder synced. After a
// crash path holds the old bytes or the new ones. One writer at a time; what a crash leaves is removed by RemoveTemp or
// overwritten by the next call.
func WriteFile(path string, data []byte) error {
	if err := replace(path, data); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

func replace(path string, data []byte) error {
	tmp := path + tmpSuffix
	if err := writeSynced(tmp, data); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// writeSynced makes the file anew: one that somebody else put there, or a link, must not receive what may be a key.
func writeSynced(path string, data []byte) error {
	if fi, err := os.Lstat(path); err == nil && !fi.IsDir() {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// RemoveTemp removes what a crash inside WriteFile may have left beside path.
func RemoveTemp(path string) error {
	if err := os.Remove(path + tmpSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Tree writes many files under one root, which need not exist, and syncs each folder once. The zero value with Root set is
// ready. Not for concurrent use.
type Tree struct {
	Root  string
	dirty map[string]bool // folders to sync
	known map[string]bool // folders that surely exist
}

// Write replaces the file name (slash-separated, below Root) like WriteFile, but leaves its folder to Sync.
func (t *Tree) Write(name string, data []byte) error {
	path := filepath.Join(t.Root, filepath.FromSlash(name))
	if err := t.mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := replace(path, data); err != nil {
		return err
	}
	t.mark(filepath.Dir(path))
	return nil
}

// Sync makes the names written since the last Sync durable.
func (t *Tree) Sync() error {
	for dir := range t.dirty {
		if err := SyncDir(dir); err != nil {
			return err
		}
		delete(t.dirty, dir)
	}
	return nil
}

func (t *Tree) mark(dir string) {
	if t.dirty == nil {
		t.dirty = map[string]bool{}
	}
	t.dirty[dir] = true
}

// mkdir makes dir and those above it, and marks each parent of a new one.
func (t *Tree) mkdir(dir string) error {
	if t.known[dir] {
		return nil
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err = t.mkdir(filepath.Dir(dir)); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	switch {
	case errors.Is(err, fs.ErrExist):
	case err != nil:
		return err
	}
	// Synced even where it was there: a crash may have come between making and syncing it.
	t.mark(filepath.Dir(dir))
	if t.known == nil {
		t.known = map[string]bool{}
	}
	t.known[dir] = true
	return nil
}

// MkdirAll makes the folder path, and those above it, durably.
func MkdirAll(path string) error {
	t := Tree{}
	if err := t.mkdir(filepath.Clean(path)); err != nil {
		return fmt.Errorf("durable: make folder: %w", err)
	}
	return t.Sync()
}
