package preset

import (
	"context"
	"net"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/posture"
	"github.com/postseal/postseal/transport/smtp"
)

// openTransport makes the Transport, and what it must remember of domains where it delivers to their own mail hosts.
func (s *System) openTransport(ctx context.Context, so *smtp.Options) (err error) {
	direct := so.Relay == nil
	txt := resolverOf(so)
	if direct && so.STS == nil && txt != nil {
		if so.STS, err = s.openSTS(ctx, so, txt); err != nil {
			return err
		}
	}
	s.STS = so.STS
	if direct {
		if err := s.openMonitor(ctx, so, txt); err != nil {
			return err
		}
	}
	if s.Transport, err = smtp.New(so); err == nil && direct {
		s.Monitor.Use(s.Transport)
	}
	return err
}

// openMonitor makes what remembers the TLS of domains, and lets it bind deliveries.
func (s *System) openMonitor(ctx context.Context, so *smtp.Options, txt mtasts.Resolver) (err error) {
	po := &posture.Options{Outbox: s.Queue, AutoWatch: true, Now: so.Now, Logger: so.Logger}
	if txt != nil {
		po.Resolver = txt
	}
	if s.Monitor, err = posture.New(ctx, s.DB, nil, po); err == nil && so.Ratchet == nil {
		so.Ratchet = s.Monitor
	}
	return err
}

// openSTS keeps policies in the database: one that is forgotten with the process protects nobody who restarts.
func (s *System) openSTS(ctx context.Context, so *smtp.Options, r mtasts.Resolver) (*mtasts.Cache, error) {
	store, err := transport.STSStore(ctx, s.DB, &transport.STSOptions{Now: so.Now})
	if err != nil {
		return nil, err
	}
	client, err := mtasts.NewClient(&mtasts.ClientOptions{RootCAs: so.RootCAs, AllowPrivate: so.AllowPrivate})
	if err != nil {
		return nil, err
	}
	return mtasts.New(store, &mtasts.Options{Resolver: r, Fetcher: client, Now: so.Now, Logger: so.Logger})
}

// resolverOf is who answers for TXT records; nil: nobody does.
func resolverOf(so *smtp.Options) mtasts.Resolver {
	if so.Resolver == nil {
		return net.DefaultResolver
	}
	r, _ := so.Resolver.(mtasts.Resolver)
	return r
}
