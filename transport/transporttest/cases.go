package transporttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail"
)

// allCases is the kit, in the order in which it runs.
func allCases() []testcase {
	return slices.Concat(
		floorCases(), relayCases(), intendCases(), fateCases(), messageCases(), contextCases(), reuseCases(), probeCases(),
	)
}

var channels = []securemail.Channel{
	securemail.ChannelVerified, securemail.ChannelNamed, securemail.ChannelEncrypted, securemail.ChannelAny,
}

// floorCases is each Channel against each wire.
func floorCases() []testcase {
	var cases []testcase
	for _, b := range []Behaviour{Accept, NoTLS, StripTLS, OldTLS, SelfSigned, BadCert, Expired} {
		for _, ch := range channels {
			cases = append(cases, testcase{"floor", string(b) + "-" + channelName(ch), func(c *checker) {
				c.rig(b).floor(ch)
			}})
		}
		cases = append(cases, testcase{"floor", string(b) + "-falling and rising", func(c *checker) {
			bench := c.rig(b) // what a low floor left behind must not serve a high one
			for _, ch := range append(channels, channels...) {
				bench.floor(ch)
			}
		}})
	}
	return append(cases, testcase{"floor", "RequireTLS", func(c *checker) {
		b := c.rig(NoRequireTLS)
		r := b.deliver(order{floor: c.h.Best, requireTLS: true})
		if !r.hung && r.panicked == "" && !errors.Is(r.err, securemail.ErrChannel) {
			c.Failf(ruleRequire, "that is ErrChannel; got: %v", r.err)
		}
	}})
}

// floor delivers at ch: below the floor it must be ErrChannel; at or above it the best wire must deliver, while a
// transport may ask more of a bad one than the floor does.
func (b *bench) floor(ch securemail.Channel) {
	r := b.deliver(order{floor: ch})
	if r.hung || r.panicked != "" {
		return
	}
	truth := b.c.h.strictest(b.behaviour)
	switch {
	case ch < truth && r.err == nil:
		b.c.Failf(ruleFloor, "delivered at %s over %s", channelName(ch), b.behaviour)
	case ch < truth && !errors.Is(r.err, securemail.ErrChannel):
		b.c.Failf(ruleFloor, "over %s the floor %s is not met, that is ErrChannel; got: %v", b.behaviour, channelName(ch), r.err)
	case ch >= b.c.h.Best && r.err != nil && (b.behaviour == Accept || b.behaviour == VouchedRelay):
		b.c.Failf(ruleFloor, "%s meets the floor %s; got: %v", b.behaviour, channelName(ch), r.err)
	}
}

func relayCases() []testcase {
	var cases []testcase
	for _, b := range []Behaviour{Relay, LapsedRelay, VouchedRelay} {
		for _, ch := range channels {
			cases = append(cases, testcase{"relay", string(b) + "-" + channelName(ch), func(c *checker) {
				c.rig(b).floor(ch)
			}})
		}
	}
	return cases
}

func intendCases() []testcase {
	return []testcase{
		{"intend", "order", func(c *checker) {
			b := c.rig(Accept)
			b.must(b.deliver(order{floor: c.h.Best, watch: true}))
		}},
		{"intend", "failing", func(c *checker) { c.rig(Accept).failingIntend() }},
		{"intend", "failing after a success", func(c *checker) {
			b := c.rig(Accept)
			b.must(b.deliver(order{floor: c.h.Best}))
			b.failingIntend()
		}},
		{"intend", "refused recipient", func(c *checker) { c.rig(RejectRecipient).refused(securemail.FatePermanent) }},
		{"intend", "deferred recipient", func(c *checker) { c.rig(DeferRecipient).refused(securemail.FateRetry) }},
	}
}

// failingIntend lets Intend fail: nothing may be taken.
func (b *bench) failingIntend() *result {
	r := b.deliver(order{floor: b.c.h.Best, intend: func(context.Context) error { return errors.New("no commit") }})
	switch {
	case r.hung || r.panicked != "":
		return r
	case r.intended.Load() == 0:
		b.c.Failf(ruleIntend, "Intend was not called")
	case r.intended.Load() > 1:
		b.c.Failf(ruleStop, "Intend was asked again after its error")
	case r.err == nil:
		b.c.Failf(ruleStop, "Deliver returned no error")
	case errors.Is(r.err, securemail.ErrChannel):
		b.c.Failf(ruleStop, "Deliver returned ErrChannel")
	}
	if de, ok := errors.AsType[*securemail.DeliveryError](r.err); ok && de.Fate == securemail.FatePermanent {
		b.c.Failf(ruleStop, "the parcel would be bounced for a commit that failed")
	}
	if waitUntil(settle, func() bool { return len(b.seen(r.rcpt)) > 0 }) {
		b.c.Failf(ruleStop, "the far end got the whole message")
	}
	return r
}

