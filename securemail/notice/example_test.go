package notice_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/notice"
	"github.com/postseal/postseal/securemail/securemailtest"
)

// The privacy office hears of every hold, and senders of all else. A real program has one *sql.DB for the queue and this.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "notice")
	must(err)
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mail.db")+sqldbtest.Safe)
	must(err)
	defer db.Close()

	var k *securemailtest.Kit // stands for the Mailer, which is made after its Sinks
	q := securemailtest.NewQueue(nil)
	told, err := notice.New(ctx, db, q, notice.SenderFunc(func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
		return k.Send(ctx, d)
	}), &notice.Options{
		Rules:   []notice.Rule{{Name: "holds", When: []securemail.State{securemail.StateHeld}, To: notice.ToRole}},
		Tenants: map[string]notice.Tenant{"": {Name: "Clinic", Role: securemail.Mailbox("privacy@office.example")}},
	})
	must(err)
	k = securemailtest.New(nobody{}, func(c *securemail.Config) {
		c.Queue, c.Outbox, c.Now = q, q, nil
		c.Sinks = map[string]securemail.Sink{"notice": told} // the Mailer's Run runs it too
	})
	k.Transport.Script("example.net", securemailtest.Answer{Wire: securemailtest.Clear()})

	_, err = k.Send(ctx, &securemail.Draft{
		From: securemail.Mailbox("doctor@clinic.example"), To: securemail.To("anna@example.net"),
		Text: "Tuesday at ten.", Purpose: securemail.PurposeTreatment,
	})
	must(err)
	_, err = k.RunDue(ctx) // it bounces
	must(err)
	n, err := told.Pass(ctx) // a server calls Mailer.Run, and neither of these
	must(err)
	_, err = k.RunDue(ctx)
	must(err)
	fmt.Println(n, "report")
	for _, s := range k.Transport.Sent() {
		fmt.Printf("from <%s> to %s: %s\n", s.From, s.To, s.Message.Header("Subject")[0])
	}
	// Output:
	// 1 report
	// from <> to doctor@clinic.example: Clinic: mail was not delivered
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// nobody is a testing.TB for an Example.
type nobody struct{ testing.TB }

func (nobody) Helper()                         {}
func (nobody) Fatalf(format string, as ...any) { panic(fmt.Sprintf(format, as...)) }
