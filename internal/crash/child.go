package main

import (
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/smtp"
)

// The child is this program again, told by its environment.
const (
	envChild = "POSTSEAL_CRASH" // "work" or "finish"
	envDir   = "POSTSEAL_CRASH_DIR"
	envDSN   = "POSTSEAL_CRASH_DSN"
	envDNS   = "POSTSEAL_CRASH_DNS"
	envHosts = "POSTSEAL_CRASH_HOSTS"
	// envSeen is a checkpoint that the log must go on from, in base64; envCheck set: the whole log is read.
	envSeen  = "POSTSEAL_CRASH_SEEN"
	envCheck = "POSTSEAL_CRASH_CHECK"

	caFile = "ca.pem"
)

const (
	workers = 6       // that send
	mostOf  = 100_000 // sends of a worker, which is killed long before
	largeBy = 7       // every so many sends the body is too large for a row
)

func childMain() int {
	ctx := context.Background()
	s, err := openSystem(ctx)
	if err == nil {
		if os.Getenv(envChild) == "finish" {
			err = finish(ctx, s)
		} else {
			err = work(ctx, s)
		}
		err = errors.Join(err, s.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

func openSystem(ctx context.Context) (*preset.System, error) {
	dir := os.Getenv(envDir)
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	resolver, err := smtp.DNS(os.Getenv(envDNS), nil)
	if err != nil {
		return nil, err
	}
	o := &preset.Options{
		Owner: "crash", Logger: slog.New(slog.DiscardHandler),
		SMTP: &smtp.Options{RootCAs: roots, Resolver: resolver, Dial: dialer(os.Getenv(envHosts))},
	}
	path := filepath.Join(dir, "mail.db")
	var s *preset.System
	if dsn := os.Getenv(envDSN); dsn != "" {
		var db *sql.DB
		if db, err = sql.Open("pgx", dsn); err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(16)
		db.SetMaxIdleConns(16)
		s, err = preset.OpenDB(ctx, db, path, o)
	} else {
		s, err = preset.Open(ctx, path, o)
	}
	if err != nil {
		return nil, err
	}
	if err := goesOn(ctx, s); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// dialer connects to where the hosts' addresses really are.
func dialer(hosts string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	at := make(map[string]string)
	for _, h := range strings.Split(hosts, ",") {
		ip, addr, _ := strings.Cut(h, "=")
		at[ip] = addr
	}
	var d net.Dialer
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ip, _, err := net.SplitHostPort(addr)
		if err != nil || at[ip] == "" {
			return nil, errors.New("no such host")
		}
		return d.DialContext(ctx, network, at[ip])
	}
}

// goesOn checks that the log goes on from where the process before saw it, and says where it stands.
func goesOn(ctx context.Context, s *preset.System) error {
	if seen, err := base64.StdEncoding.DecodeString(os.Getenv(envSeen)); err == nil && len(seen) > 0 {
		if err := s.Ledger.Extends(ctx, seen); err != nil {
			return err
		}
	}
	if os.Getenv(envCheck) != "" {
		if err := s.Ledger.Check(ctx); err != nil {
			return err
		}
	}
	fmt.Println("checkpoint", base64.StdEncoding.EncodeToString(s.Ledger.Checkpoint()))
	return nil
}

// work accepts and delivers until it is killed. Only what the parent has read counts as accepted: each line leaves after Send
// returned.
func work(ctx context.Context, s *preset.System) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, workers+2)
	var wg sync.WaitGroup
	wg.Go(func() { failed <- s.Run(ctx) })
	wg.Go(func() { failed <- useKeys(ctx, s) })
	for w := range workers {
		wg.Go(func() {
			for i := range mostOf {
				if err := sendOnce(ctx, s, w, i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	err := <-failed
	cancel()
	wg.Wait()
	return err
}

// sendOnce is one Send to a recipient at each of two hosts, by one of the three ways.
func sendOnce(ctx context.Context, s *preset.System, w, i int) error {
	d := &securemail.Draft{
		From: securemail.Mailbox("clinic@example.org"), Subject: "Your results", Text: "small\n", Purpose: securemail.PurposeTreatment,
	}
	if i%largeBy == 0 {
		d.Text = strings.Repeat("A line of a large message that does not fit into a row.\n", 2000)
	}
	domains := []string{"good.test", "slow.test", "later.test", "drop.test", "unproved.test", "clear.test"}
	for k := range 2 {
		to := fmt.Sprintf("n%d-%d-%d-%d@%s", os.Getpid(), w, i, k, domains[(w+i+k*3)%len(domains)])
		d.Each = append(d.Each, securemail.To(to)...)
	}
	sub, err := submit(ctx, s, d, i)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, p := range sub.Parcels {
		fmt.Fprintln(&b, "accepted", p.Recipient.Address.Reveal(), p.ID)
	}
	_, err = os.Stdout.WriteString(b.String())
	return err
}

func submit(ctx context.Context, s *preset.System, d *securemail.Draft, i int) (*securemail.Submission, error) {
	switch i % 3 {
	case 1:
		r := s.SendBatch(ctx, []*securemail.Draft{d})[0]
		return r.Submission, r.Err
	case 2:
		tx, err := s.DB.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		sub, err := s.SendTx(ctx, tx, d)
		if err != nil {
			return nil, errors.Join(err, tx.Rollback())
		}
		return sub, tx.Commit()
	}
	return s.Send(ctx, d)
}

// finishTries bounds how often finish looks.
const finishTries = 600

// finish delivers what is left, and reports every state and every event.
func finish(ctx context.Context, s *preset.System) error {
	for range finishTries {
		if _, err := s.RunDue(ctx); err != nil {
			return err
		}
		open, err := settle(ctx, s)
		if err != nil {
			return err
		}
		if open == 0 {
			err := states(ctx, s)
			_, fed := s.RunDue(ctx) // what looking at the states added to the log
			return errors.Join(err, fed, events(ctx, s), tryKeys(ctx, s), s.Ledger.Check(ctx))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("parcels are left")
}

// settle orders another try of what waits for one or is uncertain, and counts what is not at its end.
func settle(ctx context.Context, s *preset.System) (open int, err error) {
	for st, err := range s.Find(ctx, securemail.Query{}) {
		switch {
		case err != nil:
			return 0, err
		case st.State == securemail.StateUncertain, st.State == securemail.StateDeferred:
			if err := s.Order(ctx, securemail.Retry, st.ID); err != nil && !errors.Is(err, securemail.ErrFinal) {
				return 0, err
			}
		}
		if !st.State.Final() && st.State != securemail.StateHeld {
			open++
		}
	}
	return open, nil
}

func states(ctx context.Context, s *preset.System) error {
	for st, err := range s.Find(ctx, securemail.Query{}) {
		if err != nil {
			return err
		}
		fmt.Println("state", st.State, st.ID, st.Recipient.Address.Reveal())
	}
	return nil
}

// events reports each event of a parcel, and whether the audit log proves it.
func events(ctx context.Context, s *preset.System) error {
	for {
		es, err := s.Queue.Next(ctx, "crash", 1000)
		if err != nil || len(es) == 0 {
			return err
		}
		for _, e := range es {
			_, err := s.Ledger.Prove(ctx, e.ID)
			fmt.Println("event", e.Kind, e.Status.ID, strconv.FormatBool(err == nil))
		}
		if err := s.Queue.Ack(ctx, "crash", es[len(es)-1].ID); err != nil {
			return err
		}
	}
}
