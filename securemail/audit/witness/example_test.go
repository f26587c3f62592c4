package witness_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/audit/witness"
)

// A host gives the log its witnesses, as audit.Options.Witnesses; the log then calls Cosign for each checkpoint.
func ExampleNew() {
	log := newTree(&testing.T{}).grow(3, "entry")
	far := &far{cosigner: newCosigner("witness.example", 1), logs: map[string]note.Verifier{origin: log.verifier}, has: map[string]treeHead{}}
	server := httptest.NewServer(far)
	defer server.Close()

	w, err := witness.New(server.URL+"/w", far.vkey(), &witness.Options{InsecureLoopbackHTTP: true})
	if err != nil {
		panic(err)
	}
	defer w.Close()
	checkpoint := log.checkpoint(&testing.T{})
	lines, err := w.Cosign(context.Background(), audit.WitnessRequest{Checkpoint: checkpoint})
	if err != nil {
		panic(err)
	}
	n, err := note.Open(append(checkpoint, lines...), note.VerifierList(log.verifier, w.Verifier()))
	if err != nil {
		panic(err)
	}
	for _, s := range n.Sigs {
		fmt.Println("signed by", s.Name)
	}
	// Output:
	// signed by log.test/1
	// signed by witness.example
}

// An outsider checks a checkpoint offline, by a file that says whom he trusts.
func ExampleParsePolicy() {
	log, w := newTree(&testing.T{}).grow(3, "entry"), newCosigner("witness.example", 1)
	checkpoint := string(log.checkpoint(&testing.T{}))
	text, _, _ := strings.Cut(checkpoint, "\n\n")

	p, err := witness.ParsePolicy([]byte("log " + logKeys(&testing.T{}, 1)[0] + `
witness university ` + w.vkey() + `
quorum university
`))
	if err != nil {
		panic(err)
	}
	_, err = p.Verify([]byte(checkpoint))
	fmt.Println(err)
	v, err := p.Verify([]byte(checkpoint + w.sign(text+"\n")))
	fmt.Println(v.Origin, v.Size, len(v.Cosigned), err)
	// Output:
	// witness: policy: cosigned by 0 of its witnesses, and the quorum wants others or more
	// log.test/1 3 1 <nil>
}
