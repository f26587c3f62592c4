package witness_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/securemail/audit/witness"
)

type answer struct {
	status int
	kind   string
	body   string
}

func (a *answer) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Header: http.Header{"Content-Type": {a.kind}}, Body: io.NopCloser(strings.NewReader(a.body)),
	}, nil
}

// FuzzCosign: whatever a witness answers, what counts verifies.
func FuzzCosign(f *testing.F) {
	log, key := newTree(f).grow(4, "entry"), newCosigner("w.test", 1)
	cp := log.checkpoint(f)
	text := string(cp[:strings.Index(string(cp), "\n\n")+1])
	f.Add(200, "", key.sign(text))
	f.Add(200, "", newCosigner("s.test", 2).sign(text)+key.sign(text))
	f.Add(409, "text/x.tlog.size", "3\n")
	f.Add(422, "text/plain", "no\n")
	f.Fuzz(func(t *testing.T, status int, kind, body string) {
		a := &answer{status, kind, body}
		c, err := witness.New("https://w.test", key.vkey(), &witness.Options{Transport: a})
		if err != nil {
			t.Fatal(err)
		}
		lines, err := c.Cosign(t.Context(), log.request(t, 0))
		if err != nil {
			if lines != nil {
				t.Fatal("lines and an error")
			}
			return
		}
		n, err := note.Open(append(cp[:len(cp):len(cp)], lines...), note.VerifierList(log.verifier, c.Verifier()))
		if err != nil || len(n.Sigs) != 2 {
			t.Fatalf("not verified: %v", err)
		}
	})
}

// FuzzParsePolicy: a policy that can be read is as strict as it says, and judges any checkpoint without a panic.
func FuzzParsePolicy(f *testing.F) {
	w, l := newCosigner("w.test", 1), newCosigner(origin, 2)
	f.Add("log "+l.vkey()+"\nwitness a "+w.vkey()+" https://w.test\ngroup g 1 a\nquorum g\n", string(newTree(f).checkpoint(f)))
	f.Add("quorum none", "a\n1\nAAAA\n\n")
	f.Fuzz(func(t *testing.T, policy, cp string) {
		p, err := witness.ParsePolicy([]byte(policy))
		if err != nil {
			return
		}
		v, err := p.Verify([]byte(cp))
		if err == nil && (v.Size < 0 || v.Origin == "") {
			t.Fatal("a checkpoint without a log or size")
		}
	})
}
