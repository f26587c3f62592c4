package queue_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// faultyRig is a rig whose statements may fail, and one on the same database whose don't.
func faultyRig(t *testing.T) (*rig, *rig, *sqldbtest.Faults) {
	path := filepath.Join(t.TempDir(), "q.db")
	plain := func(t testing.TB) func() *sql.DB {
		return func() *sql.DB { return sqldbtest.SQLite(t, path, sqldbtest.Safe) }
	}
	f := new(sqldbtest.Faults)
	bad := func(t testing.TB) func() *sql.DB {
		return func() *sql.DB {
			db := sqldbtest.Open(sqldbtest.SQLite(t, path, sqldbtest.Safe), "file:"+path+sqldbtest.Safe, f)
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			return db
		}
	}
	blobs, err := queue.Dir(filepath.Join(t.TempDir(), "blobs"))
	require.NoError(t, err)
	ring := newRing()
	good := newRigOn(t, plain, ring, &queue.Options{Blobs: blobs})
	r := newRigOn(t, bad, ring, &queue.Options{Blobs: blobs})
	r.now = good.now
	r.ids.Store(1 << 20)
	return r, good, f
}

// failEach runs op with the first, second, ... statement failing, until all pass. begin makes what op needs, on the sound
// handle; after an error nothing may have changed, and a repeat must do.
func failEach(t *testing.T, f *sqldbtest.Faults, good *rig, begin func() (op func() error)) {
	t.Helper()
	for n := 1; ; n++ {
		op := begin()
		before := good.dump()
		f.At(n, sqldbtest.IOErr)
		err := op()
		if f.Clear() < n {
			require.NoError(t, err)
			require.Greater(t, n, 1)
			return
		}
		if err == nil {
			continue // a look that could be left out
		}
		require.ErrorIs(t, err, sqldbtest.IOErr)
		require.Equal(t, before, good.dump(), "statement %d failed and left something", n)
		require.NoError(t, op(), "a repeat")
	}
}

func TestEachStatementFails(t *testing.T) {
	ctx := t.Context()
	for name, begin := range map[string]func(r, good *rig) func() (op func() error){
		"put": func(r, good *rig) func() func() error {
			return func() func() error {
				b := large(t, good.batch(2))
				b.Key = b.Submission
				b.Refused = []securemail.Status{{Slip: b.Parcels[0].Slip, State: securemail.StateRefused}}
				b.Refused[0].ID = securemail.ParcelID(good.newID("ref"))
				return func() error { _, err := r.Put(ctx, b); return err }
			}
		},
		"put tx": func(r, good *rig) func() func() error {
			return func() func() error {
				b := good.batch(1)
				b.Key = b.Submission
				return func() error {
					tx, err := r.db.BeginTx(ctx, nil)
					if err != nil {
						return err
					}
					defer tx.Rollback()
					if _, err := r.PutTx(ctx, tx, b); err != nil {
						return err
					}
					return tx.Commit()
				}
			}
		},
		"repeat": func(r, good *rig) func() func() error {
			return func() func() error {
				b := good.batch(1)
				b.Key = b.Submission
				_, err := good.Put(ctx, b)
				require.NoError(t, err)
				return func() error { _, err := r.Put(ctx, b); return err }
			}
		},
		"mark": func(r, good *rig) func() func() error {
			return func() func() error {
				_, err := good.Put(ctx, large(t, good.batch(2)))
				require.NoError(t, err)
				ls := good.take(good.Queue, 2)
				ms := []securemail.Mark{good.mark(ls[1], securemail.StateDeferred), good.mark(ls[0], securemail.StateBounced)}
				return func() error { return r.Mark(ctx, ms...) }
			}
		},
		"order": func(r, good *rig) func() func() error {
			return func() func() error {
				b := good.put(2)
				return func() error {
					return r.Order(ctx, securemail.Cancel, "clinic", b.Parcels[0].ID, b.Parcels[1].ID)
				}
			}
		},
		"add": func(r, good *rig) func() func() error {
			return func() func() error {
				e := good.event(securemail.Slip{Actor: securemail.Actor{Tenant: "clinic"}}, "read")
				return func() error { return r.Add(ctx, nil, e) }
			}
		},
		"next and ack": func(r, good *rig) func() func() error {
			return func() func() error {
				good.put(1)
				reader := good.newID("reader")
				_, err := good.Next(ctx, reader, 1)
				require.NoError(t, err)
				return func() error {
					es, err := r.Next(ctx, reader, 1)
					if err != nil {
						return err
					}
					return r.Ack(ctx, reader, es[0].ID)
				}
			}
		},
		"forget": func(r, good *rig) func() func() error {
			return func() func() error {
				reader := good.newID("reader")
				_, err := good.Next(ctx, reader, 1)
				require.NoError(t, err)
				return func() error { return r.Forget(ctx, reader) }
			}
		},
		"find": func(r, good *rig) func() func() error {
			return func() func() error {
				b := good.put(1)
				return func() error {
					for _, err := range r.Find(ctx, securemail.Query{Tenant: "clinic", Submission: b.Submission}) {
						if err != nil {
							return err
						}
					}
					return nil
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, good, f := faultyRig(t)
			failEach(t, f, good, begin(r, good))
		})
	}
}

// A Take that fails half way hands nothing out, and nothing is lost: what it leased comes back when the lease is over.
func TestTakeFails(t *testing.T) {
	r, good, f := faultyRig(t)
	for n := 1; ; n++ {
		b := good.put(2)
		f.At(n, sqldbtest.IOErr)
		ls, err := r.Take(t.Context(), r.clock(), 10, 0)
		if f.Clear() < n {
			require.NoError(t, err)
			require.Len(t, ls, 2)
			return
		}
		require.ErrorIs(t, err, sqldbtest.IOErr)
		require.Empty(t, ls)
		r.pass(time.Minute)
		ls = r.take(r.Queue, 10)
		require.Len(t, ls, 2)
		require.Equal(t, b.Parcels[0].ID, ls[0].Parcel.ID)
		require.NoError(t, r.Mark(t.Context(), r.mark(ls[0], securemail.StateDelivered), r.mark(ls[1], securemail.StateHeld)))
	}
}

// Where a damaged parcel can't be set aside either, it comes back.
func TestSettingAsideFails(t *testing.T) {
	for _, fault := range []func(good *rig, p *securemail.Parcel){
		func(good *rig, p *securemail.Parcel) { good.flip("queue_parcel", "slip", "id", string(p.ID)) },
		func(good *rig, p *securemail.Parcel) { good.flip("queue_key", "wrapped", "id", p.Submission) },
	} {
		r, good, f := faultyRig(t)
		for n := 1; n < 40; n++ {
			b := good.put(1)
			fault(good, b.Parcels[0])
			f.At(n, sqldbtest.IOErr)
			_, _ = r.Take(t.Context(), r.clock(), 10, 0)
			done := f.Clear() < n
			r.pass(time.Minute)
			_, _ = r.Take(t.Context(), r.clock(), 10, 0)
			require.Zero(t, good.count("SELECT count(*) FROM queue_parcel WHERE due>0 AND lease_epoch>0"))
			good.exec("DELETE FROM queue_parcel")
			if done {
				break
			}
		}
	}
}

// A commit whose answer is lost is looked up.
func TestLostCommit(t *testing.T) {
	r, good, f := faultyRig(t)
	b := good.batch(1)
	f.LoseCommit()
	sub, err := r.Put(t.Context(), b)
	require.NoError(t, err, "it holds")
	require.Equal(t, b.Submission, sub.ID)
	l := r.take(r.Queue, 1)[0]
	m := r.mark(l, securemail.StateAttempting)
	f.LoseCommit()
	require.ErrorIs(t, r.Mark(t.Context(), m), queue.ErrUnknown)
	require.NoError(t, r.Mark(t.Context(), m), "a repeat is safe")
	require.Len(t, r.events("x"), 2, "and tells it once")
	m = r.mark(l, securemail.StateDelivered)
	f.LoseCommit()
	require.ErrorIs(t, r.Mark(t.Context(), m), queue.ErrUnknown)
	require.NoError(t, r.Mark(t.Context(), m), "it holds")
	require.ErrorIs(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)), securemail.ErrLease, "another one does not")
	require.Len(t, r.events("x"), 1)
}

