package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

const unfinished = ".tmp"

var (
	errKey    = errors.New("queue: a blob key is of [0-9a-z/], without empty parts")
	errGone   = errors.New("queue: the blob folder is gone or another one; is its disk mounted?")
	errNotDir = errors.New("queue: not a folder")
)

// folder keeps blobs as files.
type folder struct {
	root string
	was  fs.FileInfo // of root

	mu     sync.Mutex // guards what follows, and is held while a folder is made
	synced map[string]bool
}

var (
	_ securemail.BlobStore = (*folder)(nil)
	_ BlobLister           = (*folder)(nil)
)

// Dir is a BlobStore in the folder path, which is made where it is missing, for its owner only. Put writes a new file,
// syncs it, renames it into place and syncs the folder. It is a [BlobLister], and its listing removes files that a crash
// left half written. It must lie on a disk of this machine.
func Dir(path string) (securemail.BlobStore, error) {
	if path == "" {
		return nil, errors.New("queue: blob folder: no path")
	}
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, failed("blob folder", bare(err))
	}
	if err := makeDir(root); err != nil {
		return nil, failed("blob folder", bare(err))
	}
	was, err := os.Stat(root)
	if err != nil {
		return nil, failed("blob folder", bare(err))
	}
	return &folder{root: root, was: was, synced: make(map[string]bool)}, nil
}

// makeDir makes path and what is missing above it, each name synced.
func makeDir(path string) error {
	fi, err := os.Stat(path)
	if err == nil && fi.IsDir() {
		return nil
	}
	if err == nil {
		return errNotDir
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// makeDir makes path's name durable before anything is written into it. That it is there proves nothing: another may have
// made it a moment ago and not have synced it yet.
func (f *folder) makeDir(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.synced[path] {
		return nil
	}
	if err := makeDir(path); err != nil {
		return err
	}
	for up := path; up != f.root; {
		up = filepath.Dir(up)
		if err := syncDir(up); err != nil {
			return err
		}
	}
	f.synced[path] = true
	return nil
}

func (f *folder) forget(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.synced, path)
}

// present says that the folder is still the one that was opened. Where a disk is not mounted no blob is there, and none
// is missing.
func (f *folder) present() error {
	fi, err := os.Stat(f.root)
	if err == nil && os.SameFile(fi, f.was) {
		return nil
	}
	return errGone
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// bare drops the path from an error: it may name a person's folder.
func bare(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", pe.Op, pe.Err)
	}
	if le, ok := errors.AsType[*os.LinkError](err); ok {
		return fmt.Errorf("%s: %w", le.Op, le.Err)
	}
	return err
}

func (f *folder) path(key string) (string, error) {
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || strings.Trim(part, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
			return "", errKey
		}
	}
	return filepath.Join(f.root, filepath.FromSlash(key)), nil
}

// Put implements [securemail.BlobStore].
func (f *folder) Put(ctx context.Context, key string, r io.Reader) error {
	path, err := f.path(key)
	if err != nil {
		return err
	}
	if err := f.present(); err != nil {
		return err
	}
	if err := f.makeDir(filepath.Dir(path)); err != nil {
		return failed("blob folder", bare(err))
	}
	tmp := path + "." + newRandom() + unfinished
	err = write(ctx, tmp, r)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		f.forget(filepath.Dir(path))
		_ = os.Remove(tmp)
		return failed("write blob", bare(err))
	}
	return nil
}

func write(ctx context.Context, path string, r io.Reader) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	}))
	if err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Open implements [securemail.BlobStore]. An unknown key is fs.ErrNotExist.
func (f *folder) Open(_ context.Context, key string) (io.ReadCloser, error) {
	path, err := f.path(key)
	if err != nil {
		return nil, err
	}
	r, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && f.present() != nil {
		return nil, errGone
	}
	if err != nil {
		return nil, failed("open blob", bare(err))
	}
	return r, nil
}

// Delete implements [securemail.BlobStore].
func (f *folder) Delete(_ context.Context, key string) error {
	path, err := f.path(key)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed("delete blob", bare(err))
	}
	return nil
}

// List implements [BlobLister].
func (f *folder) List(ctx context.Context, before time.Time) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := filepath.WalkDir(f.root, func(path string, d fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil || d.IsDir() {
				return err
			}
			fi, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.ModTime().Before(before) {
				return nil
			}
			if err != nil {
				return err
			}
			if strings.HasSuffix(path, unfinished) {
				return os.Remove(path)
			}
			rel, err := filepath.Rel(f.root, path)
			if err == nil && !yield(filepath.ToSlash(rel), nil) {
				return fs.SkipAll
			}
			return err
		})
		if err != nil {
			yield("", failed("list blobs", bare(err)))
		}
	}
}
