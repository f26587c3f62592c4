package queue_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// A Mailer does all this; it shows what a queue is for.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "queue")
	must(err)
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mail.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)")
	must(err)
	defer db.Close()
	q, err := queue.New(ctx, db, newRing(), &queue.Options{Owner: "host-1"})
	must(err)

	m, err := securemail.NewMessage(securemail.Bytes([]byte("Subject: your appointment\r\n\r\nTomorrow at nine.\r\n")))
	must(err)
	p := &securemail.Parcel{Message: m}
	p.ID, p.Submission, p.Submitted = "p1", "s1", time.Now()
	_, err = q.Put(ctx, &securemail.Batch{Submission: "s1", Parcels: []*securemail.Parcel{p}})
	must(err)

	leases, err := q.Take(ctx, time.Now(), 10, time.Second)
	must(err)
	l := leases[0]
	fmt.Println("attempt", l.Attempt, "from", l.Last.State)
	must(q.Mark(ctx, securemail.Mark{Lease: l, Status: securemail.Status{State: securemail.StateAttempting}}))
	must(q.Mark(ctx, securemail.Mark{Lease: l, Status: securemail.Status{State: securemail.StateDelivered}}))
	for st, err := range q.Find(ctx, securemail.Query{Submission: "s1"}) {
		must(err)
		fmt.Println(st.ID, st.State)
	}
	// Output:
	// attempt 1 from accepted
	// p1 delivered
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
