package transporttest_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// refHarness builds the reference with f's faults.
func refHarness(f faults) transporttest.Harness {
	return transporttest.Harness{Grace: 500 * time.Millisecond, New: func(_ context.Context, s transporttest.Setup) (*transporttest.Rig, error) {
		far, pki, err := newSMTPFar(s, "mx.recipient.example")
		if err != nil {
			return nil, err
		}
		ref := &reference{addr: far.addr, host: "mx.recipient.example", roots: pki.Roots(), log: s.Logger, faults: f}
		switch s.Behaviour {
		case transporttest.Relay:
			ref.relay = true
		case transporttest.LapsedRelay, transporttest.VouchedRelay:
			until := time.Now().Add(time.Hour)
			if s.Behaviour == transporttest.LapsedRelay {
				until = time.Now().Add(-time.Hour)
			}
			ref.relay, ref.operator = true, &securemail.Operator{Name: "Relay", Agreement: "BAA-1", Until: until}
		}
		return &transporttest.Rig{Transport: ref, Far: far, Recover: far.recover, Close: far.Close}, nil
	}}
}

func TestReferencePasses(t *testing.T) { transporttest.Run(t, refHarness(faults{})) }

// mutant is a broken transport: the reference with faults, or transport/smtp behind a wrap. kills is the rule that must
// reject it, by a part of the rule's text.
type mutant struct {
	name   string
	faults faults
	wrap   func(securemail.Transport) securemail.Transport
	kills  string
	probe  func(r *transporttest.Rig) securemail.Prober
}

func (m mutant) harness() transporttest.Harness {
	if m.wrap != nil || m.probe != nil {
		return smtpMutant(m)
	}
	return refHarness(m.faults)
}

// after changes what Deliver returns.
func after(f func(r *securemail.Receipt, err error) (*securemail.Receipt, error)) func(securemail.Transport) securemail.Transport {
	return func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			return f(t.Deliver(ctx, s))
		})
	}
}

// receipt changes the receipt of a success.
func receipt(f func(r *securemail.Receipt)) func(securemail.Transport) securemail.Transport {
	return after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if r != nil {
			f(r)
		}
		return r, err
	})
}

// before changes a copy of the shipment.
func before(f func(s *securemail.Shipment)) func(securemail.Transport) securemail.Transport {
	return func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			c := *s
			f(&c)
			return t.Deliver(ctx, &c)
		})
	}
}

