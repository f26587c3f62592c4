package posture_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/posture"
)

// clinic is an Observer and Prober as transport/smtp is one, which has always the same to say.
type clinic struct{}

func (clinic) Observe(context.Context, string, string) (*transport.Observation, error) {
	o := good("clinic.example")
	o.Domain = "clinic.example"
	return o, nil
}

func (clinic) Probe(context.Context, string, string) (securemail.Route, error) {
	return securemail.Route{Wire: wire(securemail.ProofPKIX), Known: true}, nil
}

func Example() {
	dir, err := os.MkdirTemp("", "posture-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mail.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	ctx := securemail.WithActor(context.Background(), securemail.Actor{ID: "ann", Kind: "person", Roles: []string{"admin"}})

	// A program gives its *smtp.Transport here, and its queue as Outbox; and it gives m to smtp.Options.Ratchet, to
	// securemail.Config.Sinks and to Config.Parts.
	m, err := posture.New(ctx, db, clinic{}, &posture.Options{Now: func() time.Time { return start }})
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Watch(ctx, "", "clinic.example"); err != nil {
		log.Fatal(err)
	}
	if _, err := m.Refresh(ctx); err != nil { // a server calls m.Run
		log.Fatal(err)
	}
	report, err := m.Report(ctx, "")
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range report.Domains {
		fmt.Println(d.Domain, d.State.Level, d.State.Proof, d.State.STS.Mode)
	}
	to, err := securemail.ParseAddress("anna@clinic.example")
	if err != nil {
		log.Fatal(err)
	}
	answer := m.CanForward(ctx, "", to, securemail.ChannelVerified)
	fmt.Println(answer.OK, answer.Reasons[len(answer.Reasons)-1].Text)
	// Output:
	// clinic.example verified mta-sts enforce
	// false the route gives named, the floor is verified
}
