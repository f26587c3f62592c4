package preset

import (
	"context"
	"net"

	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/posture"
	"github.com/postseal/postseal/transport/smtp"
)

// openTransport makes the Transport, and what it must remember of domains where it delivers to their own mail hosts.
func (s *System) openTransport(ctx context.Context, so *smtp.Options, o *Options) (err error) {
	direct := so.Relay == nil
	txt := resolverOf(so)
	if direct && so.STS == nil && txt != nil {
		if so.STS, err = s.openSTS(ctx, so, o.STS, txt); err != nil {
			return err
		}
	}
	s.STS = so.STS
	if o.TLSReports != nil {
		if err := s.openReports(ctx, so, &reporting{o.TLSReports, o.DKIM, txt, logger(o)}); err != nil {
			return err
		}
	}
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
func (s *System) openSTS(ctx context.Context, so *smtp.Options, co *mtasts.ClientOptions, r mtasts.Resolver) (*mtasts.Cache, error) {
	store, err := transport.STSStore(ctx, s.DB, &transport.STSOptions{Now: so.Now})
	if err != nil {
		return nil, err
	}
	if co == nil {
		co = &mtasts.ClientOptions{RootCAs: so.RootCAs, AllowPrivate: so.AllowPrivate}
	}
	client, err := mtasts.NewClient(co)
	if err != nil {
		return nil, err
	}
	return mtasts.New(store, &mtasts.Options{Resolver: r, Fetcher: client, Now: so.Now, Logger: so.Logger})
}

// addChannel puts into c what runs beside the Transport and behind it.
func (s *System) addChannel(ctx context.Context, c *securemail.Config, o *Options) error {
	if s.STS != nil {
		c.Parts = append(c.Parts, s.STS)
	}
	if s.Monitor != nil {
		c.Parts, c.Sinks["posture"] = append(c.Parts, s.Monitor), s.Monitor
	}
	if s.Sessions != nil {
		c.Parts = append(c.Parts, s.Sessions, s.Reporter)
	}
	if err := s.addLimits(ctx, c, o); err != nil {
		return err
	}
	if o.DKIM == nil {
		return nil
	}
	signer, err := transport.DKIM(o.DKIM, nil)
	c.Signer = signer
	return err
}

// addLimits puts the limits of domains before the Transport, for all processes on the database together.
func (s *System) addLimits(ctx context.Context, c *securemail.Config, o *Options) (err error) {
	if o.Limits == nil {
		return nil
	}
	lo := *o.Limits
	if lo.Now == nil {
		lo.Now = o.Now
	}
	if lo.Shared == nil {
		if lo.Shared, err = transport.LimitStore(ctx, s.DB, &transport.LimitStoreOptions{Now: o.Now}); err != nil {
			return err
		}
		c.Parts = append(c.Parts, lo.Shared)
	}
	c.Transport, err = transport.Limit(s.Transport, &lo)
	return err
}

// resolverOf is who answers for TXT records; nil: nobody does.
func resolverOf(so *smtp.Options) mtasts.Resolver {
	if so.Resolver == nil {
		return net.DefaultResolver
	}
	r, _ := so.Resolver.(mtasts.Resolver)
	return r
}
