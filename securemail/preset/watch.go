package preset

import (
	"context"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/alert"
	"github.com/postseal/postseal/securemail/notice"
)

// addWatch puts into c who tells people what was not delivered, and who looks at all events for what should not be.
func (s *System) addWatch(ctx context.Context, c *securemail.Config, o *Options) (err error) {
	var no notice.Options
	if o.Notices != nil {
		no = *o.Notices
	}
	if no.Now == nil {
		no.Now = o.Now
	}
	if no.Logger == nil {
		no.Logger = o.Logger
	}
	send := notice.SenderFunc(func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
		return s.Mailer.Send(ctx, d)
	})
	if s.Notices, err = notice.New(ctx, s.DB, s.Queue, send, &no); err != nil {
		return err
	}
	var ao alert.Options
	if o.Alerts != nil {
		ao = *o.Alerts
	}
	if ao.Now == nil {
		ao.Now = o.Now
	}
	if s.Alerts, err = alert.New(s.Queue, &ao); err != nil {
		return err
	}
	c.Sinks["notice"], c.Sinks["alert"] = s.Notices, s.Alerts
	return nil
}
