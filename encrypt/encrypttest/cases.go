package encrypttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/kit"
	"github.com/postseal/postseal/securemail"
)

// encryptorCases are all cases for an Encryptor.
func encryptorCases(h Harness) []testcase {
	var cases []testcase
	add := func(name string, run func(b *bench)) {
		cases = append(cases, testcase{name, func(c *checker) { run(c.bench(h)) }})
	}
	for _, s := range newCanaries().shapes() {
		add("shape/"+s.name, func(b *bench) { b.seal(b.message(b.shape(s.name))) })
	}
	add("recipient/Bcc", func(b *bench) { b.toBcc() })
	add("recipient/alone", func(b *bench) { b.seal(b.message(b.edited(func(s *shape) { s.to = "<" + b.recipient + ">" }))) })
	add("key/none", func(b *bench) { b.refuses("no key") })
	add("key/other method", func(b *bench) { b.refuses("other method", b.otherMethod()) })
	add("key/octets", func(b *bench) { b.brokenKeys() })
	add("key/unusable", func(b *bench) { b.unusableKeys() })
	add("key/one of several", func(b *bench) { b.oneOfSeveral() })
	add("method", func(b *bench) { b.method() })
	add("concurrent", func(b *bench) { b.concurrent() })
	add("repeat", func(b *bench) { b.repeat() })
	add("undo/unknown", func(b *bench) { b.undoUnknown() })
	add("undo/known", func(b *bench) { b.undoKnown() })
	add("fresh", func(b *bench) { b.fresh() })
	add("integrity", func(b *bench) { b.integrity() })
	add("cancel", func(b *bench) { b.cancelled() })
	cases = append(cases, testcase{"only he", func(c *checker) { c.bench(h).onlyHe(h) }})
	add("length", func(b *bench) { b.length() })
	add("large", func(b *bench) { b.large() })
	add("source/closed", func(b *bench) { b.closes() })
	add("source/fails", func(b *bench) { b.failingSource() })
	return cases
}

// shape finds a shape with this bench's canaries.
func (b *bench) shape(name string) shape {
	all := b.words.shapes()
	return all[slices.IndexFunc(all, func(s shape) bool { return s.name == name })]
}

func (b *bench) edited(edit func(*shape)) shape {
	s := b.shape("text")
	edit(&s)
	return s
}

func (b *bench) text() *securemail.Message { return b.message(b.shape("text")) }

// toBcc: the visible header names others; he is not shown to them, nor they to an onlooker of his copy.
func (b *bench) toBcc() {
	m := b.message(b.edited(func(s *shape) { s.to = "Second <second@recipient.example>" }))
	s := b.seal(m)
	if !b.Plain && (strings.Contains(string(s.Message.Head()), "second@") || strings.Contains(string(s.Message.Head()), "third@")) {
		b.c.Failf(ruleBcc, "the outside of a Bcc recipient's copy names other recipients")
	}
}

// needsKeys skips the case where the method needs none.
func (b *bench) needsKeys() {
	if b.Keys == nil {
		b.c.Skipf("the method needs no recipient key")
	}
}

// seals skips the case where the method seals nothing.
func (b *bench) seals() {
	if b.Plain {
		b.c.Skipf("the method seals nothing")
	}
}

// refuses: with these keys alone the answer is ErrNoKey.
func (b *bench) refuses(what string, keys ...securemail.Key) {
	b.needsKeys()
	j := b.job(b.text())
	j.Keys = keys
	_, err := b.encrypt(b.c.Ctx, j)
	if !errors.Is(err, securemail.ErrNoKey) {
		b.c.Failf(ruleNoKey, "%s: %v", what, err)
	}
	if oneOf(err, securemail.ErrHold, securemail.ErrPending, securemail.ErrChannel) {
		b.c.Failf(ruleNoKey, "%s: the error Is another one as well", what)
	}
}

func (b *bench) otherMethod() securemail.Key {
	b.needsKeys()
	k := copyKey(b.Keys[0])
	k.Method = "x-other"
	return k
}

// brokenKeys are octets that no key has; they must neither pass nor panic.
func (b *bench) brokenKeys() {
	b.needsKeys()
	good := b.Keys[0]
	if len(good.Public) == 0 || len(good.Public[0]) < 16 {
		b.c.Skipf("the method's keys are not octets")
	}
	raw := good.Public[0]
	broken := map[string][][]byte{
		"nothing": nil, "empty": {{}}, "zeros": {make([]byte, 64)}, "text": {[]byte(b.words[placeRecipient].word)},
		"cut": {raw[:len(raw)/2]}, "cut short": {raw[:7]}, "last octet gone": {raw[:len(raw)-1]}, "reversed": {reversed(raw)},
		"huge": {bytes.Repeat(raw, 1+(2<<20)/len(raw))},
	}
	for _, what := range slices.Sorted(maps.Keys(broken)) {
		k := copyKey(good)
		k.Public = broken[what]
		b.refuses(what, k)
	}
	k := copyKey(good)
	k.Fingerprint = strings.Repeat("0", len(k.Fingerprint))
	b.refuses("another key's fingerprint", k)
}

