package preset

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/queue"
)

// ErrNoStore says that there is no store at the path: no database file, or no key file. Nothing was made.
var ErrNoStore = errors.New("preset: no store there")

// Desk is the queue of a store without anything that sends: for looking into it and for giving orders, also while another
// process runs it.
type Desk struct {
	*queue.Queue
	path string
	db   *sql.DB
	ring *keyring.File
}

// OpenDesk opens the queue of the SQLite store at path, and nothing else of it: neither the audit log, which one process at
// a time may write, nor a transport. It makes no store: where there is none it is ErrNoStore. Of o it uses KeyFile, Root,
// DestroyWindow, Logger and Now. Orders are events in the store's outbox, so they reach the audit log through the process that runs the store.
func OpenDesk(ctx context.Context, path string, o *Options) (_ *Desk, err error) {
	if o == nil {
		o = &Options{}
	}
	keyFile := cmp.Or(o.KeyFile, path+".key")
	if o.Root != nil {
		keyFile += ".epoch"
	}
	for _, p := range []string{path, keyFile} {
		if err := isFile(p); err != nil {
			return nil, err
		}
	}
	d := &Desk{path: path}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.db, err = sql.Open("sqlite", sqliteDSN(path)); err != nil {
		return nil, fmt.Errorf("preset: database: %w", err)
	}
	if d.ring, err = keyring.OpenFile(cmp.Or(o.KeyFile, path+".key"), o.ring()); err != nil {
		return nil, err
	}
	blobs, err := queue.Dir(path + ".blobs")
	if err != nil {
		return nil, err
	}
	d.Queue, err = queue.New(ctx, d.db, d.ring, &queue.Options{Blobs: blobs, Logger: o.Logger, Now: o.Now})
	return d, err
}

// ring are the key ring's options.
func (o *Options) ring() *keyring.Options {
	return &keyring.Options{Root: o.Root, Window: cmp.Or(o.DestroyWindow, 24*time.Hour), Now: o.Now}
}

func isFile(path string) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular():
		return ErrNoStore
	case err != nil:
		return fmt.Errorf("preset: store: %w", bare(err))
	}
	return nil
}

// Close closes what OpenDesk opened.
func (d *Desk) Close() error {
	var errs []error
	if d.ring != nil {
		errs = append(errs, d.ring.Close())
	}
	if d.db != nil {
		errs = append(errs, d.db.Close())
	}
	return errors.Join(errs...)
}