var mutants = []mutant{
	{name: "no Intend", wrap: before(func(s *securemail.Shipment) { s.OnIntend = nil }), kills: "without Intend"},
	{name: "Intend after the end", faults: faults{intendLate: true}, kills: "before the octet"},
	{name: "Intend's error ignored", faults: faults{intendIgnored: true}, kills: "stops the delivery"},
	{name: "Intend before the recipient", faults: faults{intendFirst: true}, kills: "after the recipient"},
	{name: "Intend before the floor", faults: faults{intendEarly: true}, kills: "no byte of the message left"},
	{name: "empty Receipt", wrap: receipt(func(r *securemail.Receipt) { *r = securemail.Receipt{} }), kills: "receipt is complete"},
	{name: "Receipt without Time", wrap: receipt(func(r *securemail.Receipt) { r.Time = time.Time{} }), kills: "receipt is complete"},
	{name: "Receipt without TLS facts", wrap: receipt(func(r *securemail.Receipt) { r.TLS = nil }), kills: "receipt is complete"},
	{name: "Receipt without Proof", wrap: receipt(func(r *securemail.Receipt) { r.Proof = "" }), kills: "receipt is complete"},
	{name: "always the same TLS facts", wrap: receipt(func(r *securemail.Receipt) {
		r.TLS = &securemail.TLSFacts{Version: 0x304, Suite: 0x1301}
	}), kills: "receipt says what was"},
	{name: "claims Verified without proof", wrap: receipt(func(r *securemail.Receipt) { r.Proof = securemail.ProofConfigured }), kills: "claims no more"},
	{name: "HopFinal for a relay", wrap: receipt(func(r *securemail.Receipt) { r.Hop = securemail.HopFinal }), kills: "relay proves only"},
	{name: "HopAsserted without an Operator", wrap: receipt(func(r *securemail.Receipt) {
		if r.Hop == securemail.HopRelay {
			r.Hop = securemail.HopAsserted
		}
	}), kills: "relay proves only"},
	{name: "plain errors", wrap: after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if err != nil && !errors.Is(err, securemail.ErrChannel) {
			err = errors.New("failed")
		}
		return r, err
	}), kills: "clear answer"},
	{name: "address in errors", faults: faults{addressInError: true}, kills: "no content and no address"},
	{name: "far end's text in errors", faults: faults{replyInError: true}, kills: "no content and no address"},
	{name: "whole reply as RemoteID", faults: faults{replyAsID: true}, kills: "no content and no address"},
	{name: "logs the subject at debug level", faults: faults{logsSubject: true}, kills: "no content and no address"},
	{name: "logs the address to the default logger", faults: faults{logsToDefault: true}, kills: "no content and no address"},
	{name: "clear below the floor", faults: faults{clearBelowFloor: true}, kills: "below the floor"},
	{name: "clear after a strip", faults: faults{clearAfterStrip: true}, kills: "below the floor"},
	{name: "takes a bad certificate", faults: faults{trustAnyCert: true}, kills: "below the floor"},
	{name: "takes TLS 1.0", faults: faults{oldTLS: true}, kills: "below the floor"},
	{name: "drops RequireTLS", wrap: before(func(s *securemail.Shipment) { s.RequireTLS = false }), kills: "RequireTLS"},
	{name: "ErrChannel behind the envelope", faults: faults{channelLate: true}, kills: "no byte of the message left"},
	{name: "ErrChannel for an outage", faults: faults{channelForOutage: true}, kills: "not known right now"},
	{name: "lost reply is success", faults: faults{lostIsSuccess: true}, kills: "may have taken"},
	{name: "lost reply is retry", faults: faults{lostIsRetry: true}, kills: "may have taken"},
	{name: "repeats after a lost reply", faults: faults{retriesAlone: true}, kills: "one message into the mailbox"},
	{name: "4xx is permanent", faults: faults{tempIsPermanent: true}, kills: "clear answer"},
	{name: "5xx is retry", faults: faults{permIsRetry: true}, kills: "clear answer"},
	{name: "uncertain before Intend", wrap: after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Code == 0 {
			de.Fate = securemail.FateUncertain
		}
		return r, err
	}), kills: "before Intend"},
	{name: "everything is ErrChannel", wrap: after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if err != nil {
			err = securemail.ErrChannel
		}
		return r, err
	}), kills: "no byte of the message left"},
	{name: "ignores ctx", faults: faults{ignoresCtx: true}, kills: "ctx bounds"},
	{name: "no dot stuffing", faults: faults{noStuffing: true}, kills: "exactly the message"},
	{name: "bare LF", faults: faults{bareLF: true}, kills: "exactly the message"},
	{name: "strips trailing space", faults: faults{stripsSpace: true}, kills: "exactly the message"},
	{name: "adds a header", faults: faults{addsHeader: true}, kills: "exactly the message"},
	{name: "keeps state after a failure", faults: faults{keepsError: true}, kills: "leaves nothing behind"},
	{name: "mixes recipients of deliveries at once", faults: faults{sharesRcpt: true}, kills: "one message into the mailbox"},
	{name: "keeps a reply of any length", faults: faults{readsAll: true}, kills: "bounded in memory"},
	{name: "nil receipt, nil error", wrap: after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if err != nil && !errors.Is(err, securemail.ErrChannel) {
			return nil, nil
		}
		return r, err
	}), kills: "receipt or an error"},
	{name: "changes the shipment", wrap: func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			defer func() { s.Labels["sent"] = "yes" }()
			return t.Deliver(ctx, s)
		})
	}, kills: "never changed"},
	{name: "asks Intend again after its error", wrap: func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			r, err := t.Deliver(ctx, s)
			if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Code == 0 && de.Fate == securemail.FateRetry {
				return t.Deliver(ctx, s)
			}
			return r, err
		})
	}, kills: "stops the delivery"},
	{name: "subject in base64 in errors", wrap: func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			r, err := t.Deliver(ctx, s)
			if de, ok := errors.AsType[*securemail.DeliveryError](err); ok {
				de.Err = errors.New(base64.StdEncoding.EncodeToString([]byte(s.Message.Header("Subject")[0])))
			}
			return r, err
		})
	}, kills: "no content and no address"},
	{name: "address in a joined error", wrap: func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			r, err := t.Deliver(ctx, s)
			if err != nil {
				err = &hiding{errors.Join(err, errors.New(s.Recipient.Address.Reveal()))}
			}
			return r, err
		})
	}, kills: "no content and no address"},
	{name: "Prober claims the best always", probe: prober(func(*transporttest.Rig) (securemail.Route, error) {
		return securemail.Route{Known: true, Wire: bestWire}, nil
	}), kills: "Prober finds"},
	{name: "Prober says no TLS where nothing is known", probe: func(r *transporttest.Rig) securemail.Prober {
		p := r.Prober
		return probeFunc(func(ctx context.Context, tenant, domain string) (securemail.Route, error) {
			route, err := p.Probe(ctx, tenant, domain)
			if err != nil || !route.Known {
				return securemail.Route{Known: true}, nil
			}
			return route, nil
		})
	}, kills: "Prober finds"},
	{name: "Prober never knows", probe: prober(func(*transporttest.Rig) (securemail.Route, error) {
		return securemail.Route{}, nil
	}), kills: "Prober finds"},
	{name: "Prober ignores ctx", probe: func(r *transporttest.Rig) securemail.Prober {
		p := r.Prober
		return probeFunc(func(ctx context.Context, tenant, domain string) (securemail.Route, error) {
			return p.Probe(context.WithoutCancel(ctx), tenant, domain)
		})
	}, kills: "ctx bounds"},
	{name: "takes an expired certificate", faults: faults{expiredIsFine: true}, kills: "below the floor"},
	{name: "a floor met once is met", faults: faults{floorOnce: true}, kills: "below the floor"},
	{name: "author as envelope sender", faults: faults{fromIsSender: true}, kills: "ReturnPath"},
	{name: "lower-cases local parts", faults: faults{foldsRcpt: true}, kills: "one message into the mailbox"},
	{name: "leaves the message open", faults: faults{leavesOpen: true}, kills: "opens it closes"},
	{name: "cuts long messages", faults: faults{cutsLong: true}, kills: "exactly the message"},
	{name: "needs no reply", faults: faults{needsNoReply: true}, kills: "clear answer"},
	{name: "negative RetryAfter", wrap: after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if de, ok := errors.AsType[*securemail.DeliveryError](err); ok {
			de.RetryAfter = -time.Hour
		}
		return r, err
	}), kills: "clear answer"},
	{name: "recipient as Peer", wrap: func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			r, err := t.Deliver(ctx, s)
			if r != nil {
				r.Peer = s.Recipient.Address.Reveal()
			}
			return r, err
		})
	}, kills: "no content and no address"},
	{name: "address in Enhanced", wrap: func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			r, err := t.Deliver(ctx, s)
			if de, ok := errors.AsType[*securemail.DeliveryError](err); ok {
				de.Enhanced = s.Recipient.Address.Reveal()
			}
			return r, err
		})
	}, kills: "no content and no address"},
	{name: "end of ctx after the body is retry", wrap: func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			r, err := t.Deliver(ctx, s)
			if err != nil && ctx.Err() != nil {
				err = &securemail.DeliveryError{Stage: "dot", Err: ctx.Err()}
			}
			return r, err
		})
	}, kills: "may have taken"},
	{name: "Prober sends a message", probe: func(r *transporttest.Rig) securemail.Prober {
		p, t := r.Prober, r.Transport
		return probeFunc(func(ctx context.Context, tenant, domain string) (securemail.Route, error) {
			to, _ := securemail.ParseAddress("probe@" + domain)
			m, _ := securemail.NewMessage(securemail.Bytes([]byte("Subject: probe\r\n\r\nx\r\n")))
			_, _ = t.Deliver(ctx, &securemail.Shipment{Channel: securemail.ChannelAny, Parcel: &securemail.Parcel{
				Slip: securemail.Slip{Recipient: securemail.Contact{Address: to}}, Message: m,
			}})
			return p.Probe(ctx, tenant, domain)
		})
	}, kills: "Prober finds"},
	{name: "panics on a refusal", wrap: after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Code != 0 {
			panic("refused")
		}
		return r, err
	}), kills: "does not panic"},
}

