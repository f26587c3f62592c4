package keyring_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
