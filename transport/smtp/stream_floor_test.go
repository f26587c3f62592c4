package smtp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

var streamWays = map[string][]string{"chunks": chunking, "data": {"PIPELINING"}}

// unseen says that p saw nothing of a mail. The proof that comes before a stream names nobody.
func unseen(t testing.TB, p *smtppeer.Peer) {
	t.Helper()
	for _, line := range p.Transcript() {
		require.False(t, strings.HasPrefix(line, "RCPT") || strings.HasPrefix(line, "MAIL") && line != "MAIL FROM:<>", line)
		require.NotContains(t, line, canary)
	}
	for _, m := range p.Attempts() {
		require.Empty(t, m.Rcpts)
		require.NotContains(t, string(m.Data), canary)
	}
}

// Stripped or injected STARTTLS, and all else that a man in the middle can do, gets no more out of a stream than out of a
// connection of its own: one that was good before is no credit, whether or not it is still open.
func TestManInTheMiddleOfAStream(t *testing.T) {
	cert := ca.Cert("mx1.test")
	policies := map[string]func(l *lab, o *smtp.Options){
		"none": func(*lab, *smtp.Options) {},
		"dane": func(l *lab, _ *smtp.Options) { l.tlsa("mx1.test", record(l, cert.Leaf, 3, 1, 1)) },
		"mta-sts": func(l *lab, o *smtp.Options) {
			h := l.policyHost()
			l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
			o.STS = l.cache(h, mtasts.NewMemory(nil), nil)
		},
	}
	for policy, arrange := range policies {
		for way, ext := range streamWays {
			for attack, o := range attacks("mx1.test") {
				t.Run(policy+"/"+way+"/"+attack, func(t *testing.T) {
					l := newLab(t)
					good := l.mx(smtppeer.Options{TLS: smtppeer.ServerConfig(cert), Extensions: ext})
					tr := l.transport(func(o *smtp.Options) {
						arrange(l, o)
						o.Stream = &smtp.Stream{}
					})
					floors := []securemail.Channel{named}
					if policy != "none" {
						floors = allFloors
					}
					for _, floor := range floors {
						_, err := l.deliver(tr, floor)
						require.NoError(t, err)
					}
					o.Extensions, o.Hostname = ext, "mx1.test"
					evil, err := smtppeer.Start(o)
					require.NoError(t, err)
					defer evil.Close()
					l.hosts["192.0.2.1"] = evil
					good.Drop() // and the connections from before
					for _, floor := range floors {
						_, err := l.deliver(tr, floor)
						unseen(t, evil)
						if !errors.Is(err, smtp.ErrInjected) {
							wantChannel(t, err)
						}
					}
				})
			}
		}
	}
}

// Trap 12 with streams: many at once to domains with one mail host. None goes over a connection that was opened for a domain
// with another policy, and none at all to a domain whose policy does not name the host.
func TestStreamsToOneHostWithManyPolicies(t *testing.T) {
	for way, ext := range streamWays {
		t.Run(way, func(t *testing.T) {
			l := newLab(t)
			h := l.policyHost()
			p := l.host("mx1.test", smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: ext})
			domains := []string{"clinic.test", "other.test", "third.test", "fourth.test"}
			for _, d := range domains {
				l.records(d, "MX 1 mx1.test.")
			}
			l.publish(h, "clinic.test", "1", mtasts.Enforce, "mx1.test")
			l.publish(h, "other.test", "1", mtasts.Testing, "mx1.test")
			l.publish(h, "third.test", "1", mtasts.Enforce, "mx3.test")
			tr := l.transport(func(o *smtp.Options) {
				o.STS, o.Stream = l.cache(h, mtasts.NewMemory(nil), nil), &smtp.Stream{}
			})
			var wg sync.WaitGroup
			errs := make([]error, 80)
			for i := range errs {
				s := shipment(t, named, hello)
				s.Recipient.Address = address(t, fmt.Sprintf("r%d@%s", i, domains[i%4]))
				wg.Go(func() { _, errs[i] = tr.Deliver(context.Background(), s) })
			}
			wg.Wait()
			for i, err := range errs {
				if domains[i%4] == "third.test" {
					require.Contains(t, rules(wantChannel(t, err).Wire.Reasons), "sts-mx-mismatch")
					continue
				}
				require.NoError(t, err)
			}
			of := map[int]string{}
			for _, m := range p.Messages() {
				if len(m.Rcpts) == 0 {
					continue
				}
				_, domain, _ := strings.Cut(m.Rcpts[0], "@")
				require.NotEqual(t, "third.test", domain)
				if was, ok := of[m.Conn]; ok {
					require.Equal(t, was, domain, "one connection for two policies")
				}
				of[m.Conn] = domain
			}
		})
	}
}

