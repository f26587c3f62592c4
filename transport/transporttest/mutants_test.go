package transporttest_test

import (
	"context"
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

// refHarness builds the reference with f's faults, seen through wrap where that is not nil.
func refHarness(f faults, wrap func(securemail.Transport) securemail.Transport) transporttest.Harness {
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
		var t securemail.Transport = ref
		if wrap != nil {
			t = wrap(ref)
		}
		return &transporttest.Rig{Transport: t, Far: far, Recover: far.recover, Close: far.Close}, nil
	}}
}

func TestReferencePasses(t *testing.T) { transporttest.Run(t, refHarness(faults{}, nil)) }

// mutant is a broken transport; kills is the rule whose cases must reject it, by a part of the rule's text.
type mutant struct {
	name   string
	faults faults
	wrap   func(securemail.Transport) securemail.Transport
	kills  string
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
	{"no Intend", faults{}, before(func(s *securemail.Shipment) { s.OnIntend = nil }), "without Intend"},
	{"Intend after the end", faults{intendLate: true}, nil, "before the octet"},
	{"Intend's error ignored", faults{intendIgnored: true}, nil, "stops the delivery"},
	{"Intend before the recipient", faults{intendFirst: true}, nil, "after the recipient"},
	{"Intend before the floor", faults{intendEarly: true}, nil, "no byte of the message left"},
	{"empty Receipt", faults{}, receipt(func(r *securemail.Receipt) { *r = securemail.Receipt{} }), "receipt is complete"},
	{"Receipt without Time", faults{}, receipt(func(r *securemail.Receipt) { r.Time = time.Time{} }), "receipt is complete"},
	{"Receipt without TLS facts", faults{}, receipt(func(r *securemail.Receipt) { r.TLS = nil }), "receipt is complete"},
	{"Receipt without Proof", faults{}, receipt(func(r *securemail.Receipt) { r.Proof = "" }), "receipt is complete"},
	{"always the same TLS facts", faults{}, receipt(func(r *securemail.Receipt) {
		r.TLS = &securemail.TLSFacts{Version: 0x304, Suite: 0x1301}
	}), "receipt says what was"},
	{"claims Verified without proof", faults{}, receipt(func(r *securemail.Receipt) { r.Proof = securemail.ProofConfigured }), "claims no more"},
	{"HopFinal for a relay", faults{}, receipt(func(r *securemail.Receipt) { r.Hop = securemail.HopFinal }), "relay proves only"},
	{"HopAsserted without an Operator", faults{}, receipt(func(r *securemail.Receipt) {
		if r.Hop == securemail.HopRelay {
			r.Hop = securemail.HopAsserted
		}
	}), "relay proves only"},
	{"plain errors", faults{}, after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if err != nil && !errors.Is(err, securemail.ErrChannel) {
			err = errors.New("failed")
		}
		return r, err
	}), "clear answer"},
	{"address in errors", faults{addressInError: true}, nil, "no content and no address"},
	{"far end's text in errors", faults{replyInError: true}, nil, "no content and no address"},
	{"whole reply as RemoteID", faults{replyAsID: true}, nil, "no content and no address"},
	{"logs the subject at debug level", faults{logsSubject: true}, nil, "no content and no address"},
	{"logs the address to the default logger", faults{logsToDefault: true}, nil, "no content and no address"},
	{"clear below the floor", faults{clearBelowFloor: true}, nil, "below the floor"},
	{"clear after a strip", faults{clearAfterStrip: true}, nil, "below the floor"},
	{"takes a bad certificate", faults{trustAnyCert: true}, nil, "below the floor"},
	{"takes TLS 1.0", faults{oldTLS: true}, nil, "below the floor"},
	{"ErrChannel behind the envelope", faults{channelLate: true}, nil, "no byte of the message left"},
	{"ErrChannel for an outage", faults{channelForOutage: true}, nil, "not known right now"},
	{"lost reply is success", faults{lostIsSuccess: true}, nil, "may have taken"},
	{"lost reply is retry", faults{lostIsRetry: true}, nil, "may have taken"},
	{"repeats after a lost reply", faults{retriesAlone: true}, nil, "one message into the mailbox"},
	{"4xx is permanent", faults{tempIsPermanent: true}, nil, "clear answer"},
	{"5xx is retry", faults{permIsRetry: true}, nil, "clear answer"},
	{"uncertain before Intend", faults{}, after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Code == 0 {
			de.Fate = securemail.FateUncertain
		}
		return r, err
	}), "before Intend"},
	{"everything is ErrChannel", faults{}, after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if err != nil {
			err = securemail.ErrChannel
		}
		return r, err
	}), "no byte of the message left"},
	{"ignores ctx", faults{ignoresCtx: true}, nil, "ctx bounds"},
	{"no dot stuffing", faults{noStuffing: true}, nil, "exactly the message"},
	{"bare LF", faults{bareLF: true}, nil, "exactly the message"},
	{"strips trailing space", faults{stripsSpace: true}, nil, "exactly the message"},
	{"adds a header", faults{addsHeader: true}, nil, "exactly the message"},
	{"keeps state after a failure", faults{keepsError: true}, nil, "leaves nothing behind"},
	{"mixes recipients of deliveries at once", faults{sharesRcpt: true}, nil, "one message into the mailbox"},
	{"keeps a reply of any length", faults{readsAll: true}, nil, "bounded in memory"},
	{"nil receipt, nil error", faults{}, after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if err != nil && !errors.Is(err, securemail.ErrChannel) {
			return nil, nil
		}
		return r, err
	}), "receipt or an error"},
	{"changes the shipment", faults{}, func(t securemail.Transport) securemail.Transport {
		return securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
			defer func() { s.Labels["sent"] = "yes" }()
			return t.Deliver(ctx, s)
		})
	}, "never changed"},
	{"panics on a refusal", faults{}, after(func(r *securemail.Receipt, err error) (*securemail.Receipt, error) {
		if de, ok := errors.AsType[*securemail.DeliveryError](err); ok && de.Code != 0 {
			panic("refused")
		}
		return r, err
	}), "does not panic"},
}

// TestMutants runs the kit against every broken transport: it must reject each, by the rule that the mutant breaks.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("a run of the kit for each mutant")
	}
	verdicts := make([]string, len(mutants))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 48) // the kit waits more than it works
	for i, m := range mutants {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			verdicts[i] = kill(t, m, func(name string) bool { return name != hugeCase })
		})
	}
	wg.Wait()
	killed := 0
	for i, m := range mutants {
		if verdicts[i] == "survived" && m.faults.readsAll { // looks at the heap, so it runs alone
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
	rep := transporttest.CheckCases(t.Context(), refHarness(m.faults, m.wrap), m.faults.logsToDefault, want)
	if len(rep.Failures) == 0 {
		return "survived"
	}
	if !slices.ContainsFunc(rep.Failures, func(f transporttest.Failure) bool { return strings.Contains(f.Rule, m.kills) }) {
		return "rejected, but not by the rule \"" + m.kills + "\": " + rep.Failures[0].Rule + ": " + rep.Failures[0].Detail
	}
	return ""
}
