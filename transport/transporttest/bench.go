package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/internal/kit"
	"github.com/postseal/postseal/securemail"
)

// The waits of the kit. None of them is ever the reason why a right transport fails: settle is how long a far end may
// take to notice what a broken one sent too early, patience bounds a delivery that should simply work.
const (
	settle   = 60 * time.Millisecond
	patience = 20 * time.Second
)

// bench is a rig with the canaries of its case.
type bench struct {
	*Rig
	c         *checker
	behaviour Behaviour
	words     canaries
	logs      *kit.Capture
	serial    atomic.Int64
}

// order is one delivery that a case asks for. The zero value is a plain message at the rig's best floor.
type order struct {
	floor  securemail.Channel
	raw    []byte // nil: a plain message
	intend func(ctx context.Context) error
	// local is put before the local part; null makes the reverse-path empty.
	local string
	null  bool
	// requireTLS asks for RFC 8689.
	requireTLS bool
	ctx        context.Context // nil: the case's, with patience
	// watch looks at the far end when Intend is called, before the far end can have noticed what came after.
	watch bool
}

// result is what came of it.
type result struct {
	order
	outcome
	rcpt  string
	start time.Time
	// took is from the start, or from the end of ctx where that came first.
	took time.Duration
	// hung says that Deliver did not return within the grace; the outcome is then not known.
	hung bool
	// changed names what Deliver changed of its input.
	changed string
	// intended counts the calls of Intend; early is how many messages the far end had seen whole at the first.
	intended, early atomic.Int32
	// open counts the readers of the message that are not closed.
	open atomic.Int32
}

// sender is the envelope's. It is not the author, as with every sender who reads his bounces.
func (r *result) sender() string {
	if r.null {
		return ""
	}
	return "bounces@sender.example"
}

// counted is a Source that counts its open readers.
type counted struct {
	securemail.Source
	open *atomic.Int32
}

func (s counted) Open() (io.ReadCloser, error) {
	r, err := s.Source.Open()
	if err != nil {
		return nil, err
	}
	s.open.Add(1)
	return &countedReader{r, s.open, sync.Once{}}, nil
}

type countedReader struct {
	io.ReadCloser
	open *atomic.Int32
	once sync.Once
}

func (r *countedReader) Close() error {
	r.once.Do(func() { r.open.Add(-1) })
	return r.ReadCloser.Close()
}

// outcome is what Deliver returned.
type outcome struct {
	receipt *securemail.Receipt
	err     error
	// panicked is the type of a panic, "" without one.
	panicked string
}

// deliver carries o out and checks every rule that holds for each delivery.
func (b *bench) deliver(o order) *result {
	r := b.attempt(o)
	b.judge(r)
	return r
}

// attempt carries o out. It may be called from many goroutines.
func (b *bench) attempt(o order) *result {
	n := b.serial.Add(1)
	if o.raw == nil {
		o.raw = b.plain(n)
	}
	if o.ctx == nil {
		ctx, cancel := context.WithTimeout(b.c.Ctx, patience)
		defer cancel()
		o.ctx = ctx
	}
	r := &result{order: o, rcpt: o.local + b.address(n), start: time.Now()}
	ship, err := b.shipment(r, n)
	if err != nil {
		panic(err) // the kit's own message is wrong
	}
	ship.OnIntend = b.intender(r)
	before := snapshot(ship)
	b.run(ship, r)
	if !r.hung {
		r.changed = differs(before, ship)
	}
	return r
}

// run calls Deliver and waits for it, at most the grace beyond its ctx.
func (b *bench) run(ship *securemail.Shipment, r *result) {
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			if p := recover(); p != nil {
				o.panicked = kit.PanicText(p)
			}
			done <- o
		}()
		o.receipt, o.err = b.Transport.Deliver(r.ctx, ship)
	}()
	from := r.start
	select {
	case r.outcome = <-done:
	case <-r.ctx.Done():
		from = time.Now()
		if !b.await(done, r) {
			r.hung = true
			b.Close() // releases it
			b.await(done, &result{})
		}
	}
	r.took = time.Since(from)
}

// await waits for the outcome within the grace.
func (b *bench) await(done <-chan outcome, r *result) bool {
	select {
	case r.outcome = <-done:
		return true
	case <-time.After(b.c.h.grace()):
		return false
	}
}

func (h Harness) grace() time.Duration {
	if h.Grace > 0 {
		return h.Grace
	}
	return 5 * time.Second
}

func (h Harness) domain() string {
	if h.Domain != "" {
		return h.Domain
	}
	return "recipient.example"
}

// intender is the shipment's OnIntend: it counts, and looks at what the far end has seen whole by then.
func (b *bench) intender(r *result) func(context.Context) error {
	return func(ctx context.Context) error {
		if r.intended.Add(1) == 1 {
			if r.watch {
				waitUntil(settle, func() bool { return len(b.seen(r.rcpt)) > 0 })
			}
			r.early.Store(int32(len(b.seen(r.rcpt))))
		}
		if r.intend != nil {
			return r.intend(ctx)
		}
		return nil
	}
}

