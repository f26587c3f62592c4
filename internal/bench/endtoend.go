package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/dkim"
	"github.com/postseal/postseal/transport/smtp"
)

const (
	hosts  = 64               // producers of the whole way
	endAll = 60 * time.Second // a round ends by then, or is an error
)

// endToEnd measures the whole way on SQLite: Send by 64 producers while Run delivers over TLS with a proved name to a far
// end on loopback, a process of its own on the same cores. Every message is durable before it is accepted, its intent
// before it is delivered, and its outcome and audit entry after.
func (d *durability) endToEnd(ctx context.Context) error {
	f, err := startSink()
	if err != nil {
		return err
	}
	defer func() { _ = f.stop() }()
	signers := []struct {
		name  string
		keys  []dkim.Algorithm
		floor float64
	}{{name: "no DKIM", floor: 3000}, {name: "DKIM RSA-2048", keys: []dkim.Algorithm{dkim.RSA}}, {name: "DKIM Ed25519", keys: []dkim.Algorithm{dkim.Ed25519}}}
	for _, s := range signers {
		signer, err := signerOf(s.keys)
		if err != nil {
			return err
		}
		figures, err := d.compete(ctx, at(sqliteStore(d.dir), func(ctx context.Context, p *place) (float64, error) {
			return d.wayRate(ctx, p, f, signer)
		}))
		if err != nil {
			return err
		}
		name := "accept to delivered over TLS, " + s.name
		if s.floor > 0 {
			d.goal(name, "msg/s", figures[0], s.floor)
		} else {
			d.row(Result{Name: name, Unit: "msg/s", Peer: "Postfix 3.7, no DKIM", Floor: 1}, figures[0], []float64{postfixMost})
		}
	}
	return nil
}

// postfixMost is the most that was measured of Postfix 3.7 on two cores, inject and deliver, in messages a second.
const postfixMost = 1045

func signerOf(kinds []dkim.Algorithm) (*dkim.Signer, error) {
	if len(kinds) == 0 {
		return nil, nil
	}
	var keys []dkim.Key
	for _, k := range kinds {
		private, err := dkim.Generate(k)
		if err != nil {
			return nil, err
		}
		keys = append(keys, dkim.Key{Domain: "sender.test", Selector: string(k), Private: private})
	}
	return dkim.New(keys, nil)
}

func (d *durability) wayRate(ctx context.Context, p *place, f *far, signer *dkim.Signer) (rate float64, err error) {
	addr, err := netip.ParseAddrPort(f.addrs.Secure)
	if err != nil {
		return 0, err
	}
	sys, err := preset.OpenDB(ctx, p.db, p.file, &preset.Options{
		DKIM: signer, Logger: slog.New(slog.DiscardHandler),
		SMTP: &smtp.Options{
			HELO: "client.test", Resolver: benchDNS{addr.Addr()}, Port: addr.Port(), RootCAs: f.roots, MaxUses: 1 << 30,
			Limits: smtp.Limits{Connections: 8, Max: 8}, MaxIdlePerHost: 8,
		},
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, sys.Close()) }()
	before, err := f.tally()
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithTimeout(ctx, endAll)
	var running sync.WaitGroup
	var runErr error
	start := time.Now()
	running.Go(func() { runErr = sys.Run(ctx) })
	sent := 0
	n := max(1, d.messages/hosts)
	errs := make([]error, hosts)
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() {
			for range n {
				if _, errs[i] = sys.Send(ctx, draft()); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	sent = n * hosts
	var after tally
	for err = errors.Join(errs...); err == nil && after.Messages-before.Messages < sent && ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
		after, err = f.tally()
	}
	took := time.Since(start)
	if got := after.Messages - before.Messages; err == nil && got != sent {
		err = fmt.Errorf("the far end counted %d messages of %d", got, sent)
	}
	stop()
	running.Wait()
	return float64(sent) / took.Seconds(), errors.Join(err, runErr)
}