// Streams of tenants with identities of their own never share a connection.
func TestStreamsKeepIdentitiesApart(t *testing.T) {
	for way, ext := range streamWays {
		t.Run(way, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{Extensions: ext})
			tr := l.transport(func(o *smtp.Options) {
				o.Stream = &smtp.Stream{}
				o.Identity = func(s *securemail.Slip) smtp.Identity { return smtp.Identity{HELO: string(s.Actor.Tenant) + ".test"} }
			})
			var wg sync.WaitGroup
			for i := range 60 {
				s := numbered(t, anyway, i)
				s.Actor.Tenant = fmt.Sprintf("tenant%d", i%3)
				wg.Go(func() {
					if _, err := tr.Deliver(context.Background(), s); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			require.Len(t, whole(t, p), 60)
			for _, m := range p.Messages() {
				var n int
				if _, err := fmt.Sscanf(m.From, "s%d@", &n); err == nil {
					require.Equal(t, fmt.Sprintf("tenant%d.test", n%3), m.HELO)
				}
			}
		})
	}
}

// Close in the middle of streams: each delivery gets its own result, none is lost or doubled, and nothing stays open.
func TestCloseDuringStreams(t *testing.T) {
	for way, ext := range streamWays {
		for after := range 4 {
			t.Run(fmt.Sprint(way, "/", after*20), func(t *testing.T) {
				l := newLab(t)
				var tr *smtp.Transport
				var once sync.Once
				p := l.mx(smtppeer.Options{Extensions: ext, Hook: func(e smtppeer.Event) *smtppeer.Action {
					if e.Stage == smtppeer.StageDot && e.Taken == after*20 {
						once.Do(func() { _ = tr.Close() })
					}
					return nil
				}})
				tr = l.transport(streaming)
				errs := deliverAll(t, tr, anyway, 80)
				judge(t, p, errs)
				for _, err := range errs {
					if err != nil {
						require.ErrorIs(t, err, smtp.ErrClosed)
					}
				}
				require.Zero(t, tr.Idle())
				require.Eventually(t, func() bool { return p.Open() == 0 }, 10*time.Second, time.Millisecond)
			})
		}
	}
}

// Personal data is in no error, log, reason or report of a stream, though far ends echo it.
func TestNoPersonalDataOfStreams(t *testing.T) {
	echo := "5.1.1 <" + canary + "@clinic.test> " + canary + " queued as " + canary + "@x"
	var logs lockedBuffer
	logger := slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, ext := range streamWays {
		for _, stage := range []smtppeer.Stage{
			smtppeer.StageStartTLS, smtppeer.StageReset, smtppeer.StageMail, smtppeer.StageRcpt, smtppeer.StageData, smtppeer.StageDot,
		} {
			for _, a := range []smtppeer.Action{
				{Code: 550, Text: echo}, {Code: 421, Text: echo, Close: true}, {Raw: echo + "\r\n", Close: true}, {Code: 250, Text: echo},
			} {
				l := newLab(t)
				h := l.policyHost()
				l.publish(h, "clinic.test", "1", mtasts.Testing, "mx9.test")
				l.mx(smtppeer.Options{TLS: ca.Config("mx1.test"), Extensions: ext, On: on(stage, a)})
				reports := &collector{}
				tr := l.transport(func(o *smtp.Options) {
					o.Stream, o.Logger, o.TLSRPT, o.STS = &smtp.Stream{}, logger, reports, l.cache(h, mtasts.NewMemory(nil), nil)
					o.Timeouts = smtp.Timeouts{EHLO: time.Second, Handshake: time.Second, Mail: time.Second, Rcpt: time.Second, DataInit: time.Second, Dot: time.Second}
				})
				r, err := l.deliver(tr, named)
				switch {
				case r != nil:
					require.NotContains(t, fmt.Sprintf("%+v", *r), canary)
				default:
					require.NotContains(t, fmt.Sprintf("%+v %q", err, err), canary)
					if d, ok := errorAs[*securemail.DeliveryError](err); ok {
						require.NotContains(t, fmt.Sprint(d.Wire), canary)
					}
				}
				require.NotContains(t, fmt.Sprintf("%+v", reports.all()), canary)
				seen, err := tr.Observe(t.Context(), "", "clinic.test")
				require.NoError(t, err)
				require.NotContains(t, fmt.Sprintf("%+v", *seen), canary)
			}
		}
	}
	require.NotEmpty(t, logs.b.String())
	require.False(t, bytes.Contains(logs.b.Bytes(), []byte(canary)) || bytes.Contains(logs.b.Bytes(), []byte("@")))
}

// In a stream too Intend comes before the far end can have the message, and one that fails leaves it with nobody and
// harms no neighbour.
func TestIntendInStreams(t *testing.T) {
	for way, ext := range streamWays {
		t.Run(way, func(t *testing.T) {
			l := newLab(t)
			p := l.mx(smtppeer.Options{Extensions: ext})
			tr := l.transport(streaming)
			errs, intents := make([]error, 60), make([]int, 60)
			disk := errors.New("disk full")
			var wg sync.WaitGroup
			for i := range errs {
				s := numbered(t, anyway, i)
				s.OnIntend = func(context.Context) error {
					intents[i]++
					for _, m := range p.Attempts() {
						if m.Complete && strings.HasPrefix(m.From, fmt.Sprintf("s%d@", i)) {
							return errors.New("it is there already")
						}
					}
					if i%5 == 0 {
						return disk
					}
					return nil
				}
				wg.Go(func() { _, errs[i] = tr.Deliver(context.Background(), s) })
			}
			wg.Wait()
			taken := whole(t, p)
			for i, err := range errs {
				if err == nil {
					require.NotZero(t, i%5)
					require.Positive(t, intents[i])
					require.Equal(t, 1, taken[i])
					continue
				}
				require.Equal(t, securemail.FateRetry, wantDelivery(t, err).Fate)
				require.Zero(t, taken[i])
				if i%5 == 0 && intents[i] > 0 {
					require.ErrorIs(t, err, disk)
				}
				// DATA can't be taken back, so that such a failure costs the connection, and those behind may lose several in a row.
				require.True(t, i%5 == 0 || way == "data", "message %d: %v", i, err)
			}
		})
	}
}

// TLSA records that can't be used ask for TLS all the same (RFC 7672 section 2.2), whatever the floor, and then within the
// profile; whose certificate it is does not matter.
func TestUnusableRecordsMakeTLSMandatory(t *testing.T) {
	authenticates := map[string]bool{"swaps the certificate": true, "has one for other name": true, "has one that ended": true}
	for attack, o := range attacks("mx1.test") {
		for _, stream := range []*smtp.Stream{nil, {}} {
			t.Run(fmt.Sprint(attack, "/", stream != nil), func(t *testing.T) {
				l := newLab(t)
				p := l.mx(o)
				l.tlsa("mx1.test", unusable)
				tr := l.transport(func(o *smtp.Options) { o.Stream = stream })
				for _, floor := range []securemail.Channel{encrypted, anyway} {
					r, err := l.deliver(tr, floor)
					if authenticates[attack] {
						require.NoError(t, err)
						require.NotNil(t, r.TLS)
						continue
					}
					unseen(t, p)
					if !errors.Is(err, smtp.ErrInjected) {
						wantChannel(t, err)
					}
				}
			})
		}
	}
}
