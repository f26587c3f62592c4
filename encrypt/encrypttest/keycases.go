package encrypttest

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"

	"github.com/postseal/postseal/internal/kit"
	"github.com/postseal/postseal/securemail"
)

// The rules for a KeySource.
const (
	ruleKeyFound   = "a key that is there is given, whole and of the method asked for (securemail.Key)"
	ruleKeyNone    = "surely no key, and another method, is ErrNoKey (securemail.KeySource)"
	ruleKeyUnknown = "not known right now is never \"there is none\" (securemail.KeySource, KeyState)"
	ruleKeyPending = "a changed key that waits for approval is ErrPending, and is not given (securemail.KeySource)"
	ruleKeyTenant  = "a tenant's keys are for that tenant alone (securemail.Lookup)"
	ruleKeySilent  = "errors and logs carry no address (securemail.KeySource, STYLE)"
	ruleKeyMany    = "it is called from many goroutines (securemail.KeySource)"
)

// keyCases are all cases for a KeySource.
func keyCases(h KeyHarness) []testcase {
	var cases []testcase
	add := func(name string, s KeyState, run func(b *keyBench)) {
		cases = append(cases, testcase{"keys/" + name, func(c *checker) { run(c.keyBench(h, s)) }})
	}
	add("found", KeyFound, func(b *keyBench) { b.found() })
	add("none", KeyNone, func(b *keyBench) { b.none("no key", b.lookup) })
	add("other address", KeyFound, func(b *keyBench) {
		b.none("another address", b.with(func(l *securemail.Lookup) { l.Address = b.other }))
	})
	add("other domain", KeyFound, func(b *keyBench) { b.otherDomain() })
	add("other method", KeyFound, func(b *keyBench) {
		b.none("another method", b.with(func(l *securemail.Lookup) { l.Method = "x-other" }))
		b.none("no method", b.with(func(l *securemail.Lookup) { l.Method = "" }))
	})
	add("other tenant", KeyFound, func(b *keyBench) { b.otherTenant() })
	add("dead", KeyDead, func(b *keyBench) { b.unknown() })
	add("damaged", KeyDamaged, func(b *keyBench) { b.unknown() })
	add("pending", KeyPending, func(b *keyBench) { b.pending() })
	add("cancelled", KeyFound, func(b *keyBench) { b.cancelled() })
	add("another behind", KeyFound, func(b *keyBench) { b.behind() })
	add("nothing asked", KeyFound, func(b *keyBench) { b.ask(b.c.Ctx, securemail.Lookup{}) })
	add("concurrent", KeyFound, func(b *keyBench) { b.concurrent() })
	return append(cases, testcase{"keys/some fault is shown", func(c *checker) { c.someFault(h) }})
}

// keyBench is one source and what is asked of it.
type keyBench struct {
	*KeyRig
	c      *checker
	words  canaries
	logs   *kit.Capture
	lookup securemail.Lookup
	other  securemail.Address
}

func (c *checker) keyBench(h KeyHarness, s KeyState) *keyBench {
	words := newCanaries()
	b := &keyBench{c: c, words: words, logs: kit.NewCapture()}
	b.lookup = securemail.Lookup{
		Tenant: "tenant-1", Method: securemail.MethodPGP,
		Sender:  securemail.Mailbox(words[placeSender].word + "@sender.example").Address,
		Address: securemail.Mailbox(words[placeRecipient].word + "@recipient.example").Address,
	}
	b.other = securemail.Mailbox(words[placeBcc].word + "@recipient.example").Address
	if h.New == nil {
		c.Stopf(ruleHarness, "KeyHarness.New is nil")
	}
	r, err := h.New(c.Ctx, KeySetup{State: s, Lookup: b.lookup, Other: b.other, Logger: slog.New(b.logs)})
	switch {
	case errors.Is(err, errors.ErrUnsupported) && s != KeyFound && s != KeyNone:
		c.Skipf("%s", strings.TrimSuffix(err.Error(), ": "+errors.ErrUnsupported.Error()))
	case err != nil:
		c.Stopf(ruleHarness, "the harness can't build %s: %v", s, err)
	case r == nil || r.Source == nil:
		c.Stopf(ruleHarness, "the rig for %s has no Source", s)
	}
	if r.Close != nil {
		c.Closes(r.Close)
	}
	b.KeyRig = r
	return b
}

// with is the lookup, edited.
func (b *keyBench) with(edit func(*securemail.Lookup)) securemail.Lookup {
	l := b.lookup
	edit(&l)
	return l
}

// ask asks and checks what holds for every answer.
func (b *keyBench) ask(ctx context.Context, l securemail.Lookup) (found []securemail.Key, err error) {
	defer func() {
		if p := recover(); p != nil {
			b.c.Failf(ruleNoPanic, "Keys: panic: %s", kit.PanicText(p))
			err = errPanic
		}
	}()
	found, err = b.Source.Keys(ctx, l)
	text := errorText(err) + b.logs.Text()
	if b.c.Fallback != nil {
		text += b.c.Fallback.Text()
	}
	for _, k := range found {
		text += " " + k.Origin + " " + k.Fingerprint + " " + strings.Join(k.Capabilities, " ")
	}
	if places := b.words.found(text); len(places) > 0 {
		b.c.Failf(ruleKeySilent, "in an error, a log or a label: %s", strings.Join(places, ", "))
	}
	if err != nil && len(found) > 0 {
		b.c.Failf(ruleKeyFound, "an error and keys")
	}
	if errors.Is(err, securemail.ErrNoKey) && oneOf(err, securemail.ErrPending, context.Canceled, context.DeadlineExceeded) {
		b.c.Failf(ruleKeyUnknown, "ErrNoKey and another answer in one")
	}
	return found, err
}

