//go:build !unix

package durable

import (
	"errors"
	"os"
)

// SyncDir does nothing: this system has no way to sync a folder, or needs none.
func SyncDir(string) error { return nil }

// lockFile fails: without a lock between processes nothing here is safe, and this package has none for this system.
func lockFile(*os.File) error { return errors.ErrUnsupported }

func unlockFile(*os.File) error { return nil }

// private can't be told from the mode bits on this system.
func private(os.FileInfo) bool { return true }
