// Command vendor shows postseal inside a product of one's own: a web application for two clinics that books appointments
// and sends the reminder inside the same database transaction, so that the mail leaves if and only if the booking stands.
//
//	go run ./examples/vendor [-dsn postgres://...]
//
// Without -dsn it runs on SQLite with one connection. Against PostgreSQL the host keeps its pgxpool and lends it to the
// library through stdlib.OpenDBFromPool. It drives itself with a few requests, prints what happened, and exits 1 if
// anything is not as it should be.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/smtp"
)

func main() {
	dsn := flag.String("dsn", "", "PostgreSQL connection string; empty: SQLite in a temporary folder")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout, *dsn); err != nil {
		fmt.Fprintln(os.Stderr, "vendor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, dsn string) (err error) {
	dir, err := os.MkdirTemp("", "postseal-vendor-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	db, listen, err := openDB(ctx, dir, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := makeTables(ctx, db); err != nil {
		return err
	}
	far, err := startFarEnd()
	if err != nil {
		return err
	}
	defer far.close()

	sys, err := preset.OpenDB(ctx, db, filepath.Join(dir, "mail"), &preset.Options{
		SMTP: far.options(), Listen: listen,
		// The host's own tables say who the tenants are and who has opted out. Both are read through the transaction of the
		// booking (securemail.TxOf), so one connection is enough and an opt-out in the same transaction already counts.
		Override: func(c *securemail.Config) {
			c.Tenants = clinics{db}
			c.Gates = append(c.Gates, optOuts{db})
			c.Service = securemail.Actor{} // every call must name its tenant
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sys.Close()) }()

	runCtx, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- sys.Run(runCtx) }()
	demoErr := demo(ctx, out, &app{db: db, mail: sys.Mailer}, far)
	stop()
	return errors.Join(demoErr, <-ran)
}

// openDB is the host's own database; listen is nil for SQLite.
func openDB(ctx context.Context, dir, dsn string) (*sql.DB, listener, error) {
	if dsn == "" {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "vendor.db")+
			"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_txlock=immediate")
		if err == nil {
			db.SetMaxOpenConns(1)
		}
		return db, nil, err
	}
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return nil, nil, errors.New("the connection string is not valid")
	}
	context.AfterFunc(ctx, pool.Close)
	return stdlib.OpenDBFromPool(pool), listenOn(pool), nil
}

// listener is what the queue asks a driver for: call wake for each notification until ctx ends.
type listener = func(ctx context.Context, channel string, wake func()) error

// listenOn keeps one connection of the pool for LISTEN.
func listenOn(pool *pgxpool.Pool) listener {
	return func(ctx context.Context, channel string, wake func()) error {
		c, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer c.Release()
		if _, err := c.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return err
		}
		for {
			if _, err := c.Conn().WaitForNotification(ctx); err != nil {
				return err
			}
			wake()
		}
	}
}

// farEnd is the recipients' mail host: TLS with a certificate of an authority that the host trusts.
type farEnd struct {
	peer *smtppeer.Peer
	dns  *dnspeer.Peer
	ca   *smtppeer.CA
}

func startFarEnd() (*farEnd, error) {
	f := &farEnd{ca: smtppeer.NewCA()}
	var err error
	if f.peer, err = smtppeer.Start(smtppeer.Options{Hostname: "mx.patients.example", TLS: f.ca.Config("mx.patients.example")}); err != nil {
		return nil, err
	}
	f.dns, err = dnspeer.Start(dnspeer.Zone{
		"patients.example": {"MX 10 mx.patients.example."}, "mx.patients.example": {"A 127.0.0.1"},
	})
	if err != nil {
		f.peer.Close()
		return nil, err
	}
	return f, nil
}

func (f *farEnd) close() {
	f.peer.Close()
	f.dns.Close()
}

func (f *farEnd) options() *smtp.Options {
	resolver, err := smtp.DNS(f.dns.Addr(), nil)
	if err != nil {
		panic(err) // the address is our own
	}
	var d net.Dialer
	return &smtp.Options{
		HELO: "mail.vendor.example", Resolver: resolver, RootCAs: f.ca.Pool(),
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, f.peer.Addr())
		},
	}
}