func (b *keyBench) found() {
	found, err := b.ask(b.c.Ctx, b.lookup)
	if err != nil || len(found) == 0 {
		b.c.Stopf(ruleKeyFound, "%d keys, %v", len(found), err)
	}
	for _, k := range found {
		_, bad := hex.DecodeString(k.Fingerprint)
		switch {
		case k.Method != b.lookup.Method:
			b.c.Failf(ruleKeyFound, "a key of another method")
		case k.Fingerprint == "" || bad != nil || k.Fingerprint != strings.ToLower(k.Fingerprint):
			b.c.Failf(ruleKeyFound, "the fingerprint is not lower-case hex")
		case k.Origin == "":
			b.c.Failf(ruleKeyFound, "no Origin")
		case len(k.Public) == 0 || len(k.Public[0]) == 0:
			b.c.Failf(ruleKeyFound, "no public key")
		case k.Trust > securemail.TrustPinned:
			b.c.Failf(ruleKeyFound, "no known Trust")
		}
	}
}

func (b *keyBench) none(what string, l securemail.Lookup) {
	found, err := b.ask(b.c.Ctx, l)
	if !errors.Is(err, securemail.ErrNoKey) {
		b.c.Failf(ruleKeyNone, "%s: %d keys, %v", what, len(found), err)
	}
}

func (b *keyBench) otherDomain() {
	b.none("another domain", b.with(func(l *securemail.Lookup) {
		l.Address = securemail.Mailbox(b.words[placeRecipient].word + "@elsewhere.example").Address
	}))
}

func (b *keyBench) otherTenant() {
	if b.SharedTenants {
		b.c.Skipf("the source knows no tenants")
	}
	for _, tenant := range []string{"tenant-2", ""} {
		found, err := b.ask(b.c.Ctx, b.with(func(l *securemail.Lookup) { l.Tenant = tenant }))
		if !errors.Is(err, securemail.ErrNoKey) {
			b.c.Failf(ruleKeyTenant, "tenant %q: %d keys, %v", tenant, len(found), err)
		}
	}
}

// asks is how often the same is asked, so that what a source remembers shows.
const asks = 3

// unknown: an error that is neither ErrNoKey nor ErrPending, or no keys without an error.
func (b *keyBench) unknown() {
	for i := range asks {
		found, err := b.ask(b.c.Ctx, b.lookup)
		if len(found) > 0 || oneOf(err, securemail.ErrNoKey, securemail.ErrPending) {
			b.c.Failf(ruleKeyUnknown, "asked %d times: %d keys, %v", i+1, len(found), err)
		}
	}
}

func (b *keyBench) pending() {
	for i := range asks {
		found, err := b.ask(b.c.Ctx, b.lookup)
		if len(found) > 0 || !errors.Is(err, securemail.ErrPending) {
			b.c.Failf(ruleKeyPending, "asked %d times: %d keys, %v", i+1, len(found), err)
		}
	}
}

// cancelled: a look-up that was stopped knows nothing, and leaves nothing for the next.
func (b *keyBench) cancelled() {
	ctx, cancel := context.WithCancel(b.c.Ctx)
	cancel()
	if _, err := b.ask(ctx, b.lookup); oneOf(err, securemail.ErrNoKey, securemail.ErrPending) {
		b.c.Failf(ruleKeyUnknown, "an ended ctx is taken for an answer")
	}
	if _, err := b.ask(b.c.Ctx, b.lookup); err != nil {
		b.c.Failf(ruleKeyUnknown, "asked again behind an ended ctx: %v", err)
	}
}

// behind: what one look-up found is not the answer to another, nor its "none" that of the first.
func (b *keyBench) behind() {
	b.found()
	b.none("another method behind", b.with(func(l *securemail.Lookup) { l.Method = "x-other" }))
	b.none("another address behind", b.with(func(l *securemail.Lookup) { l.Address = b.other }))
	b.found()
	if !b.SharedTenants {
		b.otherTenant()
		b.found()
	}
}

func (b *keyBench) concurrent() {
	const n = 16
	want, err := b.ask(b.c.Ctx, b.lookup)
	if err != nil {
		b.c.Stopf(ruleKeyFound, "%v", err)
	}
	got, errs := make([][]securemail.Key, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			defer func() {
				if recover() != nil {
					errs[i] = errPanic
				}
			}()
			got[i], errs[i] = b.Source.Keys(b.c.Ctx, b.lookup)
		})
	}
	wg.Wait()
	for i := range n {
		if errs[i] != nil || !reflect.DeepEqual(got[i], want) {
			b.c.Stopf(ruleKeyMany, "goroutine %d got another answer, or %v", i, errs[i])
		}
	}
}

// someFault: a harness that can show neither a dead nor a damaged source has left the most important rule out.
func (c *checker) someFault(h KeyHarness) {
	for _, s := range []KeyState{KeyDead, KeyDamaged} {
		sub := runCase(c.Ctx, testcase{c.Name, func(c *checker) { c.keyBench(h, s) }}, nil)
		if sub.Skip == "" {
			return
		}
	}
	c.Failf(ruleHarness, "the harness shows the source neither dead nor damaged")
}