func TestSweepSurvivesFaults(t *testing.T) {
	r, good, f := faultyRig(t)
	_, err := good.Put(t.Context(), large(t, good.batch(1)))
	require.NoError(t, err)
	l := good.take(good.Queue, 1)[0]
	require.NoError(t, good.Mark(t.Context(), good.mark(l, securemail.StateDelivered)))
	good.events("x")
	_, err = good.Put(t.Context(), large(t, good.batch(1)))
	require.NoError(t, err)
	good.exec("UPDATE queue_parcel SET ended=1 WHERE ended=0")
	r.pass(100 * 24 * time.Hour)
	for n := 1; n <= 40; n += 3 {
		q := r.open(r.db, "")
		f.At(n, sqldbtest.IOErr)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
		require.NoError(t, q.Run(ctx))
		cancel()
		f.Clear()
	}
	r.sweep()
	require.Equal(t, 1, good.count("SELECT count(*) FROM queue_event"), "not acknowledged")
	require.Zero(t, good.count("SELECT count(*) FROM queue_body")+good.count("SELECT count(*) FROM queue_parcel"))
}

func TestNewFails(t *testing.T) {
	r, good, f := faultyRig(t)
	good.exec("DELETE FROM queue_meta WHERE name='index'")
	for n := 1; ; n++ {
		f.At(n, sqldbtest.IOErr)
		q, err := queue.New(t.Context(), r.db, r.ring, nil)
		if f.Clear() < n {
			require.NoError(t, err)
			return
		}
		if err == nil {
			continue
		}
		require.ErrorIs(t, err, sqldbtest.IOErr)
		require.Nil(t, q, "never half built")
	}
}

func TestHeartbeatSurvivesFaults(t *testing.T) {
	r, good, f := faultyRig(t)
	r.opts.Lease = time.Second
	q := r.open(r.db, "")
	good.put(1)
	require.Len(t, r.take(q, 1), 1)
	require.NoError(t, q.Run(expired(t, 50*time.Millisecond))) // the sweep
	good.put(1)
	require.Len(t, r.take(q, 1), 1)
	before := good.count("SELECT max(lease_until) FROM queue_parcel")
	r.pass(500 * time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	f.At(1, sqldbtest.IOErr)
	go func() { done <- q.Run(ctx) }()
	require.Eventually(t, func() bool { return good.count("SELECT max(lease_until) FROM queue_parcel") > before },
		20*time.Second, 20*time.Millisecond, "the next beat")
	cancel()
	require.NoError(t, <-done)
}

func expired(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