// refused delivers to a recipient whom the far end refuses before the message.
func (b *bench) refused(want securemail.Fate) {
	r := b.deliver(order{floor: b.c.h.Best})
	if r.intended.Load() > 0 && !b.c.h.EarlyIntent {
		b.c.Failf(ruleRcpt, "Intend was called for a recipient who was refused")
	}
	b.answered(r, want)
}

// answered checks the error for a far end's clear answer.
func (b *bench) answered(r *result, want securemail.Fate) {
	if r.hung || r.panicked != "" {
		return
	}
	de, ok := errors.AsType[*securemail.DeliveryError](r.err)
	switch {
	case r.err == nil:
		b.c.Failf(ruleFate, "%s gave no error", b.behaviour)
	case errors.Is(r.err, securemail.ErrChannel):
		b.c.Failf(ruleOutage, "%s gave ErrChannel", b.behaviour)
	case !ok:
		b.c.Failf(ruleFate, "%s gave no *DeliveryError: %T", b.behaviour, r.err)
	case de.Fate != want:
		b.c.Failf(ruleFate, "%s is %s; got %s", b.behaviour, fateName(want), fateName(de.Fate))
	case de.Stage == "" || de.Code == 0:
		b.c.Failf(ruleFate, "the *DeliveryError for %s has no Stage or no Code", b.behaviour)
	}
}

// must checks that r was delivered.
func (b *bench) must(r *result) {
	if r.err != nil {
		b.c.Failf(ruleReturn, "a plain delivery over %s: %v", b.behaviour, r.err)
	}
}

func fateCases() []testcase {
	clear := func(behave Behaviour, want securemail.Fate) testcase {
		return testcase{"fate", string(behave), func(c *checker) {
			b := c.rig(behave)
			b.answered(b.deliver(order{floor: c.h.Best}), want)
		}}
	}
	fault := func(behave Behaviour) testcase {
		return testcase{"fate", string(behave), func(c *checker) { c.rig(behave).fault() }}
	}
	return []testcase{
		clear(TempFail, securemail.FateRetry), clear(PermFail, securemail.FatePermanent), clear(Busy, securemail.FateRetry),
		fault(Refuse), fault(DropBeforeBody), fault(DropAfterBody), fault(SilentAfterBody), fault(Garbage), fault(GarbageAfterBody),
		{"fate", string(HugeReply), func(c *checker) { c.rig(HugeReply).huge() }},
	}
}

// fault delivers where the far end gives no answer. What is uncertain and what is not is judged on every delivery, by
// what the far end took; here it must be an error at all, and no reason to bounce.
func (b *bench) fault() {
	o := order{floor: b.c.h.Best}
	if b.behaviour == SilentAfterBody {
		ctx, cancel := context.WithTimeout(b.c.Ctx, 500*time.Millisecond)
		defer cancel()
		o.ctx = ctx
	}
	r := b.deliver(o)
	switch {
	case r.hung || r.panicked != "":
	case r.err == nil:
		b.c.Failf(ruleTrue, "%s gave no error", b.behaviour)
	case errors.Is(r.err, securemail.ErrChannel):
		if b.behaviour != Garbage {
			b.c.Failf(ruleOutage, "%s gave ErrChannel", b.behaviour)
		}
	case r.fate() == securemail.FatePermanent:
		b.c.Failf(ruleFate, "%s is no clear answer; got permanent", b.behaviour)
	}
}

// maxGrowth is how much the heap may grow while a far end says HugeSize octets.
const maxGrowth = 24 << 20

func (b *bench) huge() {
	grown := peakHeap(func() {
		r := b.deliver(order{floor: b.c.h.Best})
		if r.err != nil && r.fate() == securemail.FatePermanent {
			b.c.Failf(ruleFate, "HugeReply is no clear answer; got permanent")
		}
	})
	if grown > maxGrowth {
		b.c.Failf(ruleMemory, "the heap grew by %d MiB for an answer of %d MiB", grown>>20, HugeSize>>20)
	}
}