// hiding shows nothing of what it wraps; what it wraps can still be reached.
type hiding struct{ error }

func (h *hiding) Error() string { return "failed" }
func (h *hiding) Unwrap() error { return h.error }

type probeFunc func(ctx context.Context, tenant, domain string) (securemail.Route, error)

func (f probeFunc) Probe(ctx context.Context, tenant, domain string) (securemail.Route, error) {
	return f(ctx, tenant, domain)
}

// prober answers the same always.
func prober(f func(*transporttest.Rig) (securemail.Route, error)) func(*transporttest.Rig) securemail.Prober {
	return func(r *transporttest.Rig) securemail.Prober {
		return probeFunc(func(context.Context, string, string) (securemail.Route, error) { return f(r) })
	}
}

var bestWire = securemail.Wire{
	TLS:   &securemail.TLSFacts{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256},
	Proof: securemail.ProofDANE, Hop: securemail.HopFinal,
}

// TestMutants runs the kit against every broken transport: it must reject each, by the rule that the mutant breaks.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("a run of the kit for each mutant")
	}
	verdicts := make([]string, len(mutants))
	slots := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for i, m := range mutants {
		wg.Go(func() { // many at once: the kit waits more than it works
			slots <- struct{}{}
			defer func() { <-slots }()
			if !m.faults.readsAll { // looks at the heap, so it runs alone
				verdicts[i] = kill(t, m, func(name string) bool {
					return name != hugeCase && (m.probe == nil || strings.HasPrefix(name, "probe/"))
				})
			}
		})
	}
	wg.Wait()
	killed := 0
	for i, m := range mutants {
		if m.faults.readsAll {
			verdicts[i] = kill(t, m, func(name string) bool { return name == hugeCase })
		}
		if verdicts[i] == "" {
			killed++
			continue
		}
		t.Errorf("%s: %s", m.name, verdicts[i])
	}
	t.Logf("killed %d of %d mutants", killed, len(mutants))
	require.GreaterOrEqual(t, len(mutants), 18)
}

const hugeCase = "fate/HugeReply"

// kill runs the wanted cases against m and says why it is not killed as it should; "" if it is.
func kill(t *testing.T, m mutant, want func(string) bool) string {
	right := func(f transporttest.Failure) bool { return strings.Contains(f.Rule, m.kills) }
	rep := transporttest.CheckCases(t.Context(), m.harness(), m.faults.logsToDefault, want, right)
	if len(rep.Failures) == 0 {
		return "survived"
	}
	if !slices.ContainsFunc(rep.Failures, right) {
		return "rejected, but not by the rule \"" + m.kills + "\": " + rep.Failures[0].Rule + ": " + rep.Failures[0].Detail
	}
	return ""
}
