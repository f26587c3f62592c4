package timestamp_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/postseal/postseal/securemail/audit/timestamp"
)

// A host gives the log a Client as audit.Options.Stamper; the log calls Stamp once a day and stores the token.
func ExampleClient_Stamp() {
	t := &testing.T{}
	tsa, server := newFar(t) // stands for a TSA on the network
	defer server.Close()

	c, err := timestamp.New(server.URL, tsa.roots, &timestamp.Options{InsecureLoopbackHTTP: true})
	if err != nil {
		panic(err)
	}
	defer c.Close()
	digest := sha256.Sum256([]byte("the first checkpoint of the day"))
	token, err := c.Stamp(context.Background(), digest)
	if err != nil {
		panic(err)
	}

	// Years later, offline:
	stamp, err := timestamp.Verify(token, digest, tsa.roots)
	if err != nil {
		panic(err)
	}
	fmt.Println("existed at", stamp.Time, "says", stamp.Signer.Subject)
	_, err = timestamp.Verify(token, sha256.Sum256([]byte("another checkpoint")), tsa.roots)
	fmt.Println(err)
	// Output:
	// existed at 2026-03-01 12:00:00 +0000 UTC says CN=TSA
	// timestamp: token does not hold: of another digest
}
