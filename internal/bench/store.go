package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"net/url"
	"path/filepath"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"
)

// store is a place for a queue. open gives an empty database and the file of its key ring.
type store struct {
	name string
	open func(ctx context.Context) (*place, error)
	blob string // the type of a column of octets
}

// place is one database. dsn names it where it is PostgreSQL's.
type place struct {
	db   *sql.DB
	file string // the database, or what stands in its place in names of files beside it
	dsn  string
	drop func() error
}

func (p *place) close() error { return errors.Join(p.drop(), p.db.Close()) }

// sqliteStore makes each database a file of its own, set as the queue's documentation asks.
func sqliteStore(dir string) store {
	return store{"sqlite", func(context.Context) (*place, error) {
		file := filepath.Join(dir, rand.Text())
		db, err := sql.Open("sqlite", "file:"+file+".db?_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"+
			"&_pragma=busy_timeout(10000)&_pragma=wal_autocheckpoint(8000)")
		return &place{db: db, file: file + ".db", drop: func() error { return nil }}, err
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
		return &place{db: db, file: filepath.Join(dir, name), dsn: u.String(), drop: drop}, nil
	}, "BYTEA"}
}

func withPlace(ctx context.Context, st store, do func(*place) (float64, error)) (rate float64, err error) {
	p, err := st.open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	return do(p)
}
