package backup_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/queue"
)

// check ends an example.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// A host with parts of its own wires a backup by hand; preset.System.Backup and preset.Restore do it in one call.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example-")
	check(err)
	defer os.RemoveAll(dir)
	in := func(name string) string { return filepath.Join(dir, name) }
	openDB := func(name string) *sql.DB {
		db, err := sql.Open("sqlite", "file:"+in(name)+sqldbtest.Safe)
		check(err)
		return db
	}
	db := openDB("mail.db")
	defer db.Close()
	ring, err := keyring.OpenFile(in("mail.key"), nil)
	check(err)
	defer ring.Close()
	_, err = queue.New(ctx, db, ring, nil)
	check(err)
	shares, err := ring.Split(ctx, 2, 3) // for three custodians
	check(err)

	var sealed bytes.Buffer
	made, err := backup.Write(ctx, &sealed, &backup.Set{DB: db, Ring: ring})
	check(err)

	// On another machine, with two of the custodians.
	root, err := keyring.Join(shares[2], shares[0])
	check(err)
	open := func(_ context.Context, wrapped []byte) ([]byte, error) { return keyring.OpenBackupKey(root, wrapped) }
	back := openDB("back.db")
	defer back.Close()
	told, err := backup.Restore(ctx, &sealed, open, &backup.Target{
		DB:    back,
		Ring:  func(ctx context.Context, r io.Reader) error { return keyring.Restore(ctx, in("back.key"), r) },
		Adopt: queue.Adopt,
	})
	check(err)
	mark, err := backup.Pending(ctx, back)
	check(err)
	fmt.Println(told.ID == made.ID, mark.Backup == made.ID)
	check(backup.Declare(ctx, back, time.Now()))
	mark, err = backup.Pending(ctx, back)
	check(err)
	fmt.Println(mark == nil)
	// Output:
	// true true
	// true
}
