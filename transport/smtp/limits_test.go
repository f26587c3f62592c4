package smtp_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// No more connections at once than the address has earned.
func TestConnectionsAtOnce(t *testing.T) {
	for _, stream := range []*smtp.Stream{nil, {Connections: 10, Window: 2}} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: chunking, On: on(smtppeer.StageDot, smtppeer.Action{Delay: 2 * time.Millisecond})})
		var most atomic.Int64
		tr := l.transport(func(o *smtp.Options) {
			o.Limits, o.Stream, o.MaxIdle = smtp.Limits{Connections: 2, Max: 3, Wait: 20 * time.Second}, stream, -1
			o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if n := int64(p.Open()); n >= most.Load() {
					most.Store(n + 1)
				}
				return l.dial(ctx, network, addr)
			}
		})
		for _, err := range deliverAll(t, tr, anyway, 100) {
			require.NoError(t, err)
		}
		require.Len(t, whole(t, p), 100)
		require.LessOrEqual(t, most.Load(), int64(3)+3, "those that say QUIT may still be there")
	}
}

func TestNoPlace(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{})
	spare := l.mx(smtppeer.Options{})
	tr := l.transport(func(o *smtp.Options) { o.Limits = smtp.Limits{Connections: 1, Max: 1, Wait: -1} })
	inside, out := make(chan struct{}), make(chan struct{})
	s := shipment(t, anyway, hello)
	s.OnIntend = func(context.Context) error { close(inside); <-out; return nil }
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := tr.Deliver(context.Background(), s)
		if err != nil {
			t.Error(err)
		}
	})
	<-inside
	_, err := l.deliver(tr, anyway)
	d := wantDelivery(t, err)
	require.Equal(t, securemail.FateRetry, d.Fate)
	require.Positive(t, d.RetryAfter)
	close(out)
	wg.Wait()
	_, err = l.deliver(tr, anyway)
	require.NoError(t, err)
	require.Len(t, p.Messages(), 2)
	require.Zero(t, spare.Connections(), "the spare host is for one that is down")
	_, err = smtp.New(&smtp.Options{Limits: smtp.Limits{Connections: -1}})
	require.ErrorContains(t, err, "Limits")
}

// A host that wants nobody is left alone for a while, and the next one serves.
func TestPause(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{On: on(smtppeer.StageGreeting, smtppeer.Action{Code: 421, Text: "4.3.2 busy", Close: true})})
	spare := l.mx(smtppeer.Options{})
	now := time.Now()
	tr := l.transport(func(o *smtp.Options) {
		o.Limits.Wait = -1
		o.Now = func() time.Time { return now }
	})
	for range 4 {
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
	}
	require.Equal(t, 1, p.Connections())
	require.Len(t, spare.Messages(), 4)
	now = now.Add(1500 * time.Millisecond)
	for range 2 {
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
	}
	require.Equal(t, 2, p.Connections())
}

func TestRate(t *testing.T) {
	for _, stream := range []*smtp.Stream{nil, {}} {
		l := newLab(t)
		p := l.mx(smtppeer.Options{Extensions: chunking})
		now := time.Now()
		tr := l.transport(func(o *smtp.Options) {
			o.Limits, o.Stream = smtp.Limits{Rate: 2, Burst: 3, Wait: -1}, stream
			o.Now = func() time.Time { return now }
		})
		sent := 0
		for range 10 {
			if _, err := l.deliver(tr, anyway); err == nil {
				sent++
			} else {
				require.Positive(t, wantDelivery(t, err).RetryAfter)
			}
		}
		require.Equal(t, 3, sent)
		now = now.Add(time.Second)
		_, err := l.deliver(tr, anyway)
		require.NoError(t, err)
		require.Len(t, p.Messages(), 4)
	}
}

// A greylist waits for the same host: the next attempt begins there, though another of the same preference is drawn first.
func TestGreylist(t *testing.T) {
	l := newLab(t)
	var mu sync.Mutex
	seen := map[string]int{}
	grey := func(name string) smtppeer.Options {
		return smtppeer.Options{Rcpt: func(string) *smtppeer.Action {
			mu.Lock()
			defer mu.Unlock()
			if seen[name]++; seen[name] == 1 {
				return &smtppeer.Action{Code: 450, Text: "4.7.1 greylisted"}
			}
			return nil
		}}
	}
	for i := range 8 {
		name := "mx" + string(rune('a'+i)) + ".test"
		l.host(name, grey(name))
		l.records("clinic.test", "MX 10 "+name+".")
	}
	tr := l.transport(nil)
	_, err := l.deliver(tr, anyway)
	require.Equal(t, 450, wantDelivery(t, err).Code)
	_, err = l.deliver(tr, anyway)
	require.NoError(t, err)
	require.Len(t, seen, 1)
}

// Each attempt begins with another family, and a host with many addresses of one is also tried by the other.
func TestFamilies(t *testing.T) {
	l := newLab(t)
	l.records("clinic.test", "MX 1 mx.test.")
	l.records("mx.test", "A 203.0.113.1", "A 203.0.113.2", "A 203.0.113.3", "A 203.0.113.4", "A 203.0.113.5", "AAAA 2001:db8::5")
	var mu sync.Mutex
	var dialled []string
	var first []bool
	for attempt := range 4 {
		dialled = nil
		tr := l.transport(func(o *smtp.Options) {
			o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				dialled = append(dialled, addr)
				return l.dial(ctx, network, addr)
			}
		})
		s := shipment(t, anyway, hello)
		s.Attempt = attempt + 1
		_, err := l.ship(tr, s)
		require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
		require.NotEmpty(t, dialled)
		first = append(first, strings.HasPrefix(dialled[0], "["))
		if attempt == 0 {
			require.Len(t, dialled, 4)
			require.Contains(t, strings.Join(dialled, " "), "[2001:db8::5]")
		}
	}
	require.Equal(t, first[0], first[2])
	require.NotEqual(t, first[0], first[1])
}