// seen returns what the far end saw whole for rcpt.
func (b *bench) seen(rcpt string) []Delivery {
	return slices.DeleteFunc(b.Far.Deliveries(), func(d Delivery) bool { return !slices.Contains(d.Recipients, rcpt) })
}

func (b *bench) accepted(rcpt string) []Delivery {
	return slices.DeleteFunc(b.seen(rcpt), func(d Delivery) bool { return !d.Accepted })
}

func (b *bench) address(n int64) string {
	return fmt.Sprintf("anna.%s.%d@%s", b.words.word(placeLocal), n, b.c.h.domain())
}

// head is the header of every message of the kit, with its empty line.
func (b *bench) head(n int64) string {
	return strings.Join([]string{
		"From: Clinic <clinic@sender.example>",
		"To: Anna " + b.words.word(placeName) + " <" + b.address(n) + ">",
		"Subject: results of " + b.words.word(placeSubject),
		fmt.Sprintf("Message-ID: <%d.transporttest@sender.example>", n),
		"Date: Tue, 24 Nov 2026 10:00:00 +0000",
		"MIME-Version: 1.0",
		"Content-Type: text/plain; charset=utf-8",
		"Content-Transfer-Encoding: 8bit",
		"", "",
	}, "\r\n")
}

func (b *bench) plain(n int64) []byte {
	return []byte(b.head(n) + "Your appointment about " + b.words.word(placeBody) + " is at ten.\r\n")
}

// shipment makes the parcel and what goes with it.
func (b *bench) shipment(r *result, n int64) (*securemail.Shipment, error) {
	to, err := securemail.ParseAddress(r.rcpt)
	if err != nil {
		return nil, err
	}
	from, err := securemail.ParseAddress("clinic@sender.example")
	if err != nil {
		return nil, err
	}
	back := securemail.Address{}
	if s := r.sender(); s != "" {
		if back, err = securemail.ParseAddress(s); err != nil {
			return nil, err
		}
	}
	m, err := securemail.NewMessage(counted{securemail.Bytes(r.raw), &r.open})
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("%026d", n)
	return &securemail.Shipment{
		Parcel: &securemail.Parcel{
			Slip: securemail.Slip{
				ID: securemail.ParcelID(id), Submission: "s" + id, Size: m.Size(), ReturnPath: back,
				From:      securemail.Contact{Name: "Clinic", Address: from},
				Recipient: securemail.Contact{Name: "Anna " + b.words.word(placeName), Address: to},
				Labels:    map[string]string{"case": "kit"},
			},
			Message: m,
		},
		Channel: r.floor, RequireTLS: r.requireTLS, Attempt: 1, Key: id + "-0",
	}, nil
}

// frozen is a shipment as it was, with the octets of its message.
type frozen struct {
	ship   securemail.Shipment
	parcel securemail.Parcel
	labels map[string]string
	raw    []byte
}

func snapshot(s *securemail.Shipment) frozen {
	f := frozen{ship: *s, parcel: *s.Parcel, labels: maps.Clone(s.Labels), raw: octets(s.Message)}
	f.ship.OnIntend = nil
	return f
}

func octets(m *securemail.Message) []byte {
	r, err := m.Open()
	if err != nil {
		return nil
	}
	defer r.Close()
	raw, _ := io.ReadAll(r)
	return raw
}

// differs names what is no longer as it was.
func differs(f frozen, s *securemail.Shipment) string {
	now := *s
	now.OnIntend = nil
	switch {
	case f.ship.Parcel != now.Parcel || !reflect.DeepEqual(f.ship, now):
		return "the shipment"
	case f.parcel.Message != s.Message || !bytes.Equal(f.raw, octets(s.Message)):
		return "the message"
	case !maps.Equal(f.labels, s.Labels):
		return "the labels"
	case !reflect.DeepEqual(f.parcel, *s.Parcel):
		return "the parcel"
	}
	return ""
}

// minLooks is how often waitUntil looks at least: on a busy machine the far end gets no turn for longer than settle.
const minLooks = 30

// waitUntil asks ok until it is true or d is over.
func waitUntil(d time.Duration, ok func() bool) bool {
	end := time.Now().Add(d)
	for looks := 0; !ok(); looks++ {
		if looks >= minLooks && time.Now().After(end) {
			return false
		}
		time.Sleep(settle / minLooks)
	}
	return true
}

// fate reads r's error as the Mailer does.
func (r *result) fate() securemail.Fate {
	if de, ok := errors.AsType[*securemail.DeliveryError](r.err); ok {
		return de.Fate
	}
	if r.intended.Load() > 0 {
		return securemail.FateUncertain
	}
	return securemail.FateRetry
}

func fateName(f securemail.Fate) string {
	switch f {
	case securemail.FateRetry:
		return "retry"
	case securemail.FatePermanent:
		return "permanent"
	case securemail.FateUncertain:
		return "uncertain"
	}
	return fmt.Sprintf("Fate(%d)", f)
}
