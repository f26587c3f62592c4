package notice_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/notice"
	"github.com/postseal/postseal/securemail/securemailtest"
)

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.checks", "40") // the command line says otherwise
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const (
	canary  = "Karzinom"
	patient = "anna.kanarienvogel"
)

// rig is a Mailer with Notices on a SQLite file.
type rig struct {
	*securemailtest.Kit
	t       testing.TB
	db      *sql.DB
	notices *notice.Notices
	options notice.Options
	send    func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) // nil: the Mailer's
	policy  func(f securemail.Facts) securemail.Decision
	find    func(id securemail.ParcelID) securemail.Status // for parcels that are only in events
}

// Emit lets a rig be the Sink, whatever Notices are the newest.
func (r *rig) Emit(ctx context.Context, e securemail.Event) error { return r.notices.Emit(ctx, e) }

func openDB(t testing.TB) *sql.DB {
	return sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "n.db"), sqldbtest.Safe)
}

func newRig(t testing.TB, o notice.Options) *rig { return newRigOn(t, openDB(t), o) }

func newRigOn(t testing.TB, db *sql.DB, o notice.Options) *rig {
	return newRigWith(t, db, o, func(*securemail.Config) {})
}

func newRigWith(t testing.TB, db *sql.DB, o notice.Options, change func(*securemail.Config)) *rig {
	r := &rig{t: t, db: db, options: o}
	r.policy = func(f securemail.Facts) securemail.Decision {
		return securemail.Decision{
			Choices: []securemail.Choice{{Method: securemail.MethodTLS, Channel: securemail.ChannelEncrypted}},
			Else:    securemail.OutcomeBounce, Policy: "test/1",
		}
	}
	r.Kit = securemailtest.New(t, func(c *securemail.Config) {
		c.Sinks = map[string]securemail.Sink{"notice": r}
		c.Policy = securemail.PolicyFunc(func(_ context.Context, f securemail.Facts) (securemail.Decision, error) {
			return r.policy(f), nil
		})
		c.Gates = []securemail.Gate{securemail.GateFunc(func(_ context.Context, p *securemail.Parcel) error {
			if p.Recipient.Address.Domain() == "refused.example" {
				return securemail.ErrRefused
			}
			return nil
		})}
		c.GiveUp = 48 * time.Hour
		c.Retry = func(int) time.Duration { return 30 * time.Minute }
		change(c)
	})
	r.restart()
	return r
}

// restart makes new Notices on the same tables, as another process would.
func (r *rig) restart() {
	o := r.options
	o.Now, o.Logger = r.Clock.Now, slog.New(slog.DiscardHandler)
	n, err := notice.New(r.t.Context(), r.db, r, notice.SenderFunc(func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
		if r.send != nil {
			return r.send(ctx, d)
		}
		return r.Mailer.Send(ctx, d)
	}), &o)
	require.NoError(r.t, err)
	r.notices = n
}

// round delivers what is due, makes reports and delivers them.
func (r *rig) round() int {
	r.Pass(r.t)
	n, err := r.notices.Pass(r.t.Context())
	require.NoError(r.t, err)
	r.Pass(r.t)
	return n
}

func draft(purpose securemail.Purpose, to ...string) *securemail.Draft {
	d := &securemail.Draft{
		From: securemail.Mailbox("Doctor <doctor@clinic.example>"), Subject: canary, Text: canary, Purpose: purpose,
		Labels: map[string]string{"case": "c-1"},
	}
	for i, a := range to {
		d.Bcc = append(d.Bcc, securemail.Recipient{Contact: securemail.Contact{
			Name: canary, Address: securemail.Mailbox(patient + "@" + a).Address, Ref: fmt.Sprintf("ref-%d", i),
		}})
	}
	return d
}

func fails(fate securemail.Fate) securemailtest.Answer {
	if fate == securemail.FateUncertain {
		return securemailtest.Answer{After: &securemail.DeliveryError{Stage: "dot", Fate: fate}}
	}
	return securemailtest.Answer{Before: &securemail.DeliveryError{Stage: "rcpt", Fate: fate}}
}

// entry is one group of a delivery status.
type entry struct{ to, parcel, state, final, action, status, entered string }

var field = regexp.MustCompile(`(?m)^([A-Z][A-Za-z-]*): (.*?)\r?$`)

func body(t testing.TB, s securemailtest.Sent) string {
	rc, err := s.Message.Open()
	require.NoError(t, err)
	defer rc.Close()
	b, err := io.ReadAll(rc)
	require.NoError(t, err)
	return string(b)
}

// reports are what arrived, each with its entries.
func (r *rig) reports() (raw []string, entries []entry) {
	for _, s := range r.Transport.Sent() {
		if types := s.Message.Header("Content-Type"); len(types) == 0 || !strings.HasPrefix(types[0], "multipart/report") {
			continue
		}
		text := body(r.t, s)
		require.Empty(r.t, s.From, "a report has no return path")
		raw = append(raw, text)
		_, status, ok := strings.Cut(text, "Content-Type: message/delivery-status\r\n\r\n")
		require.True(r.t, ok)
		for _, group := range strings.Split(status, "\r\n\r\n")[1:] {
			e := entry{to: s.To}
			for _, m := range field.FindAllStringSubmatch(group, -1) {
				switch m[1] {
				case "Final-Recipient":
					e.final = m[2]
				case "Action":
					e.action = m[2]
				case "Status":
					e.status = m[2]
				case "X-Postseal-Parcel":
					e.parcel = m[2]
				case "X-Postseal-State":
					e.state = m[2]
				case "X-Postseal-Entered":
					e.entered = m[2]
				}
			}
			if e.final != "" {
				entries = append(entries, e)
			}
		}
	}
	return raw, entries
}

func (r *rig) events(kind string) []securemail.Event {
	var out []securemail.Event
	for _, e := range r.Queue.Events() {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

// Find implements notice.Store: what the queue has, or what a test says.
func (r *rig) Find(ctx context.Context, q securemail.Query) iter.Seq2[securemail.Status, error] {
	if r.find == nil {
		return r.Queue.Find(ctx, q)
	}
	return func(yield func(securemail.Status, error) bool) {
		for _, id := range q.IDs {
			if !yield(r.find(id), nil) {
				return
			}
		}
	}
}

// Add implements notice.Store.
func (r *rig) Add(ctx context.Context, tx *sql.Tx, es ...securemail.Event) error {
	return r.Queue.Add(ctx, tx, es...)
}
