package encrypttest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/encrypttest"
	"github.com/postseal/postseal/securemail"
)

// shelf is the reference KeySource.
type shelf struct {
	s     encrypttest.KeySetup
	fault string
	calls atomic.Int32

	mu    sync.Mutex // guards known
	known map[string]memory
}

// memory is what a source with a fault in its cache remembers.
type memory struct {
	keys []securemail.Key
	err  error
}

// Keys is lookup behind a cache that some faults have.
func (h *shelf) Keys(ctx context.Context, l securemail.Lookup) ([]securemail.Key, error) {
	place := l.Address.Reveal() + " " + l.Tenant + " " + string(l.Method)
	switch h.fault {
	case "remembers without the tenant":
		place = l.Address.Reveal() + " " + string(l.Method)
	case "remembers without the method":
		place = l.Address.Reveal() + " " + l.Tenant
	case "remembers without the address":
		place = l.Tenant + " " + string(l.Method)
	case "remembers a failure as none", "remembers pending as none", "remembers an ended ctx":
	default:
		return h.lookup(ctx, l)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if m, ok := h.known[place]; ok {
		return m.keys, m.err
	}
	found, err := h.lookup(ctx, l)
	m := memory{found, err}
	if err != nil && (h.is("remembers a failure as none") || h.is("remembers pending as none") && errors.Is(err, securemail.ErrPending)) {
		m.err = securemail.ErrNoKey
	}
	if h.known == nil {
		h.known = map[string]memory{}
	}
	h.known[place] = m
	return found, err
}

func (h *shelf) is(fault string) bool { return h.fault == fault }

func (h *shelf) lookup(ctx context.Context, l securemail.Lookup) ([]securemail.Key, error) {
	if err := ctx.Err(); err != nil {
		if h.is("ctx is none") {
			return nil, securemail.ErrNoKey
		}
		return nil, err
	}
	none := fmt.Errorf("shelf: %w", securemail.ErrNoKey)
	if h.is("panics when nothing is asked") && l.Method == "" && l.Address == (securemail.Address{}) {
		panic("empty")
	}
	if h.is("logs the address") {
		h.s.Logger.Warn("look-up", "address", l.Address.Reveal())
	}
	if h.s.State == encrypttest.KeyDead || h.s.State == encrypttest.KeyDamaged {
		return h.broken(l)
	}
	switch {
	case l.Method != h.s.Lookup.Method && !h.is("any method"):
		return nil, none
	case l.Tenant != h.s.Lookup.Tenant && !h.is("any tenant"):
		return nil, none
	case l.Address == h.s.Other && h.s.State == encrypttest.KeyNone:
		return h.give(l)
	case l.Address != h.s.Lookup.Address && !(h.is("any local part") && l.Address.Domain() == h.s.Lookup.Address.Domain()) &&
		!(h.is("any domain") && l.Address.Domain() != h.s.Lookup.Address.Domain()):
		if h.is("error with the address") {
			return nil, fmt.Errorf("shelf: none for %s: %w", l.Address.Reveal(), securemail.ErrNoKey)
		}
		return nil, none
	case h.s.State == encrypttest.KeyNone && h.is("none is silence"):
		return nil, nil
	case h.s.State == encrypttest.KeyNone:
		return nil, none
	case h.s.State == encrypttest.KeyPending:
		return h.waiting(l)
	}
	return h.give(l)
}

// broken is what a dead or damaged shelf says.
func (h *shelf) broken(l securemail.Lookup) ([]securemail.Key, error) {
	switch {
	case h.is("dead is none") && h.s.State == encrypttest.KeyDead, h.is("damaged is none") && h.s.State == encrypttest.KeyDamaged:
		return nil, fmt.Errorf("shelf: %w", securemail.ErrNoKey)
	case h.is("dead is none at heart"):
		return nil, errors.Join(errors.New("shelf: down"), securemail.ErrNoKey)
	case h.is("dead gives old keys"):
		return h.give(l)
	case h.is("silent when dead"):
		return nil, nil
	}
	return nil, errors.New("shelf: down")
}

func (h *shelf) waiting(l securemail.Lookup) ([]securemail.Key, error) {
	switch {
	case h.is("pending gives the new key"):
		return h.give(l)
	case h.is("pending is none"):
		return nil, securemail.ErrNoKey
	case h.is("pending is none too"):
		return nil, errors.Join(securemail.ErrPending, securemail.ErrNoKey)
	}
	return nil, fmt.Errorf("shelf: %w", securemail.ErrPending)
}

func (h *shelf) give(l securemail.Lookup) ([]securemail.Key, error) {
	k := securemail.Key{
		Method: h.s.Lookup.Method, Fingerprint: "0a", Origin: "shelf", Trust: securemail.TrustPinned, Public: [][]byte{{1}},
	}
	switch h.fault {
	case "method of its own":
		k.Method = "x"
	case "upper-case fingerprint":
		k.Fingerprint = "0A"
	case "no fingerprint":
		k.Fingerprint = ""
	case "no origin":
		k.Origin = ""
	case "no public key":
		k.Public = nil
	case "trust of its own":
		k.Trust = 77
	case "address in a label":
		k.Origin = "shelf " + l.Address.Reveal()
	case "keys and an error":
		return []securemail.Key{k}, errors.New("shelf: perhaps")
	case "another key each time":
		k.Fingerprint = fmt.Sprintf("%04x", h.calls.Add(1))
	}
	return []securemail.Key{k}, nil
}

func shelfHarness(fault string) encrypttest.KeyHarness {
	return encrypttest.KeyHarness{New: func(_ context.Context, s encrypttest.KeySetup) (*encrypttest.KeyRig, error) {
		return &encrypttest.KeyRig{Source: &shelf{s: s, fault: fault}, Close: func() {}}, nil
	}}
}

func TestKeyReferencePasses(t *testing.T) { encrypttest.RunKeys(t, shelfHarness("")) }

func TestSilenceWhenDeadIsAllowed(t *testing.T) {
	require.Empty(t, encrypttest.CheckKeys(t.Context(), shelfHarness("silent when dead")).Failures)
}

func TestKeyMutants(t *testing.T) {
	killed, total := 0, 0
	for _, m := range []struct{ fault, kills string }{
		{"ctx is none", "not known right now"},
		{"panics when nothing is asked", "panic"},
		{"logs the address", "carry no address"},
		{"error with the address", "carry no address"},
		{"address in a label", "carry no address"},
		{"any method", "is ErrNoKey"},
		{"any tenant", "for that tenant alone"},
		{"any local part", "is ErrNoKey"},
		{"any domain", "is ErrNoKey"},
		{"none is silence", "is ErrNoKey"},
		{"dead is none", "not known right now"},
		{"damaged is none", "not known right now"},
		{"dead is none at heart", "not known right now"},
		{"dead gives old keys", "not known right now"},
		{"pending gives the new key", "waits for approval"},
		{"pending is none", "waits for approval"},
		{"pending is none too", "not known right now"},
		{"method of its own", "a key that is there"},
		{"upper-case fingerprint", "a key that is there"},
		{"no fingerprint", "a key that is there"},
		{"no origin", "a key that is there"},
		{"no public key", "a key that is there"},
		{"trust of its own", "a key that is there"},
		{"keys and an error", "a key that is there"},
		{"another key each time", "many goroutines"},
		{"remembers without the tenant", "for that tenant alone"},
		{"remembers without the method", "another method behind"},
		{"remembers without the address", "another address behind"},
		{"remembers a failure as none", "not known right now"},
		{"remembers pending as none", "waits for approval"},
		{"remembers an ended ctx", "behind an ended ctx"},
	} {
		t.Run(m.fault, func(t *testing.T) {
			total++
			if rejected(t, m.kills, encrypttest.CheckKeys(t.Context(), shelfHarness(m.fault))) {
				killed++
			}
		})
	}
	fmt.Printf("encrypttest: %d/%d broken key sources rejected\n", killed, total)
	require.Equal(t, total, killed)
}

func TestKeyHarnessIsChecked(t *testing.T) {
	only := func(states ...encrypttest.KeyState) encrypttest.KeyHarness {
		return encrypttest.KeyHarness{New: func(_ context.Context, s encrypttest.KeySetup) (*encrypttest.KeyRig, error) {
			for _, w := range states {
				if w == s.State {
					return &encrypttest.KeyRig{Source: &shelf{s: s}, SharedTenants: true}, nil
				}
			}
			return nil, fmt.Errorf("no such state: %w", errors.ErrUnsupported)
		}}
	}
	r := encrypttest.CheckKeys(t.Context(), only(encrypttest.KeyFound, encrypttest.KeyNone, encrypttest.KeyDead))
	require.Empty(t, r.Failures)
	require.Len(t, r.Skipped, 3, "damaged, pending and tenants: %s", strings.Join(r.Skipped, "; "))
	r = encrypttest.CheckKeys(t.Context(), only(encrypttest.KeyFound, encrypttest.KeyNone))
	require.Len(t, r.Failures, 1)
	require.Contains(t, r.Failures[0].Detail, "neither dead nor damaged")
	require.NotEmpty(t, encrypttest.CheckKeys(t.Context(), only(encrypttest.KeyDead)).Failures)
	require.NotEmpty(t, encrypttest.CheckKeys(t.Context(), encrypttest.KeyHarness{}).Failures)
	require.NotEmpty(t, encrypttest.CheckKeys(t.Context(), encrypttest.KeyHarness{
		New: func(context.Context, encrypttest.KeySetup) (*encrypttest.KeyRig, error) { return nil, nil },
	}).Failures)
}
