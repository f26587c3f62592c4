package securemailtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-message"

	"github.com/postseal/postseal/securemail"
)

// Verified is the recipient's own host over TLS 1.3, its name proved beyond PKIX: it meets every floor.
func Verified() securemail.Wire { return wire(securemail.ProofConfigured) }

// Named is a wire whose name passed PKIX only: it meets ChannelNamed and below.
func Named() securemail.Wire { return wire(securemail.ProofPKIX) }

// Encrypted is TLS 1.3 to a peer whose name was not proved: it meets ChannelEncrypted and below.
func Encrypted() securemail.Wire { return wire("") }

// Clear is a wire without TLS: it meets ChannelAny only.
func Clear() securemail.Wire { return securemail.Wire{Hop: securemail.HopFinal} }

func wire(p securemail.Proof) securemail.Wire {
	return securemail.Wire{
		TLS:   &securemail.TLSFacts{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256, Group: tls.X25519},
		Proof: p, Hop: securemail.HopFinal,
	}
}

// Answer is what a domain does with a delivery.
type Answer struct {
	// Wire is what the domain gives; a floor above it is ErrChannel. The zero Wire is Verified.
	Wire securemail.Wire
	// Before fails the delivery before the intent, After behind it.
	Before, After error
	// TemporaryChannel makes the ErrChannel of a missed floor temporary.
	TemporaryChannel bool
}

// Sent is one message that left.
type Sent struct {
	Parcel securemail.ParcelID
	// From and To are the envelope.
	From, To string
	Channel  securemail.Channel
	Wire     securemail.Wire
	Message  *securemail.Message
}

// Transport is scripted by domain and records what left. A domain without a script accepts over a Verified wire. It is
// also a Prober: what a script's Wire says is known.
type Transport struct {
	mu      sync.Mutex // guards all
	answers map[string][]Answer
	sent    []Sent
}

var (
	_ securemail.Transport = (*Transport)(nil)
	_ securemail.Prober    = (*Transport)(nil)
)

// NewTransport makes one without scripts.
func NewTransport() *Transport { return &Transport{answers: make(map[string][]Answer)} }

// Script sets the answers of a domain: one a delivery, the last for all that follow.
func (t *Transport) Script(domain string, as ...Answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers[domain] = slices.Clone(as)
}

func (t *Transport) answer(domain string, consume bool) Answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	as := t.answers[domain]
	if len(as) == 0 {
		return Answer{Wire: Verified()}
	}
	a := as[0]
	if consume && len(as) > 1 {
		t.answers[domain] = as[1:]
	}
	if a.Wire.TLS == nil && a.Wire.Hop == securemail.HopRelay {
		a.Wire = Verified()
	}
	return a
}

// Deliver implements [securemail.Transport].
func (t *Transport) Deliver(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
	a := t.answer(s.Recipient.Address.Domain(), true)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !a.Wire.Meets(s.Channel) {
		w := a.Wire
		w.Reasons = append(slices.Clone(w.Reasons), securemail.Reason{Rule: "floor", Text: "the script's wire is below the floor"})
		return nil, &securemail.ChannelError{Temporary: a.TemporaryChannel, Wire: w}
	}
	if a.Before != nil {
		return nil, a.Before
	}
	if err := s.Intend(ctx); err != nil {
		return nil, err
	}
	if a.After != nil {
		return nil, a.After
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent = append(t.sent, Sent{
		Parcel: s.ID, From: s.ReturnPath.Reveal(), To: s.Recipient.Address.Reveal(), Channel: s.Channel, Wire: a.Wire,
		Message: s.Message,
	})
	return &securemail.Receipt{Wire: a.Wire, Peer: "mx." + s.Recipient.Address.Domain(), RemoteID: "test"}, nil
}

// Probe implements [securemail.Prober].
func (t *Transport) Probe(_ context.Context, _, domain string) (securemail.Route, error) {
	return securemail.Route{Wire: t.answer(domain, false).Wire, Known: true}, nil
}

// Sent returns what left so far.
func (t *Transport) Sent() []Sent {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.sent)
}

// RequireSent fails the test unless exactly one message left for each of to, and none for anybody else. It returns them
// in the order of to.
func (t *Transport) RequireSent(tb testing.TB, to ...string) []Sent {
	tb.Helper()
	sent := t.Sent()
	out := make([]Sent, 0, len(to))
	for _, addr := range to {
		i := slices.IndexFunc(sent, func(s Sent) bool { return strings.EqualFold(s.To, addr) })
		if i < 0 {
			tb.Fatalf("securemailtest: nothing left for %s", addr)
		}
		out = append(out, sent[i])
		sent = slices.Delete(sent, i, i+1)
	}
	if len(sent) > 0 {
		tb.Fatalf("securemailtest: %d more messages left than were expected", len(sent))
	}
	return out
}

// RequireNone fails the test if anything left.
func (t *Transport) RequireNone(tb testing.TB) {
	tb.Helper()
	if n := len(t.Sent()); n > 0 {
		tb.Fatalf("securemailtest: %d messages left, none were expected", n)
	}
}

// RequireSecret fails the test if text can be read in anything that left below ChannelNamed: in a header, or in a part,
// decoded. Text in sealed messages cannot.
func (t *Transport) RequireSecret(tb testing.TB, text string) {
	tb.Helper()
	for _, s := range t.Sent() {
		if !s.Wire.Meets(securemail.ChannelNamed) && readable(tb, s.Message, text) {
			tb.Fatalf("securemailtest: the secret left in parcel %s over a wire below ChannelNamed", s.Parcel)
		}
	}
}

func readable(tb testing.TB, m *securemail.Message, text string) bool {
	tb.Helper()
	r, err := m.Open()
	if err != nil {
		tb.Fatalf("securemailtest: open: %v", err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		tb.Fatalf("securemailtest: read: %v", err)
	}
	if bytes.Contains(raw, []byte(text)) {
		return true
	}
	e, err := message.Read(bytes.NewReader(raw))
	if e == nil {
		tb.Fatalf("securemailtest: parse: %v", err)
	}
	found := false
	_ = e.Walk(func(_ []int, part *message.Entity, err error) error {
		if part == nil {
			return err
		}
		for f := part.Header.Fields(); f.Next(); {
			v, err := f.Text()
			found = found || err == nil && strings.Contains(v, text)
		}
		if part.MultipartReader() == nil {
			b, _ := io.ReadAll(part.Body)
			found = found || bytes.Contains(b, []byte(text))
		}
		return nil
	})
	return found
}
