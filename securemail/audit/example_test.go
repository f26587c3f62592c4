package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// exampleLog is a log in a folder that goes with it.
func exampleLog(ctx context.Context) (*audit.Log, func()) {
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		panic(err)
	}
	log, err := audit.Open(ctx, filepath.Join(dir, "log"), &audit.Options{Origin: "clinic.example/mail"})
	if err != nil {
		panic(err)
	}
	return log, func() { _ = log.Close(); _ = os.RemoveAll(dir) }
}

// The log's owner emits and proves; anyone with the public key verifies.
func Example() {
	ctx := context.Background()
	log, done := exampleLog(ctx)
	defer done()
	_ = log.Emit(ctx, securemail.Event{ID: "ev1", Kind: "delivered", Time: time.Unix(0, 0), By: securemail.Actor{Tenant: "clinic"}})
	proof, _ := log.Prove(ctx, "ev1")

	verifier, _ := note.NewVerifier(log.PublicKey())
	entry, err := audit.Verify(proof, verifier)
	fmt.Println(entry.Event, entry.Kind, err)
	proof[len(proof)/2]++
	_, err = audit.Verify(proof, verifier)
	fmt.Println(err)
	// Output:
	// ev1 delivered <nil>
	// audit: proof does not hold
}
