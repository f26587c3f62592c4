package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/queue"
)

// durable measures how many messages a second Send makes durable, sealed and indexed, with one producer and with 64; the
// peer is the database alone: one transaction that inserts the same number of octets. Then memory with a full queue.
func durable(ctx context.Context, s settings, report func(Result)) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stores := []store{sqliteStore(dir)}
	if dsn := os.Getenv("POSTSEAL_PG_DSN"); dsn != "" {
		stores = append(stores, postgresStore(dir, dsn))
	}
	for _, st := range stores {
		for _, producers := range []int{1, 64} {
			r, err := acceptRate(ctx, st, producers, s)
			if err != nil {
				return fmt.Errorf("%s: %w", st.name, err)
			}
			report(r)
		}
	}
	return fullQueue(ctx, s, report)
}

// roundTime ends a round that the messages have not ended yet.
const roundTime = 3 * time.Second

// store is a place for a queue. open gives an empty database and the file of its key ring.
type store struct {
	name string
	open func(ctx context.Context) (*place, error)
	blob string // the type of a column of octets
}

type place struct {
	db   *sql.DB
	keys string
	drop func() error
}

func (p *place) close() error { return errors.Join(p.drop(), p.db.Close()) }

// sqliteStore makes each database a file of its own, set as the queue's documentation asks.
func sqliteStore(dir string) store {
	return store{"sqlite", func(context.Context) (*place, error) {
		file := filepath.Join(dir, rand.Text())
		db, err := sql.Open("sqlite", "file:"+file+".db?_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"+
			"&_pragma=busy_timeout(10000)")
		return &place{db, file + ".key", func() error { return nil }}, err
	}, "BLOB"}
}

// postgresStore makes each database a schema of its own in the one that dsn names.
func postgresStore(dir, dsn string) store {
	return store{"postgres", func(ctx context.Context) (*place, error) {
		name := "bench_" + strings.ToLower(rand.Text())
		u, err := url.Parse(dsn)
		if err != nil {
			return nil, errors.New("POSTSEAL_PG_DSN must be a postgres:// URL")
		}
		q := u.Query()
		q.Set("search_path", name)
		u.RawQuery = q.Encode()
		db, err := sql.Open("pgx", u.String())
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(32)
		db.SetMaxIdleConns(32)
		if _, err := db.ExecContext(ctx, "CREATE SCHEMA "+name); err != nil {
			return nil, errors.Join(err, db.Close())
		}
		drop := func() error { _, err := db.Exec("DROP SCHEMA " + name + " CASCADE"); return err }
		return &place{db, filepath.Join(dir, name+".key"), drop}, nil
	}, "BYTEA"}
}

func acceptRate(ctx context.Context, st store, producers int, s settings) (Result, error) {
	var ours, bare []float64
	for range s.rounds {
		o, err := withPlace(ctx, st, func(p *place) (float64, error) { return sendRate(ctx, p, producers, s) })
		if err != nil {
			return Result{}, err
		}
		b, err := withPlace(ctx, st, func(p *place) (float64, error) { return insertRate(ctx, p, st, producers, s) })
		if err != nil {
			return Result{}, err
		}
		ours, bare = append(ours, o), append(bare, b)
	}
	return Result{
		Area: "durable", Name: fmt.Sprintf("%s Send, %d producers", st.name, producers), Value: median(ours), Unit: "msg/s",
		Peer: "bare INSERT", PeerValue: median(bare), Floor: acceptFloor(producers, median(bare)),
	}.compare(), nil
}

// acceptFloor is what Send should reach, as a share of the bare rate: nearly all of it where each Send waits for a sync of
// its own, and 6,000/s where many share one.
func acceptFloor(producers int, bare float64) float64 {
	if producers == 1 {
		return 0.8
	}
	return 6000 / bare
}

func withPlace(ctx context.Context, st store, do func(*place) (float64, error)) (rate float64, err error) {
	p, err := st.open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	return do(p)
}

func sendRate(ctx context.Context, p *place, producers int, s settings) (float64, error) {
	m, closer, err := mailer(ctx, p)
	if err != nil {
		return 0, err
	}
	defer closer()
	text := strings.Repeat("Please come on Tuesday at ten to room four and bring your card.\n", messageSize/64)
	return produce(producers, s.messages, func() error {
		_, err := m.Send(ctx, &securemail.Draft{
			From: securemail.Mailbox("Clinic <" + sender + ">"), To: securemail.To(recipient), Subject: "Your appointment",
			Text: text, Purpose: securemail.PurposeTreatment,
		})
		return err
	})
}

// insertRate is the database alone. SQLite gets one connection: more would only wait for each other.
func insertRate(ctx context.Context, p *place, st store, producers int, s settings) (float64, error) {
	if st.name == "sqlite" {
		p.db.SetMaxOpenConns(1)
	}
	if _, err := p.db.ExecContext(ctx, "CREATE TABLE bare (id TEXT PRIMARY KEY, body "+st.blob+" NOT NULL)"); err != nil {
		return 0, err
	}
	body := make([]byte, messageSize)
	_, _ = rand.Read(body)
	return produce(producers, s.messages, func() error {
		tx, err := p.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO bare VALUES ($1, $2)", rand.Text(), body); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	})
}

// produce calls do from so many goroutines until it was called max times or the round is over, and returns calls a second.
func produce(producers, most int, do func() error) (float64, error) {
	if err := do(); err != nil { // the first call opens and prepares
		return 0, err
	}
	var wg sync.WaitGroup
	var claimed, done atomic.Int64
	errs := make([]error, producers)
	start := time.Now()
	for i := range producers {
		wg.Go(func() {
			for time.Since(start) < roundTime && claimed.Add(1) <= int64(most) {
				if errs[i] = do(); errs[i] != nil {
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(start).Seconds(), errors.Join(errs...)
}

// mailer is a Mailer on p that delivers nothing.
func mailer(ctx context.Context, p *place) (*securemail.Mailer, func(), error) {
	ring, err := keyring.OpenFile(p.keys, nil)
	if err != nil {
		return nil, nil, err
	}
	q, err := queue.New(ctx, p.db, ring, nil)
	if err != nil {
		return nil, nil, errors.Join(err, ring.Close())
	}
	m, err := securemail.New(securemail.Config{
		Policy: securemail.PolicyFunc(func(context.Context, securemail.Facts) (securemail.Decision, error) {
			return securemail.Decision{Policy: "hold"}, nil
		}),
		Transport: securemail.TransportFunc(func(context.Context, *securemail.Shipment) (*securemail.Receipt, error) {
			return nil, errors.New("bench delivers nothing")
		}),
		Encryptors: []securemail.Encryptor{encrypt.TLSOnly{}}, Queue: q, Outbox: q, Ledger: noLedger{}, Service: securemail.Actor{ID: "bench", Kind: "service"},
	})
	if err != nil {
		return nil, nil, errors.Join(err, ring.Close())
	}
	return m, func() { _ = ring.Close() }, nil
}

// noLedger forgets all events: Send does not wait for a ledger.
type noLedger struct{}

// Emit implements securemail.Ledger.
func (noLedger) Emit(context.Context, securemail.Event) error { return nil }

// Prove implements securemail.Ledger.
func (noLedger) Prove(context.Context, string) ([]byte, error) {
	return nil, errors.New("bench has no ledger")
}