func reversed(in []byte) []byte {
	out := bytes.Clone(in)
	slices.Reverse(out)
	return out
}

func (b *bench) unusableKeys() {
	b.needsKeys()
	if len(b.Unusable) == 0 {
		b.c.Skipf("the harness gave no unusable keys")
	}
	for _, what := range slices.Sorted(maps.Keys(b.Unusable)) {
		b.refuses(what, copyKey(b.Unusable[what]))
	}
}

// oneOfSeveral: a key that can't be used does not spoil the others, and is not named.
func (b *bench) oneOfSeveral() {
	b.needsKeys()
	bad := copyKey(b.Keys[0])
	bad.Public, bad.Fingerprint = [][]byte{make([]byte, 64)}, strings.Repeat("ab", 20)
	j := b.job(b.text())
	j.Keys = append([]securemail.Key{bad, b.otherMethod()}, j.Keys...)
	s, err := b.encrypt(b.c.Ctx, j)
	if err != nil {
		b.c.Stopf(ruleNoKey, "a usable key is there: %v", err)
	}
	if slices.Contains(s.Keys, bad.Fingerprint) {
		b.c.Failf(ruleKeys, "a key that can't be used is named")
	}
	b.judge(j, s)
}

func (b *bench) method() {
	m := b.Encryptor.Method()
	b.seal(b.text())
	if m == "" || m != b.Encryptor.Method() {
		b.c.Failf(ruleMethod, "empty, or not constant")
	}
	for _, k := range b.Keys {
		if k.Method != m {
			b.c.Failf(ruleMethod, "the rig's keys are of another method")
		}
	}
}

// concurrent: each goroutine has a message of its own, and gets its own back. All are made to stand at the end of their
// message at the same time, so that what is kept between reading and sealing is mixed up at once.
func (b *bench) concurrent() {
	const n = 8
	g := newGate(n)
	jobs, sealed, errs := make([]*securemail.Job, n), make([]*securemail.Sealed, n), make([]error, n)
	for i := range n {
		raw := b.edited(func(s *shape) { s.body += strings.Repeat("!", i) }).raw(b.words, b.recipient, b.from.Address.Reveal())
		m, err := securemail.NewMessage(&gated{g, strings.Replace(raw, "<1.2.3@", "<1.2."+strings.Repeat("1", i+1)+"@", 1)})
		if err != nil {
			b.c.Stopf(ruleHarness, "the kit's own message: %v", err)
		}
		jobs[i] = b.job(m)
		jobs[i].Keys = jobs[0].Keys // one KeySource's answer
	}
	g.arm()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			defer func() {
				if recover() != nil {
					errs[i] = errPanic
				}
			}()
			sealed[i], errs[i] = b.Encryptor.Encrypt(b.c.Ctx, jobs[i])
		})
	}
	wg.Wait()
	for i := range n {
		if errs[i] != nil || sealed[i] == nil || sealed[i].Message == nil {
			b.c.Stopf(ruleConcurrent, "goroutine %d: %v", i, errs[i])
		}
		b.judge(jobs[i], sealed[i])
	}
}

// left asks the harness; a rig that leaves nothing has 0.
func (b *bench) left(id securemail.ParcelID) int {
	if b.Left == nil {
		return 0
	}
	n, err := b.Left(b.c.Ctx, id)
	if err != nil {
		b.c.Stopf(ruleHarness, "Left: %v", err)
	}
	return n
}

func (b *bench) repeat() {
	j := b.job(b.text())
	for range 3 {
		s, err := b.encrypt(b.c.Ctx, j)
		if err != nil {
			b.c.Stopf(ruleRepeat, "%v", err)
		}
		b.judge(j, s)
	}
	if n := b.left(j.ID); n > 1 {
		b.c.Failf(ruleRepeat, "%d things were left behind", n)
	}
	if b.Keys == nil {
		return
	}
	j.Keys = nil // removed since: what was good for an earlier attempt is none for this one
	if _, err := b.encrypt(b.c.Ctx, j); !errors.Is(err, securemail.ErrNoKey) {
		b.c.Failf(ruleNoKey, "a repeat without keys: %v", err)
	}
}

func (b *bench) undo(id securemail.ParcelID) {
	defer func() {
		if p := recover(); p != nil {
			b.c.Failf(ruleNoPanic, "Undo: panic: %s", kit.PanicText(p))
		}
	}()
	if err := b.Encryptor.Undo(b.c.Ctx, id); err != nil {
		b.c.Failf(ruleUndo, "%v", err)
		b.silent(err)
	}
}