func messageCases() []testcase {
	var cases []testcase
	for _, s := range shapes {
		cases = append(cases, testcase{"message", s.name, func(c *checker) {
			b := c.rig(Accept)
			raw := []byte(b.head(1) + strings.ReplaceAll(s.body, "CANARY", b.words.word(placeBody)))
			b.must(b.deliver(order{floor: c.h.Best, raw: raw}))
		}})
	}
	plain := func(name string, o order) testcase {
		return testcase{"message", name, func(c *checker) {
			o.floor = c.h.Best
			b := c.rig(Accept)
			b.must(b.deliver(o))
		}}
	}
	return append(cases,
		plain("null sender", order{null: true}), // RFC 5321 section 4.5.5: notices of delivery
		plain("letters of a local part", order{local: "O'X+y/z=%41&?{}|~^`#$!*-_"}),
	)
}

// shapes are the bodies that wires get wrong.
var shapes = []struct{ name, body string }{
	{"plain", "CANARY\r\n"},
	{"empty body", ""},
	{"one empty line", "\r\n"},
	{"no line end at the end", "CANARY"},
	{"trailing empty lines", "CANARY\r\n\r\n\r\n"},
	{"dot lines", ".\r\n..\r\n.CANARY\r\n...\r\n. \r\n.\r\n"},
	{"smuggling", "CANARY\r\n.\r\nMAIL FROM:<x@sender.example>\r\nRCPT TO:<y@recipient.example>\r\nDATA\r\n.\r\nQUIT\r\n"},
	{"lines of 998 octets", strings.Repeat("x", 998) + "\r\n." + strings.Repeat("y", 997) + "\r\nCANARY\r\n"},
	{"8-bit", "Gr\xc3\xbc\xc3\x9fe CANARY \xff\xfe\xe9\r\n"},
	{"trailing space and tabs", "CANARY \t \r\n\t\r\n \r\n"},
	{"From and headers in the body", "From CANARY\r\n>From x\r\nSubject: no header\r\n\r\n--x--\r\n"},
	{"percent, plus and braces", "a=b&c=%00+{{to}}{{message}}\"\\\r\nCANARY\r\n"},
	{"1 MiB", strings.Repeat(strings.Repeat("0123456789abcde\r\n", 64)+".\r\n", 960) + "CANARY\r\n"},
}

func contextCases() []testcase {
	return []testcase{
		{"context", "ended before", func(c *checker) { c.rig(Accept).ended() }},
		{"context", "cancelled in Stall", func(c *checker) { c.rig(Stall).cancelled(200 * time.Millisecond) }},
		{"context", "deadline in Stall", func(c *checker) {
			ctx, cancel := context.WithTimeout(c.Ctx, 200*time.Millisecond)
			defer cancel()
			c.rig(Stall).stalled(ctx)
		}},
		{"context", "cancelled after the body", func(c *checker) { c.rig(SilentAfterBody).cancelled(400 * time.Millisecond) }},
	}
}

// ended delivers with a ctx that is over.
func (b *bench) ended() {
	ctx, cancel := context.WithCancel(b.c.Ctx)
	cancel()
	r := b.deliver(order{floor: b.c.h.Best, ctx: ctx})
	switch {
	case r.hung || r.panicked != "":
	case r.err == nil:
		b.c.Failf(ruleCtx, "delivered with a ctx that was over")
	case errors.Is(r.err, securemail.ErrChannel):
		b.c.Failf(ruleOutage, "a ctx that was over gave ErrChannel")
	case len(b.seen(r.rcpt)) > 0:
		b.c.Failf(ruleCtx, "the far end got the whole message")
	}
}

// cancelled ends ctx after d while the far end is silent.
func (b *bench) cancelled(d time.Duration) {
	ctx, cancel := context.WithCancel(b.c.Ctx)
	defer cancel()
	defer time.AfterFunc(d, cancel).Stop()
	b.stalled(ctx)
}

func (b *bench) stalled(ctx context.Context) {
	r := b.deliver(order{floor: b.c.h.Best, ctx: ctx})
	switch {
	case r.hung || r.panicked != "":
	case r.err == nil:
		b.c.Failf(ruleCtx, "%s gave no error", b.behaviour)
	case errors.Is(r.err, securemail.ErrChannel):
		b.c.Failf(ruleOutage, "%s gave ErrChannel", b.behaviour)
	case r.fate() == securemail.FatePermanent:
		b.c.Failf(ruleFate, "%s is no clear answer; got permanent", b.behaviour)
	}
}

