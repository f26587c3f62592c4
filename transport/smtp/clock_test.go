package smtp_test

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// jumper is a clock without a monotonic reading, that can be set.
type jumper struct {
	mu sync.Mutex
	at time.Time
}

func newJumper() *jumper { return &jumper{at: time.Now().Round(0)} }

func (c *jumper) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *jumper) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// "No TLSA records" is believed for a minute, also where the clock was set back by a year meanwhile.
func TestClockSetBackDoesNotKeepAnswers(t *testing.T) {
	l := newLab(t)
	own := smtppeer.SelfSigned("mx1.test")
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test")})
	l.records("clinic.test", dnspeer.Secure)
	l.records("mx1.test", dnspeer.Secure)
	clock := newJumper()
	tr := l.transport(func(o *smtp.Options) { o.Now = clock.now })
	_, err := l.deliver(tr, named)
	require.NoError(t, err)
	p.Reset()
	l.records("_25._tcp.mx1.test", record(t, own.Leaf, 3, 1, 1), dnspeer.Secure)
	clock.jump(-365 * 24 * time.Hour)
	for _, floor := range allFloors {
		_, err = l.deliver(tr, floor)
		require.Contains(t, rules(wantChannel(t, err).Wire.Reasons), "dane-mismatch")
		untouched(t, p)
	}
}

// A judgement ends with what it rests on: a kept connection, and one that streams, carries nothing more once the certificate
// has expired or the operator's agreement is over, whichever way the clock jumps.
func TestJudgementsEndOnStreamsToo(t *testing.T) {
	for name, ext := range map[string][]string{"chunks": chunking, "data": {"PIPELINING"}} {
		t.Run("certificate/"+name, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: ext})
			clock := newJumper()
			tr := l.transport(func(o *smtp.Options) { o.Stream, o.Now = &smtp.Stream{}, clock.now })
			_, err := l.deliver(tr, named)
			require.NoError(t, err)
			p.Reset()
			for _, d := range []time.Duration{100, -150} { // years: after the certificate's time, and before it
				clock.jump(d * 365 * 24 * time.Hour)
				_, err = l.deliver(tr, named)
				require.Contains(t, rules(wantChannel(t, err).Wire.Reasons), "expired")
				require.NotContains(t, strings.Join(p.Transcript(), " "), canary)
			}
		})
		t.Run("agreement/"+name, func(t *testing.T) {
			clock := newJumper()
			ends := *operator
			ends.Until = clock.now().Add(time.Hour)
			p, tr := newLab(t).relay(smtppeer.Options{TLS: ca.Config("relay.test"), Extensions: ext}, smtp.Relay{Operator: &ends}, func(o *smtp.Options) {
				o.Stream, o.Now = &smtp.Stream{}, clock.now
			})
			_, err := tr.Deliver(t.Context(), shipment(t, encrypted, hello))
			require.NoError(t, err)
			p.Reset()
			clock.jump(time.Hour)
			for _, floor := range []securemail.Channel{verified, named, encrypted} {
				_, err = tr.Deliver(t.Context(), shipment(t, floor, hello))
				require.Equal(t, "hop-unvouched operator-ended", rules(wantChannel(t, err).Wire.Reasons))
			}
			untouched(t, p)
		})
	}
	t.Run("policy", func(t *testing.T) { // a domain that begins to enforce gets nothing over the connection from before
		l := newLab(t)
		h := l.policyHost()
		p := l.mx(smtppeer.Options{TLS: smtppeer.ServerConfig(smtppeer.SelfSigned("mx1.test")), Extensions: chunking})
		clock := newJumper()
		tr := l.transport(func(o *smtp.Options) {
			o.Stream, o.Now, o.STS = &smtp.Stream{}, clock.now, l.cache(h, mtasts.NewMemory(nil), clock.now)
		})
		_, err := l.deliver(tr, encrypted)
		require.NoError(t, err)
		require.Equal(t, 1, tr.Idle())
		p.Reset()
		l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
		clock.jump(2 * time.Minute)
		for _, floor := range []securemail.Channel{encrypted, anyway} {
			_, err = l.deliver(tr, floor)
			require.Contains(t, rules(wantChannel(t, err).Wire.Reasons), "sts-pkix")
			require.NotContains(t, strings.Join(p.Transcript(), " "), canary)
		}
	})
}

// A message in line for a connection by DATA gets its envelope sent behind the final dot of the one before; not so where the
// certificate has expired since it came.
func TestNoEnvelopeBehindTheDotBelowTheFloor(t *testing.T) {
	l := newLab(t)
	p := l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: []string{"PIPELINING"}})
	clock := newJumper()
	tr := l.transport(func(o *smtp.Options) { o.Stream, o.Now = &smtp.Stream{}, clock.now })
	first, second := numbered(t, named, 1), shipment(t, named, hello)
	done := make(chan error, 1)
	first.OnIntend = func(context.Context) error {
		go func() {
			_, err := tr.Deliver(context.Background(), second)
			done <- err
		}()
		stacks := make([]byte, 1<<20)
		require.Eventually(t, func() bool { return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*lane).turn(") }, 10*time.Second, time.Millisecond)
		clock.jump(100 * 365 * 24 * time.Hour)
		return nil
	}
	_, err := tr.Deliver(t.Context(), first)
	require.NoError(t, err)
	select {
	case err = <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("the second message never went")
	}
	require.Contains(t, rules(wantChannel(t, err).Wire.Reasons), "expired")
	require.Len(t, p.Attempts(), 1)
	require.NotContains(t, strings.Join(p.Transcript(), " "), canary)
}

// What was known of policies when a message came is not believed for ever: one that can't get its turn behind others within
// five minutes comes again.
func TestStreamsDoNotQueueForLong(t *testing.T) {
	for way, window := range map[string]int{"chunks": 1, "data": 1, "data, in line": 8} {
		synctest.Test(t, func(t *testing.T) {
			way, _, _ := strings.Cut(way, ",")
			p := smtppeer.New(smtppeer.Options{Extensions: streamWays[way], Hook: func(e smtppeer.Event) *smtppeer.Action {
				if e.Stage == smtppeer.StageDot {
					return &smtppeer.Action{Delay: 9 * time.Minute}
				}
				return nil
			}})
			tr := bubble(t, p, func(o *smtp.Options) {
				o.Stream, o.Timeouts.Dot = &smtp.Stream{Window: window}, 20*time.Minute
			})
			begin := time.Now()
			done := make(chan error, 1)
			go func() {
				_, err := tr.Deliver(t.Context(), numbered(t, anyway, 1))
				done <- err
			}()
			time.Sleep(time.Second)
			_, err := tr.Deliver(t.Context(), numbered(t, anyway, 2))
			d := wantDelivery(t, err)
			require.Equal(t, securemail.FateRetry, d.Fate)
			require.ErrorContains(t, err, "limits")
			require.Equal(t, 5*time.Minute+time.Second, time.Since(begin))
			require.NoError(t, <-done)
			require.NoError(t, tr.Close())
			synctest.Wait()
		})
	}
}
