package witness_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/cosign"
)

// cosigner makes cosignatures of https://c2sp.org/tlog-cosignature.
type cosigner struct {
	name string
	key  ed25519.PrivateKey
	now  func() time.Time
}

func newCosigner(name string, seed byte) *cosigner {
	return &cosigner{name, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)), time.Now}
}

func (c *cosigner) typed() []byte {
	return append([]byte{4}, c.key.Public().(ed25519.PublicKey)...)
}

func (c *cosigner) vkey() string {
	return fmt.Sprintf("%s+%08x+%s", c.name, cosign.KeyHash(c.name, c.typed()), base64.StdEncoding.EncodeToString(c.typed()))
}

func (c *cosigner) sign(text string) string {
	at := c.now()
	b := binary.BigEndian.AppendUint32(nil, cosign.KeyHash(c.name, c.typed()))
	b = binary.BigEndian.AppendUint64(b, uint64(at.Unix()))
	b = append(b, ed25519.Sign(c.key, []byte(fmt.Sprintf("cosignature/v1\ntime %d\n%s", at.Unix(), text)))...)
	return "— " + c.name + " " + base64.StdEncoding.EncodeToString(b) + "\n"
}

// far is a witness, written from https://c2sp.org/tlog-witness.
type far struct {
	*cosigner
	logs map[string]note.Verifier // by origin

	mu   sync.Mutex // guards what follows
	has  map[string]treeHead
	told int // requests
}

func newFar(t testing.TB, seed byte, logs ...note.Verifier) (*far, *httptest.Server) {
	f := &far{cosigner: newCosigner(fmt.Sprintf("witness.test/%d", seed), seed), logs: map[string]note.Verifier{}, has: map[string]treeHead{}}
	for _, l := range logs {
		f.logs[l.Name()] = l
	}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, s
}

func (f *far) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told++
	if r.Method != http.MethodPost || r.URL.Path != "/w/add-checkpoint" {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	head, cp, ok := strings.Cut(string(body), "\n\n")
	lines := strings.Split(head, "\n")
	old, err := strconv.ParseInt(strings.TrimPrefix(lines[0], "old "), 10, 64)
	if !ok || err != nil || lines[0] != fmt.Sprintf("old %d", old) || len(lines) > 64 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var proof tlog.TreeProof
	for _, line := range lines[1:] {
		h, err := tlog.ParseHash(line)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		proof = append(proof, h)
	}
	origin, _, _ := strings.Cut(cp, "\n")
	v := f.logs[origin]
	if v == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	n, err := note.Open([]byte(cp), note.VerifierList(v))
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	f.decide(w, n.Text, origin, old, proof)
}

func (f *far) decide(w http.ResponseWriter, text, origin string, old int64, proof tlog.TreeProof) {
	lines := strings.Split(text, "\n")
	size, err1 := strconv.ParseInt(lines[1], 10, 64)
	hash, err2 := tlog.ParseHash(lines[2])
	have := f.has[origin]
	switch {
	case err1 != nil || err2 != nil || old > size:
		w.WriteHeader(http.StatusBadRequest)
	case old != have.N:
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintf(w, "%d\n", have.N)
	case !continues(have, tlog.Tree{N: size, Hash: hash}, proof):
		w.WriteHeader(http.StatusUnprocessableEntity)
	default:
		f.has[origin] = tlog.Tree{N: size, Hash: hash}
		stranger := newCosigner("stranger.test", 25)
		_, _ = io.WriteString(w, stranger.sign(text)+f.sign(text))
	}
}

func continues(have, now tlog.Tree, proof tlog.TreeProof) bool {
	switch {
	case have.N == 0:
		return len(proof) == 0
	case have.N == now.N:
		return len(proof) == 0 && have.Hash == now.Hash
	}
	return tlog.CheckTree(proof, now.N, now.Hash, have.N, have.Hash) == nil
}

type treeHead = tlog.Tree
