package keys_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/postseal/postseal/encrypt/keys"
	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
)

// A folder with one key, and the index that says whose it is.
func ExampleFile() {
	anna := securemail.Mailbox("anna@example.org").Address
	_, key, err := pgp.GenerateKey("Anna", anna)
	if err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "keys")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	index := `[{"address": "anna@example.org", "method": "pgp", "file": "1.pgp"}]`
	for name, b := range map[string][]byte{"1.pgp": key.Public[0], keys.IndexName: []byte(index)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			panic(err)
		}
	}

	pinned, err := keys.File(dir, map[securemail.Method]keys.Parser{securemail.MethodPGP: pgp.ParseKey})
	if err != nil {
		panic(err)
	}
	source := keys.Chain(pinned) // stronger sources first
	found, err := source.Keys(context.Background(), securemail.Lookup{Address: anna, Method: securemail.MethodPGP})
	fmt.Println(len(found), found[0].Origin, err)
	// Output: 1 file <nil>
}