func reuseCases() []testcase {
	cases := []testcase{
		{"reuse", "three in a row", func(c *checker) {
			b := c.rig(Accept)
			for range 3 {
				b.must(b.deliver(order{floor: c.h.Best}))
			}
		}},
		{"reuse", "16 at once", func(c *checker) { c.rig(Accept).crowd(16) }},
		{"reuse", "after a failing Intend", func(c *checker) {
			b := c.rig(Accept)
			b.failingIntend()
			b.again()
		}},
		{"reuse", "after a ctx that was over", func(c *checker) {
			b := c.rig(Accept)
			b.ended()
			b.again()
		}},
	}
	for _, f := range []Behaviour{TempFail, PermFail, RejectRecipient, Busy, DropBeforeBody, DropAfterBody, GarbageAfterBody} {
		cases = append(cases, testcase{"reuse", "after " + string(f), func(c *checker) {
			b := c.rig(f)
			if b.Recover == nil {
				c.Skipf("the harness can't recover from %s", f)
			}
			b.deliver(order{floor: c.h.Best})
			b.Recover()
			b.behaviour = Accept
			b.again()
		}})
	}
	return cases
}

// again delivers once more, to a far end that now is well.
func (b *bench) again() {
	if r := b.deliver(order{floor: b.c.h.Best}); r.err != nil {
		b.c.Failf(ruleReuse, "the next delivery failed: %v", r.err)
	}
}

// crowd delivers n messages at once and checks each.
func (b *bench) crowd(n int) {
	results := make([]*result, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { results[i] = b.attempt(order{floor: b.c.h.Best}) })
	}
	wg.Wait()
	for _, r := range results {
		b.judge(r)
		if r.err != nil {
			b.c.Failf(ruleReuse, "one of %d at once failed: %v", n, r.err)
		}
	}
}

func probeCases() []testcase {
	var cases []testcase
	for _, behave := range []Behaviour{Accept, NoTLS, StripTLS, OldTLS, SelfSigned, BadCert, Expired, Refuse} {
		cases = append(cases, testcase{"probe", string(behave), func(c *checker) {
			b := c.rig(behave)
			route, err := b.probe(c.Ctx)
			truth := c.h.strictest(behave)
			for ch := range truth {
				if err == nil && route.Known && route.Meets(ch) {
					c.Failf(ruleProbe, "the route claims %s over %s", channelName(ch), behave)
				}
			}
			if behave == Accept && (err != nil || !route.Known || !route.Meets(c.h.Best)) {
				c.Failf(ruleProbe, "the best wire is not known: %v", err)
			}
			if behave == Refuse && err == nil && route.Known {
				c.Failf(ruleProbe, "Refuse is not known right now; the route says Known")
			}
		}})
	}
	return append(cases, testcase{"probe", string(Stall), func(c *checker) {
		b := c.rig(Stall)
		ctx, cancel := context.WithTimeout(c.Ctx, 200*time.Millisecond)
		defer cancel()
		if route, err := b.probe(ctx); err == nil && route.Known {
			c.Failf(ruleProbe, "Stall is not known right now; the route says Known")
		}
	}})
}

// probe asks the Prober and checks that it sent no mail and kept its ctx.
func (b *bench) probe(ctx context.Context) (securemail.Route, error) {
	if b.Prober == nil {
		b.c.Skipf("the transport has no Prober")
	}
	type answer struct {
		route securemail.Route
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done := make(chan answer, 1)
	go func() {
		route, err := b.Prober.Probe(ctx, "", b.c.h.domain())
		done <- answer{route, err}
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		select {
		case a = <-done:
		case <-time.After(b.c.h.grace()):
			b.c.Failf(ruleCtx, "Probe had not returned %v after its ctx ended", b.c.h.grace())
			b.Close()
		}
	}
	if len(b.Far.Deliveries()) > 0 {
		b.c.Failf(ruleProbe, "Probe sent a message")
	}
	b.look("error of Probe", errorTexts(a.err))
	b.look("route", []string{fmt.Sprintf("%+v", a.route)})
	b.look("log", []string{b.logs.Text()})
	return a.route, a.err
}
