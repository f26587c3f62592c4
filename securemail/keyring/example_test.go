package keyring_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
)

// A data key lives as long as all its scopes do.
func Example() {
	ctx := context.Background()
	dir, _ := os.MkdirTemp("", "ring")
	defer os.RemoveAll(dir)
	ring, err := keyring.OpenFile(filepath.Join(dir, "root.key"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ring.Close()

	wrapped, _ := ring.Wrap(ctx, []byte("the key of one message"), "tenant/clinic", "subject/4711")
	key, _ := ring.Unwrap(ctx, wrapped)
	fmt.Printf("%s\n", key)

	proof, _ := ring.Destroy(ctx, "subject/4711")
	_, err = ring.Unwrap(ctx, wrapped)
	fmt.Println(proof.Scope, errors.Is(err, keyring.ErrDestroyed))
	// Output:
	// the key of one message
	// subject/4711 true
}

// Three people keep a share each; any two of them have a lost root key back.
func ExampleFile_Split() {
	ctx := context.Background()
	dir, _ := os.MkdirTemp("", "ring")
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "root.key")
	ring, err := keyring.OpenFile(path, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	shares, _ := ring.Split(ctx, 2, 3)
	fmt.Println(len(shares), string(shares[0])[:32]) // print each on paper of its own
	_ = ring.Close()

	_ = os.Remove(path) // the key file is lost
	_, err = keyring.OpenFile(path, nil)
	fmt.Println(errors.Is(err, keyring.ErrLost))
	key, err := keyring.Join(shares[2], shares[0])
	if err == nil {
		err = keyring.Recover(ctx, path, key)
	}
	fmt.Println(err)
	// Output:
	// 3 postseal share 1 of 3, 2 needed:
	// true
	// <nil>
}

// A copy of the ring is restored; the destructions since are done again from the log.
func ExampleFile_Backup() {
	ctx := context.Background()
	dir, _ := os.MkdirTemp("", "ring")
	defer os.RemoveAll(dir)
	log := &events{}
	ring, _ := keyring.OpenFile(filepath.Join(dir, "root.key"), &keyring.Options{Outbox: log})
	wrapped, _ := ring.Wrap(ctx, []byte("the key of one message"), "subject/4711")
	var copied bytes.Buffer
	_ = ring.Backup(ctx, &copied)
	_, _ = ring.Destroy(ctx, "subject/4711")
	_ = ring.Close()

	restored := filepath.Join(dir, "restored.key")
	_ = os.Rename(filepath.Join(dir, "root.key"), restored) // from its copy, or by Recover
	_ = keyring.Restore(ctx, restored, &copied)
	newest, _ := keyring.ParseState(log.all[1].Detail["state"])
	_, err := keyring.OpenFile(restored, &keyring.Options{Expect: newest})
	_, old := errors.AsType[*keyring.RollbackError](err)
	fmt.Println("older than the log:", old)
	ring, _ = keyring.OpenFile(restored, &keyring.Options{Expect: newest, Restored: true})
	defer ring.Close()
	for _, e := range log.all {
		_, _ = ring.Replay(ctx, e)
	}
	_, err = ring.Unwrap(ctx, wrapped)
	fmt.Println(err)
	// Output:
	// older than the log: true
	// keyring: scope was destroyed
}

// events is an Outbox in memory; a host has its queue.
type events struct{ all []securemail.Event }

func (e *events) Add(_ context.Context, _ *sql.Tx, es ...securemail.Event) error {
	e.all = append(e.all, es...)
	return nil
}
