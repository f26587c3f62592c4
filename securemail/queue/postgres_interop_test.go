//go:build interop

package queue_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

func servers() map[string]opener {
	return map[string]opener{"postgres": postgres, "postgres one connection": single(postgres)}
}

// postgres is a schema of its own, with handles that hold many connections.
func postgres(t testing.TB) func() *sql.DB {
	t.Helper()
	again := sqldbtest.Postgres(t)
	return func() *sql.DB {
		db := again()
		db.SetMaxOpenConns(24)
		db.SetMaxIdleConns(24)
		return db
	}
}

// A reader must not step over an event that was written before and committed after one that it has read.
func TestPostgresLateCommitIsNotSkipped(t *testing.T) {
	r := newRig(t, postgres, nil)
	late, err := r.db.Begin()
	require.NoError(t, err)
	first := r.event(securemail.Slip{Actor: securemail.Actor{Tenant: "clinic"}}, "late")
	require.NoError(t, r.Add(t.Context(), late, first))
	second := r.event(first.Slip, "early")
	require.NoError(t, r.Add(t.Context(), nil, second))
	es := r.events("r")
	require.Len(t, es, 1)
	require.Equal(t, second.ID, es[0].ID)
	require.NoError(t, late.Commit())
	es2 := r.events("r")
	require.Len(t, es2, 1)
	require.Equal(t, first.ID, es2[0].ID)
	require.Greater(t, es2[0].Seq, es[0].Seq)
}

// A host's transaction that holds an idempotency key and dawdles stops nobody else.
func TestPostgresDawdlingHost(t *testing.T) {
	r := newRig(t, postgres, nil)
	b := r.batch(1)
	b.Key = "k"
	tx, err := r.db.Begin()
	require.NoError(t, err)
	_, err = r.PutTx(t.Context(), tx, b)
	require.NoError(t, err)
	same := r.batch(1)
	same.Key = "k"
	done := make(chan error, 1)
	go func() { sub, err := r.Put(t.Context(), same); done <- err; _ = sub }()
	time.Sleep(700 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err = r.Put(ctx, r.batch(1))
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	require.NoError(t, <-done)
	require.Equal(t, 2, r.count("SELECT count(*) FROM queue_parcel"))
}

func TestPostgresListen(t *testing.T) {
	woken := make(chan struct{}, 100)
	var calls atomic.Int64
	r := newRig(t, postgres, &queue.Options{
		Listen: func(ctx context.Context, channel string, wake func()) error {
			calls.Add(1)
			conn, err := pgx.Connect(ctx, sqldbtest.DSN(t))
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
				return err
			}
			woken <- struct{}{}
			for {
				if _, err := conn.WaitForNotification(ctx); err != nil {
					return err
				}
				wake()
				woken <- struct{}{}
			}
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-woken
	tx, err := r.db.Begin()
	require.NoError(t, err)
	_, err = r.PutTx(t.Context(), tx, r.batch(1))
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	<-woken
	require.Len(t, r.take(r.Queue, 1), 1)
	cancel()
	require.NoError(t, <-done)
}

// Hosts that ask for more isolation get mail, or an error that their own repeat mends, and never two mails for one key.
func TestPostgresHostsIsolation(t *testing.T) {
	for _, level := range []sql.IsolationLevel{sql.LevelRepeatableRead, sql.LevelSerializable} {
		r := newRig(t, servers()["postgres"], nil)
		var accepted atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			for k := range 4 {
				b := r.batch(1)
				b.Key, b.Digest = fmt.Sprint(k), [32]byte{byte(k)}
				wg.Go(func() {
					for {
						first, err := putTx(t.Context(), r, level, b)
						if sqldb.IsBusy(err) {
							continue
						}
						if err != nil {
							t.Error(err)
						} else if first {
							accepted.Add(1)
						}
						return
					}
				})
			}
		}
		wg.Wait()
		require.EqualValues(t, 4, accepted.Load())
		require.Len(t, r.take(r.Queue, 100), 4)
	}
}

func putTx(ctx context.Context, r *rig, level sql.IsolationLevel, b *securemail.Batch) (first bool, err error) {
	tx, err := r.db.BeginTx(ctx, &sql.TxOptions{Isolation: level})
	if err != nil {
		return false, err
	}
	defer tx.Rollback()
	sub, err := r.PutTx(ctx, tx, b)
	if err != nil {
		return false, err
	}
	return !sub.Repeated, tx.Commit()
}

// Backends that are killed at random lose nothing that was accepted, and what was not accepted leaves nothing.
func TestPostgresBackendsDie(t *testing.T) {
	r := newRig(t, servers()["postgres"], nil)
	killer := r.again()
	stop := make(chan struct{})
	var killing, wg sync.WaitGroup
	killing.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				_, _ = killer.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE pid<>pg_backend_pid() AND application_name=current_setting('application_name') AND (query LIKE '%INTO queue_%' OR query ILIKE 'commit%' OR query LIKE '%lock_timeout%') ORDER BY random() LIMIT 2`)
			}
		}
	})
	var mu sync.Mutex
	answers := make(map[string]error)
	for range 16 {
		wg.Go(func() {
			for range 40 {
				b := r.batch(1)
				_, err := r.Put(t.Context(), b)
				mu.Lock()
				answers[b.Submission] = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	close(stop)
	killing.Wait()
	accepted, unknown, check := 0, 0, r.again()
	for id, err := range answers {
		var n int
		require.NoError(t, check.QueryRow("SELECT count(*) FROM queue_parcel WHERE submission=$1", id).Scan(&n))
		switch {
		case err == nil:
			accepted++
			require.Equal(t, 1, n, "accepted and lost")
		case errors.Is(err, queue.ErrUnknown):
			unknown++
		default:
			require.Zero(t, n, "%v", err)
		}
	}
	t.Log(len(answers), "put,", accepted, "accepted,", unknown, "unknown")
	require.Positive(t, accepted)
}

// A database that turned read-only, as a standby is, says so; nothing is half written, and the queue goes on afterwards.
func TestPostgresReadOnly(t *testing.T) {
	r := newRig(t, single(postgres), nil)
	r.exec("SET default_transaction_read_only=on")
	_, err := r.Put(t.Context(), r.batch(2))
	require.ErrorIs(t, err, queue.ErrReadOnly)
	r.exec("SET default_transaction_read_only=off")
	require.Zero(t, r.count("SELECT count(*) FROM queue_key")+r.count("SELECT count(*) FROM queue_parcel"))
	r.put(2)
	require.Len(t, r.take(r.Queue, 9), 2)
}

// Many claimers at once get all that is due, each parcel once, and wait for nobody.
func TestPostgresManyClaimers(t *testing.T) {
	r := newRig(t, postgres, nil)
	for range 10 {
		r.put(100)
	}
	others := []*queue.Queue{r.Queue, r.open(r.again(), "b"), r.open(r.again(), "c")}
	var mu sync.Mutex
	seen := make(map[securemail.ParcelID]int)
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() {
			for {
				ls, err := others[i%3].Take(t.Context(), r.clock(), 40, 0)
				if err != nil {
					t.Error(err)
				}
				if len(ls) == 0 {
					return
				}
				mu.Lock()
				for _, l := range ls {
					seen[l.Parcel.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, l := range r.take(r.Queue, 500) { // whoever found all that was left locked has gone
		seen[l.Parcel.ID]++
	}
	require.Len(t, seen, 1000)
	for id, n := range seen {
		require.Equal(t, 1, n, id)
	}
}
