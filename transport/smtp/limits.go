package smtp

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/throttle"
)

// Limits bound what one address of a mail host gets, whomever the mail is for. An address begins with Connections; good
// answers raise that by about one a round up to Max, a reply of the 4yz kind that speaks of the host, and a time-out, halve
// it. 421 from a fresh connection and a refused connection close the address for a second, twice as long each further time
// up to 15 minutes, while other hosts are tried. What is known of an idle address takes less than 1 KB and is forgotten
// after ten minutes.
type Limits struct {
	// Connections and Max are how many deliveries, or streaming connections, an address has at once; 0 are 5 and 20.
	Connections, Max int
	// Rate is how many messages a second an address gets, 0 for no bound; Burst how many may come at once after a quiet
	// time, 0 is 1.
	Rate  float64
	Burst int
	// Wait is how long a delivery waits for its place; 0 is 5 s, and a negative one not at all. Then it fails with FateRetry
	// and RetryAfter.
	Wait time.Duration
}

// closedFor is the first pause of an address that wants nobody.
const closedFor = time.Second

func (l Limits) connections() throttle.Limits {
	return throttle.Limits{Connections: l.Connections, Max: l.Max, Wait: orElse(l.Wait, 5*time.Second), Pause: closedFor}
}

func (l Limits) rate() throttle.Limits {
	return throttle.Limits{Connections: 1 << 20, Max: 1 << 20, Rate: l.Rate, Burst: l.Burst, Wait: orElse(l.Wait, 5*time.Second)}
}

// setLimits makes the throttles.
func (t *Transport) setLimits(l Limits) error {
	if errors.Join(l.connections().Check(), l.rate().Check()) != nil {
		return errors.New("smtp: options: Limits can't be negative")
	}
	t.places = throttle.New(l.connections(), t.now)
	if l.Rate > 0 {
		t.rates = throttle.New(l.rate(), t.now)
	}
	return nil
}

// errBusy says that our own limits keep a host's address from more.
var errBusy = errors.New("smtp: the limits of the mail host's address are reached")

// space waits until the address may get one more.
func (t *Transport) space(ctx context.Context, a netip.Addr) (release func(throttle.Verdict), f *failure) {
	release, err := t.places.Acquire(ctx, a.String())
	if err != nil {
		return nil, busy(err)
	}
	return release, nil
}

// pace waits until the address may get one more message.
func (t *Transport) pace(ctx context.Context, a netip.Addr) *failure {
	if t.rates == nil {
		return nil
	}
	release, err := t.rates.Acquire(ctx, a.String())
	if err != nil {
		return busy(err)
	}
	release(throttle.Neutral)
	return nil
}

// busy maps a throttle's error. Mail goes to another host only where this one is closed: a host that gets enough is no
// reason to bother the spare one.
func busy(err error) *failure {
	b, ok := errors.AsType[*throttle.BusyError](err)
	if !ok {
		return fail(stageConnect, err)
	}
	f := fail(stageConnect, errBusy)
	f.RetryAfter, f.next = b.RetryAfter, b.Paused
	return f
}

// verdict says what a delivery showed of the address.
func verdict(ctx context.Context, f *failure) throttle.Verdict {
	switch {
	case f == nil:
		return throttle.Good
	case ctx.Err() != nil, f.miss, f.handshake:
		return throttle.Neutral
	case f.Code == 421:
		return throttle.Stop
	case f.Code/100 == 4:
		return slowness(f)
	case f.Code != 0:
		return throttle.Good
	case f.Stage == stageConnect:
		return throttle.Stop
	case errors.Is(f.Err, errTimeout):
		return throttle.Slow
	}
	return throttle.Neutral
}

// slowness tells whether a 4yz reply speaks of the host or of a recipient: his mailbox or address (RFC 3463 sections 3.2
// and 3.3), how many there are of them, or a greylist.
func slowness(f *failure) throttle.Verdict {
	if f.Stage == stageRcpt && (strings.HasPrefix(f.Enhanced, "4.1.") || strings.HasPrefix(f.Enhanced, "4.2.") || f.Enhanced == "4.5.3" ||
		strings.Contains(strings.ToLower(f.Remote), "greylist")) {
		return throttle.Neutral
	}
	return throttle.Slow
}

// greyKept is how long a host that put a recipient off is the first to be asked again.
const greyKept = 6 * time.Hour

// putOff is where a recipient's domain put mail off.
type putOff struct {
	host string
	addr netip.Addr
}

// learn remembers a refusal of a recipient for now. A greylist waits for the same client at the same host, and a try at
// another would begin the wait anew.
func (t *Transport) learn(j *job, g target, f *failure) {
	domain := j.Recipient.Address.Domain()
	switch {
	case f != nil && f.Stage == stageRcpt && f.Code/100 == 4 && f.Code != 421:
		t.grey.put(domain, putOff{g.name, g.addr}, greyKept)
	case f == nil:
		t.grey.forget(domain)
	}
}

// ordered puts the host that put the domain off first.
func (t *Transport) ordered(domain string, hosts []*host) []*host {
	off, ok := t.grey.get(domain)
	if !ok {
		return hosts
	}
	for i, h := range hosts {
		if h.name == off.host && i > 0 {
			out := append([]*host{h}, hosts[:i]...)
			return append(out, hosts[i+1:]...)
		}
	}
	return hosts
}

// sorted puts the addresses of a host in order: the one that put the domain off, or else the families in turn, beginning
// with another at each attempt, since one of them may be broken on the way.
func (t *Transport) sorted(j *job, h *host, addrs []netip.Addr) []netip.Addr {
	if len(addrs) < 2 {
		return addrs
	}
	out := addrs
	if j.Attempt%2 == 0 && j.Attempt > 0 {
		out = alternate(addrs, !addrs[0].Is4())
	}
	off, ok := t.grey.get(j.Recipient.Address.Domain())
	if !ok || off.host != h.name {
		return out
	}
	for i, a := range out {
		if a == off.addr && i > 0 {
			return append(append([]netip.Addr{a}, out[:i]...), out[i+1:]...)
		}
	}
	return out
}

// alternate takes addresses of the families in turn.
func alternate(addrs []netip.Addr, four bool) []netip.Addr {
	if len(addrs) < 2 {
		return addrs
	}
	var fours, sixes []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			fours = append(fours, a)
		} else {
			sixes = append(sixes, a)
		}
	}
	if len(fours) == 0 || len(sixes) == 0 {
		return addrs
	}
	first, second := sixes, fours
	if four {
		first, second = fours, sixes
	}
	out := make([]netip.Addr, 0, len(addrs))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(second) {
			out = append(out, second[i])
		}
	}
	return out
}

// forget drops an entry before its time.
func (s *shelf[V]) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, key)
}
