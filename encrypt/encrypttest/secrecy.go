package encrypttest

import (
	"bytes"
	"crypto/fips140"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/postseal/postseal/securemail"
)

// minFactor is the length, in octets, from which on an access code can't be in a text by chance.
const minFactor = 8

// noFactor looks for the rig's access codes.
func (b *bench) noFactor(text, where string) {
	for _, f := range b.Factors {
		word := strings.ToLower(f.Value.Reveal())
		if len(word) >= minFactor && (canary{word: word}).in(text) {
			b.c.Failf(ruleFactor, "a factor of kind %q is in %s", f.Kind, where)
		}
	}
}

// notDerived looks for the usual digests of what must not be seen.
func (b *bench) notDerived(original *securemail.Message, text, where string) {
	r, err := original.Open()
	if err != nil {
		return // a case of its own
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil {
		return
	}
	lower := strings.ToLower(text)
	for what, secret := range map[string]string{
		"the subject": strings.Join(original.Header("Subject"), ""), "the recipient's address": b.recipient,
		"the body": string(all[min(len(all), len(original.Head())):]), "the message": string(all),
	} {
		if secret == "" {
			continue // the digest of nothing is no secret
		}
		for _, d := range digests([]byte(secret)) {
			enc := base64.StdEncoding.EncodeToString(d)[:12]
			url := base64.URLEncoding.EncodeToString(d)[:12]
			if strings.Contains(lower, hex.EncodeToString(d)[:16]) || strings.Contains(text, enc) || strings.Contains(text, url) {
				b.c.Failf(ruleDerived, "a digest of %s is in %s", what, where)
			}
		}
	}
}

func digests(b []byte) [][]byte {
	d1, d2 := sha256.Sum256(b), sha512.Sum512(b)
	out := [][]byte{d1[:], d2[:]}
	if !fips140.Enforced() { // else these two panic, for an Encryptor as well
		d3, d4 := sha1.Sum(b), md5.Sum(b)
		out = append(out, d3[:], d4[:])
	}
	return out
}

// onlyHe lets another recipient try, with another rig's opener.
func (b *bench) onlyHe(h Harness) {
	b.seals()
	m := b.text()
	s := b.seal(m)
	other := b.c.bench(h)
	for _, k := range other.Keys {
		if slices.ContainsFunc(b.Keys, func(o securemail.Key) bool { return o.Fingerprint == k.Fingerprint }) {
			b.c.Skipf("the harness gives the same keys each time")
		}
	}
	back, err := other.Open(b.c.Ctx, s.Message)
	if err == nil && back != nil && bytes.Equal(octets(b.c, back.Body()), octets(b.c, m.Body())) {
		b.c.Failf(ruleOnlyHe, "another recipient opens it")
	}
}

// length seals two messages of one length, of which one is much easier to compress.
func (b *bench) length() {
	b.seals()
	if b.Notice {
		b.c.Skipf("a notice has no content")
	}
	const lines, slack = 400, 128 // numbers of random size and their padding move it by some octets
	var even, odd strings.Builder
	for range lines {
		even.WriteString(strings.Repeat("a", 52) + "\r\n")
		odd.WriteString(rand.Text() + rand.Text() + "\r\n")
	}
	size := func(text string) int64 {
		return b.seal(b.message(b.edited(func(s *shape) { s.body = text }))).Message.Size()
	}
	if d := size(even.String()) - size(odd.String()); d > slack || d < -slack {
		b.c.Failf(ruleLength, "two messages of one length differ by %d octets when sealed", d)
	}
}

// large is longer than what is usually read at once, or cut off.
func (b *bench) large() {
	text := strings.Repeat(strings.Repeat("x", 62)+"\r\n", (5<<18)/64)
	b.seal(b.message(b.edited(func(s *shape) { s.body += text })))
}

// counted counts its readers that are open.
type counted struct {
	securemail.Source
	open atomic.Int64
}

func (c *counted) Open() (io.ReadCloser, error) {
	r, err := c.Source.Open()
	if err != nil {
		return nil, err
	}
	c.open.Add(1)
	return &countedReader{ReadCloser: r, source: c}, nil
}

type countedReader struct {
	io.ReadCloser
	source *counted
	closed atomic.Bool
}

var errClosed = errors.New("read behind Close")

func (r *countedReader) Read(p []byte) (int, error) {
	if r.closed.Load() {
		return 0, errClosed
	}
	return r.ReadCloser.Read(p)
}

func (r *countedReader) Close() error {
	if r.closed.CompareAndSwap(false, true) {
		r.source.open.Add(-1)
	}
	return r.ReadCloser.Close()
}

// closes: no reader of the message stays open, whether it is sealed or refused.
func (b *bench) closes() {
	raw := b.shape("long body").raw(b.words, b.recipient, b.from.Address.Reveal())
	c := &counted{Source: securemail.Bytes([]byte(raw))}
	m, err := securemail.NewMessage(c)
	if err != nil {
		b.c.Stopf(ruleHarness, "the kit's own source: %v", err)
	}
	b.seal(m)
	if n := c.open.Load(); n != 0 {
		b.c.Failf(ruleClosed, "%d readers are open", n)
	}
}