func (b *bench) undoUnknown() {
	b.undo("")
	b.undo("00000000000000000000000000")
}

func (b *bench) undoKnown() {
	j, other := b.job(b.text()), b.job(b.text())
	s, err := b.encrypt(b.c.Ctx, j)
	if err != nil {
		b.c.Stopf(ruleResult, "%v", err)
	}
	kept, err := b.encrypt(b.c.Ctx, other)
	if err != nil {
		b.c.Stopf(ruleResult, "%v", err)
	}
	b.undo(j.ID)
	b.undo(j.ID)
	b.judge(other, kept) // another parcel is not touched
	if b.Left == nil {
		return
	}
	if b.left(j.ID) != 0 {
		b.c.Failf(ruleUndo, "something is left behind")
	}
	if m, err := b.Open(b.c.Ctx, s.Message); err == nil && m != nil {
		b.c.Failf(ruleUndo, "what was undone can still be opened")
	}
}

// fresh: no session key, salt or boundary is used twice.
func (b *bench) fresh() {
	b.seals()
	m := b.text()
	first, second := b.seal(m), b.seal(m)
	if bytes.Equal(octets(b.c, first.Message.Body()), octets(b.c, second.Message.Body())) {
		b.c.Failf(ruleFresh, "two parcels have the same sealed body")
	}
}

// integrity flips octets all over the body: what opens at all must be the original.
func (b *bench) integrity() {
	b.seals()
	m := b.text()
	s := b.seal(m)
	wire := octets(b.c, s.Message)
	start := len(s.Message.Head())
	step := max(1, (len(wire)-start)/97)
	for i := start; i < len(wire); i += step {
		if wire[i] == '\r' || wire[i] == '\n' {
			continue
		}
		b.flipped(m, wire, i)
	}
}

func (b *bench) flipped(original *securemail.Message, wire []byte, i int) {
	changed := bytes.Clone(wire)
	if changed[i]++; wire[i] == 'z' || wire[i] == 'Z' || wire[i] == '9' || wire[i] == '~' {
		changed[i] = 'A'
	}
	m, err := securemail.NewMessage(securemail.Bytes(changed))
	if err != nil {
		return
	}
	back, err := b.Open(b.c.Ctx, m)
	if err != nil || back == nil {
		return
	}
	if !bytes.Equal(octets(b.c, back.Body()), octets(b.c, original.Body())) ||
		!slices.Equal(back.Header("Subject"), original.Header("Subject")) {
		b.c.Stopf(ruleIntegrity, "changed at octet %d, it opens as another message", i)
	}
}

func (b *bench) cancelled() {
	ctx, cancel := context.WithCancel(b.c.Ctx)
	cancel()
	start := time.Now()
	_, err := b.encrypt(ctx, b.job(b.text()))
	if !errors.Is(err, context.Canceled) {
		b.c.Failf(ruleCancel, "%v", err)
	}
	if oneOf(err, securemail.ErrNoKey, securemail.ErrHold) {
		b.c.Failf(ruleNotNoKey, "an ended ctx is taken for a missing key or a hold")
	}
	if d := time.Since(start); d > 5*time.Second {
		b.c.Failf(ruleCancel, "took %v", d)
	}
}

// flaky gives its text once and then fails, in the middle or at Open.
type flaky struct {
	mu   sync.Mutex // guards left
	left int
	text string
	open bool // fail at Open
}

var errDisk = errors.New("disk gone")

func (f *flaky) Size() int64 { return int64(len(f.text)) }

func (f *flaky) Open() (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left >= 0 {
		return io.NopCloser(strings.NewReader(f.text)), nil
	}
	if f.open {
		return nil, errDisk
	}
	return io.NopCloser(io.MultiReader(strings.NewReader(f.text[:len(f.text)-5]), brokenReader{})), nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errDisk }

func (b *bench) failingSource() {
	b.seals()
	raw := b.shape("long body").raw(b.words, b.recipient, b.from.Address.Reveal())
	for _, atOpen := range []bool{true, false} {
		m, err := securemail.NewMessage(&flaky{left: 1, text: raw, open: atOpen})
		if err != nil {
			b.c.Stopf(ruleHarness, "the kit's own source: %v", err)
		}
		_, err = b.encrypt(b.c.Ctx, b.job(m))
		if err == nil {
			b.c.Failf(ruleSource, "a message that can't be read was sealed")
		}
		if oneOf(err, securemail.ErrNoKey, securemail.ErrHold) {
			b.c.Failf(ruleNotNoKey, "a message that can't be read is taken for a missing key or a hold")
		}
	}
}
