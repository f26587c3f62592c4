package transporttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Harness says how to build what the kit tests.
type Harness struct {
	// New builds a fresh Transport wired to a fresh far end. An error that Is [errors.ErrUnsupported] says that the
	// protocol can't express s.Behaviour; its text says why. ctx ends with the case. It is called from several goroutines.
	New func(ctx context.Context, s Setup) (*Rig, error)
	// Best is the strictest Channel that the wire of Accept gives; the zero value is ChannelVerified.
	Best securemail.Channel
	// Domain is where the kit's recipients are; empty: "recipient.example".
	Domain string
	// EarlyIntent says that the Transport is set up to call Intend before it knows whether the recipient is accepted, as one
	// that streams messages without waiting does. The kit then does not ask that a refused recipient was never intended.
	EarlyIntent bool
	// Grace is how long Deliver may go on after its ctx ended; 0: 5 s.
	Grace time.Duration
}

// Setup is what the kit asks of [Harness.New].
type Setup struct {
	Behaviour Behaviour
	// Echo is what the far end must put into every answer that can hold free text, as real hosts do with addresses and
	// subjects. It is one line of printable ASCII without quotes or backslashes.
	Echo string
	// Logger must be given to the Transport and all it uses.
	Logger *slog.Logger
}

// Rig is a Transport and the far end that it is wired to.
type Rig struct {
	Transport securemail.Transport
	// Prober nil: the transport has none, and its cases are skipped.
	Prober securemail.Prober
	// Far is what the far end saw; a [Recorder] that the far end writes, or an adapter.
	Far FarEnd
	// Recover makes the far end behave as Accept from now on; nil: the cases about reuse after a failure are skipped.
	Recover func()
	// Close ends the far end and the Transport. It must release a Deliver that still waits, and must not block.
	Close func()
}

// FarEnd is what a far end saw. It is asked while the far end works.
type FarEnd interface {
	// Deliveries are the messages that it saw whole, in order. One is there before the far end answers it.
	Deliveries() []Delivery
	// Received is every octet of commands, headers and content that it received, decrypted, on all connections, also
	// of messages that never became whole.
	Received() []byte
}

// Delivery is a message that the far end saw whole, up to and including the octet that can make it accept.
type Delivery struct {
	// Sender is the envelope's sender as an address, "" for the null sender; nil: the far end was not told.
	Sender *string
	// Recipients is the envelope, as addresses.
	Recipients []string
	// Message is what a mailbox would get: transfer encoding (dot stuffing, base64, a form) taken off.
	Message []byte
	// Accepted says that the far end kept it, whether or not it could say so.
	Accepted bool
	// TLS is what the far end knows of the connection, nil for one in clear. A zero Chain is not compared. See [FactsOf].
	TLS *securemail.TLSFacts
}

var _ FarEnd = (*Recorder)(nil)

// Recorder is a [FarEnd] for far ends written for the kit. It is an [io.Writer] for every octet that the far end received, decrypted, on any
// connection and in any stage. The zero value is ready; it is safe for concurrent use.
type Recorder struct {
	mu         sync.Mutex // guards all below
	raw        bytes.Buffer
	deliveries []Delivery
}

// Write adds octets that the far end received. It never fails.
func (r *Recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.raw.Write(p)
}

// Add records a message that the far end saw whole. It must be called before the far end answers.
func (r *Recorder) Add(d Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries = append(r.deliveries, d)
}

// Deliveries returns what was added, in order.
func (r *Recorder) Deliveries() []Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.deliveries)
}

// Received returns every octet that was written.
func (r *Recorder) Received() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.raw.Bytes())
}

// FactsOf is what a far end knows of its side of a handshake; cert is what it showed.
func FactsOf(cs tls.ConnectionState, cert tls.Certificate) *securemail.TLSFacts {
	h := sha256.New()
	for _, der := range cert.Certificate {
		h.Write(der)
	}
	f := &securemail.TLSFacts{Version: cs.Version, Suite: cs.CipherSuite, Group: cs.CurveID}
	h.Sum(f.Chain[:0])
	return f
}
