package queue_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// withBlobs is a rig on a folder of which the files can be read.
func withBlobs(t *testing.T, open opener) (*rig, string) {
	dir := filepath.Join(t.TempDir(), "a", "blobs")
	blobs, err := queue.Dir(dir)
	require.NoError(t, err)
	return newRig(t, open, &queue.Options{Blobs: blobs}), dir
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, path)
		}
		return err
	}))
	return out
}

// large makes the first message of b too large for a row.
func large(t testing.TB, b *securemail.Batch) *securemail.Batch {
	m := message(t, "large", big())
	for _, p := range b.Parcels {
		p.Message, p.Size = m, m.Size()
	}
	return b
}

// dump is every column of every table as text and bytes.
func (r *rig) dump() []byte {
	var out bytes.Buffer
	for _, table := range []string{"meta", "key", "body", "parcel", "label", "event", "reader"} {
		rows, err := r.db.Query("SELECT * FROM queue_" + table)
		require.NoError(r.t, err)
		cols, err := rows.Columns()
		require.NoError(r.t, err)
		for rows.Next() {
			vs, ps := make([]any, len(cols)), make([]any, len(cols))
			for i := range vs {
				ps[i] = &vs[i]
			}
			require.NoError(r.t, rows.Scan(ps...))
			for _, v := range vs {
				if b, ok := v.([]byte); ok {
					out.Write(b)
				} else {
					fmt.Fprint(&out, v)
				}
				out.WriteByte(0)
			}
		}
		require.NoError(r.t, rows.Err())
		require.NoError(r.t, rows.Close())
	}
	return out.Bytes()
}

func TestNothingInClear(t *testing.T) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			r, dir := withBlobs(t, open)
			const canary = "zqcanaryx"
			for _, pad := range []string{"", strings.Repeat("pad\r\n", 20000)} {
				b := r.batch(2)
				b.Key = canary + "-key" + fmt.Sprint(len(pad))
				m := message(t, canary+" subject", canary+" body\r\n"+pad)
				for i, p := range b.Parcels {
					p.Message, p.Size = m, m.Size()
					p.Subjects = []securemail.Subject{canary}
					p.Recipient = securemail.Contact{
						Name: canary, Address: address(t, fmt.Sprintf("%s%d@%s.example", canary, i, canary)), Ref: canary,
						Attrs: map[string]string{canary: canary},
					}
					p.Factors = []securemail.Factor{{Kind: "code", Hint: canary, Value: securemail.NewSecret(canary)}}
					b.Events[i].Status.Slip = p.Slip
					b.Events[i].Facts = &securemail.Facts{Slip: p.Slip}
				}
				_, err := r.Put(t.Context(), b)
				require.NoError(t, err)
			}
			for _, l := range r.take(r.Queue, 4) {
				require.Contains(t, content(t, l.Parcel.Message), canary)
				m := r.mark(l, securemail.StateAttempting)
				m.Status.Receipt = &securemail.Receipt{Peer: canary}
				require.NoError(t, r.Mark(t.Context(), m))
			}
			require.Len(t, r.find(securemail.Query{Ref: canary}), 4)
			require.NotContains(t, string(r.dump()), canary)
			names := files(t, dir)
			require.Len(t, names, 1)
			if path := r.file(); path != "" {
				names = append(names, path, path+"-wal")
			}
			for _, name := range names {
				raw, err := os.ReadFile(name)
				require.NoError(t, err)
				require.NotContains(t, name+string(raw), canary)
				require.NotContains(t, string(raw), "example.org")
			}
		})
	}
}

// file is where a SQLite database lies, "" for PostgreSQL.
func (r *rig) file() string {
	var path string
	if err := r.db.QueryRow("SELECT file FROM pragma_database_list WHERE name='main'").Scan(&path); err != nil {
		return ""
	}
	return path
}

func TestBlobs(t *testing.T) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			r, dir := withBlobs(t, open)
			b := large(t, r.batch(3))
			_, err := r.Put(t.Context(), b)
			require.NoError(t, err)
			require.Len(t, files(t, dir), 1, "one for three parcels")
			require.Equal(t, 1, r.count("SELECT count(*) FROM queue_body WHERE sealed IS NULL"))
			ls := r.take(r.open(r.again(), ""), 3)
			require.Len(t, ls, 3)
			for _, l := range ls {
				require.Equal(t, content(t, b.Parcels[0].Message), content(t, l.Parcel.Message))
			}
			r.pass(time.Minute)
			for i, l := range r.take(r.Queue, 3) {
				require.Len(t, files(t, dir), 1)
				if i < 2 {
					require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)))
				} else {
					require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateDeferred)))
					require.NoError(t, r.Order(t.Context(), securemail.Cancel, "clinic", l.Parcel.ID))
				}
			}
			require.Empty(t, files(t, dir), "gone with the last parcel")

			// What was not accepted leaves no blob.
			bad := large(t, r.batch(2))
			bad.Parcels[1].ID = bad.Parcels[0].ID
			_, err = r.Put(t.Context(), bad)
			require.Error(t, err)
			b.Key = "k"
			same := large(t, r.batch(1))
			same.Key = "k"
			tx, err := r.db.Begin()
			require.NoError(t, err)
			_, err = r.PutTx(t.Context(), tx, same)
			require.NoError(t, err)
			require.Len(t, files(t, dir), 1)
			require.NoError(t, tx.Rollback())
			require.Len(t, files(t, dir), 1, "the host's rollback is not seen; the sweep removes it")
		})
	}
}

// run lets the background work of q do one round.
func (r *rig) run(q *queue.Queue) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	cancel()
	require.NoError(r.t, q.Run(ctx))
}

// sweep opens a new queue, as a restart does, and sweeps.
func (r *rig) sweep() {
	r.t.Helper()
	r.open(r.db, "").Sweep(r.t.Context())
}

func TestSweep(t *testing.T) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			r, dir := withBlobs(t, open)
			tx, err := r.db.Begin()
			require.NoError(t, err)
			_, err = r.PutTx(t.Context(), tx, large(t, r.batch(1)))
			require.NoError(t, err)
			require.NoError(t, tx.Rollback())
			kept := large(t, r.batch(1))
			kept.Key = "k"
			_, err = r.Put(t.Context(), kept)
			require.NoError(t, err)
			stray := filepath.Join(dir, "ab", "x.tmp")
			require.NoError(t, os.MkdirAll(filepath.Dir(stray), 0o700))
			require.NoError(t, os.WriteFile(stray, []byte("torn"), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "foreign"), nil, 0o600))
			require.NoError(t, r.Add(t.Context(), nil, r.event(securemail.Slip{Actor: securemail.Actor{Tenant: "clinic"}}, "read")))

			r.sweep()
			require.Len(t, files(t, dir), 4, "young files stay")
			for _, f := range files(t, dir) {
				require.NoError(t, os.Chtimes(f, r.clock(), r.clock()))
			}
			r.pass(49 * time.Hour)
			r.sweep()
			require.Len(t, files(t, dir), 2, "the accepted one, and one that is not ours")

			l := r.take(r.Queue, 1)[0]
			require.Contains(t, content(t, l.Parcel.Message), "no play")
			require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)))
			r.pass(29 * 24 * time.Hour)
			r.sweep()
			require.Equal(t, securemail.StateDelivered, r.status(l.Parcel.ID).State)
			require.Equal(t, 3, r.count("SELECT count(*) FROM queue_event"), "no reader has seen them")
			es, err := r.Next(t.Context(), "slow", 100)
			require.NoError(t, err)
			require.Len(t, r.events("fast"), 3)
			require.NoError(t, r.Ack(t.Context(), "slow", es[0].ID))
			r.sweep()
			require.Equal(t, 2, r.count("SELECT count(*) FROM queue_event"), "the slow reader needs them")
			r.pass(48 * time.Hour)
			r.sweep()
			require.Zero(t, r.count("SELECT count(*) FROM queue_parcel"))
			require.Zero(t, r.count("SELECT count(*) FROM queue_label"))
			require.Len(t, r.find(securemail.Query{}), 0)
			require.Equal(t, 2, r.count("SELECT count(*) FROM queue_key"), "events are sealed under them")
			again := r.batch(1)
			again.Key = "k"
			sub, err := r.Put(t.Context(), again)
			require.NoError(t, err)
			require.False(t, sub.Repeated, "the key's time is over")
			require.NoError(t, r.Forget(t.Context(), "slow"))
			r.sweep()
			require.Equal(t, 1, r.count("SELECT count(*) FROM queue_event"))
			r.sweep()
			require.Equal(t, 1, r.count("SELECT count(*) FROM queue_key"))
		})
	}
}

func TestOrphanedBodyIsSwept(t *testing.T) {
	r, dir := withBlobs(t, lite)
	_, err := r.Put(t.Context(), large(t, r.batch(1)))
	require.NoError(t, err)
	r.exec("UPDATE queue_parcel SET ended=1, state='delivered', due=0")
	r.sweep()
	require.Zero(t, r.count("SELECT count(*) FROM queue_body"))
	require.Empty(t, files(t, dir))
}

// flips are the columns with sealed bytes; each must be found out.
func TestDamage(t *testing.T) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			r, dir := withBlobs(t, open)
			for what, damage := range map[string]func(p *securemail.Parcel){
				"slip":   func(p *securemail.Parcel) { r.flip("queue_parcel", "slip", "id", string(p.ID)) },
				"letter": func(p *securemail.Parcel) { r.flip("queue_parcel", "letter", "id", string(p.ID)) },
				"body":   func(p *securemail.Parcel) { r.flip("queue_body", "sealed", "submission", p.Submission) },
				"row":    func(p *securemail.Parcel) { r.exec("DELETE FROM queue_body WHERE submission='" + p.Submission + "'") },
				"blob": func(p *securemail.Parcel) {
					for _, f := range files(t, dir) {
						require.NoError(t, os.Remove(f))
					}
				},
				"cut blob": func(p *securemail.Parcel) {
					for _, f := range files(t, dir) {
						require.NoError(t, os.Truncate(f, 70000))
					}
				},
			} {
				b, good := r.batch(1), r.batch(1)
				if strings.Contains(what, "blob") {
					large(t, b)
				}
				_, err := r.Put(t.Context(), b)
				require.NoError(t, err)
				damage(b.Parcels[0])
				_, err = r.Put(t.Context(), good)
				require.NoError(t, err)
				q := r.open(r.db, "") // nothing cached
				ls, err := q.Take(t.Context(), r.clock(), 10, 0)
				require.NoError(t, err, what)
				require.Len(t, ls, 1, what)
				require.Equal(t, good.Parcels[0].ID, ls[0].Parcel.ID, "one damaged parcel stops nobody else")
				require.NoError(t, q.Mark(t.Context(), r.mark(ls[0], securemail.StateDelivered)))
				require.Equal(t, 1, r.count("SELECT count(*) FROM queue_parcel WHERE state='held' AND due=0 AND id='"+string(b.Parcels[0].ID)+"'"))
				last := r.events("x")
				i := slices.IndexFunc(last, func(e securemail.Event) bool { return e.Detail["rule"] == "corrupt" })
				require.GreaterOrEqual(t, i, 0, what)
				require.Equal(t, b.Parcels[0].ID, last[i].Status.ID)
				require.Equal(t, "held", last[i].Kind)
				r.exec("DELETE FROM queue_parcel")
				for _, f := range files(t, dir) {
					require.NoError(t, os.Remove(f))
				}
			}
		})
	}
}

// flip changes one bit in the middle of a column.
func (r *rig) flip(table, column, key, id string) {
	r.t.Helper()
	var b []byte
	require.NoError(r.t, r.db.QueryRow("SELECT "+column+" FROM "+table+" WHERE "+key+"='"+id+"'").Scan(&b))
	b[len(b)/2] ^= 1
	q := "UPDATE " + table + " SET " + column + "=? WHERE " + key + "='" + id + "'"
	if r.file() == "" {
		q = strings.Replace(q, "?", "$1", 1)
	}
	_, err := r.db.Exec(q, b)
	require.NoError(r.t, err)
}

func corrupt(t *testing.T, err error, part string) {
	t.Helper()
	c, ok := errors.AsType[*queue.CorruptError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, part, c.Part)
	require.NotEmpty(t, c.Error())
	require.Error(t, errors.Unwrap(c))
}

func TestDamageInStatusEventAndAnswer(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.batch(2)
		b.Key = "k"
		_, err := r.Put(t.Context(), b)
		require.NoError(t, err)
		ls := r.take(r.Queue, 2)
		require.NoError(t, r.Mark(t.Context(), r.mark(ls[0], securemail.StateAttempting), r.mark(ls[1], securemail.StateDelivered)))
		r.flip("queue_parcel", "status", "id", string(ls[0].Parcel.ID))
		var got []securemail.Status
		for st, err := range r.Find(t.Context(), securemail.Query{Tenant: "clinic"}) {
			if len(got) == 0 {
				corrupt(t, err, "status")
				require.Equal(t, ls[0].Parcel.ID, st.ID)
			} else {
				require.NoError(t, err, "the search goes on")
			}
			got = append(got, st)
		}
		require.Len(t, got, 2)
		_, err = r.Put(t.Context(), b)
		corrupt(t, err, "status")
		require.ErrorIs(t, err, seal.ErrCorrupt)

		r.pass(time.Minute)
		require.Empty(t, r.take(r.Queue, 2))
		require.Equal(t, securemail.StateUncertain, r.status(ls[0].Parcel.ID).State, "it may have left: not held, uncertain")

		r.flip("queue_event", "sealed", "id", b.Events[1].ID)
		es, err := r.Next(t.Context(), "x", 10)
		require.NoError(t, err)
		require.Len(t, es, 1, "up to the damage")
		require.NoError(t, r.Ack(t.Context(), "x", es[0].ID))
		_, err = r.Next(t.Context(), "x", 10)
		corrupt(t, err, "event")
		r.flip("queue_key", "answer", "id", b.Submission)
		_, err = r.Put(t.Context(), b)
		corrupt(t, err, "answer")
		r.exec("DELETE FROM queue_key")
		q := r.open(r.db, "")
		corrupt(t, q.Mark(t.Context(), r.mark(ls[0], securemail.StateDelivered)), "key")
	})
}

// Swapping the sealed bytes of two rows is found out as flipping them is.
func TestSwappedRows(t *testing.T) {
	r := newRig(t, lite, nil)
	b := r.put(2)
	r.exec("CREATE TABLE copy AS SELECT id, slip FROM queue_parcel")
	r.exec("UPDATE queue_parcel SET slip=(SELECT slip FROM copy WHERE copy.id<>queue_parcel.id)")
	for _, err := range r.Find(t.Context(), securemail.Query{Tenant: "clinic", IDs: []securemail.ParcelID{b.Parcels[0].ID}}) {
		corrupt(t, err, "slip")
	}
}

func TestKeyRingDown(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.batch(1)
		b.Key = "k"
		_, err := r.Put(t.Context(), b)
		require.NoError(t, err)
		q := r.open(r.again(), "") // nothing cached
		down := errors.New("ring is down")
		r.ring.break_(down)
		_, err = q.Take(t.Context(), r.clock(), 5, time.Minute)
		require.ErrorIs(t, err, down, "not now")
		ls, err := q.Take(t.Context(), r.clock(), 5, 0)
		require.NoError(t, err)
		require.Empty(t, ls, "later")
		for _, err := range q.Find(t.Context(), securemail.Query{Tenant: "clinic"}) {
			require.ErrorIs(t, err, down)
		}
		_, err = q.Next(t.Context(), "x", 5)
		require.ErrorIs(t, err, down)
		_, err = q.Put(t.Context(), b)
		require.ErrorIs(t, err, down)
		require.ErrorIs(t, q.Order(t.Context(), securemail.Hold, "clinic", b.Parcels[0].ID), down)
		require.ErrorIs(t, q.Add(t.Context(), nil, r.event(b.Parcels[0].Slip, "read")), down)
		r.ring.break_(nil)
		r.pass(time.Minute)
		ls = r.take(q, 5)
		require.Len(t, ls, 1)
		require.Equal(t, securemail.StateAccepted, ls[0].Last.State)

		_, err = r.ring.Destroy(t.Context(), "tenant/clinic")
		require.NoError(t, err)
		for _, err := range r.open(r.again(), "").Find(t.Context(), securemail.Query{Tenant: "clinic"}) {
			require.Error(t, err, "what was destroyed opens nowhere")
		}
	})
}

func TestHeartbeat(t *testing.T) {
	r := newRig(t, lite, &queue.Options{Lease: time.Second})
	other := r.open(r.again(), "")
	l := r.leased(securemail.StateAttempting)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	until := func() int { return r.count("SELECT lease_until FROM queue_parcel") }
	before := until()
	r.pass(900 * time.Millisecond)
	require.Eventually(t, func() bool { return until() > before }, 20*time.Second, 10*time.Millisecond)
	r.pass(900 * time.Millisecond)
	require.Empty(t, r.take(other, 1))
	cancel()
	require.NoError(t, <-done)
	r.pass(2 * time.Second)
	r.run(r.Queue)
	require.Len(t, r.take(other, 1), 1, "nobody renews what was dropped")
	require.ErrorIs(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)), securemail.ErrLease)
}

func TestListenIsRepeated(t *testing.T) {
	calls := make(chan string, 10)
	r := newRig(t, lite, &queue.Options{Listen: func(ctx context.Context, channel string, wake func()) error {
		wake()
		calls <- channel
		<-ctx.Done()
		return ctx.Err()
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	require.Equal(t, "postseal_queue", <-calls)
	cancel()
	require.NoError(t, <-done)
}

func TestOutbox(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		slip := securemail.Slip{Actor: securemail.Actor{Tenant: "clinic"}}
		es := []securemail.Event{r.event(slip, "read"), r.event(securemail.Slip{Actor: securemail.Actor{Tenant: "other"}}, "fault")}
		es[0].Detail = map[string]string{"a": "b"}
		require.NoError(t, r.Add(t.Context(), nil))
		require.NoError(t, r.Add(t.Context(), nil, es...))
		require.NoError(t, r.Add(t.Context(), nil, es...), "a repeat changes nothing")
		tx, err := r.db.Begin()
		require.NoError(t, err)
		require.NoError(t, r.Add(t.Context(), tx, r.event(slip, "gone")))
		require.NoError(t, tx.Rollback())
		tx, err = r.db.Begin()
		require.NoError(t, err)
		third := r.event(slip, "kept")
		require.NoError(t, r.Add(t.Context(), tx, third))
		require.NoError(t, tx.Commit())
		require.Error(t, r.Add(t.Context(), nil, securemail.Event{}))

		got, err := r.Next(t.Context(), "a", 2)
		require.NoError(t, err)
		same, err := r.Next(t.Context(), "a", 2)
		require.NoError(t, err)
		require.Equal(t, got, same)
		es[0].Seq, es[1].Seq = got[0].Seq, got[1].Seq
		require.Equal(t, es, got)
		require.NoError(t, r.Ack(t.Context(), "a", got[1].ID))
		require.NoError(t, r.Ack(t.Context(), "a", got[0].ID), "a cursor never moves back")
		got, err = r.Next(t.Context(), "a", 2)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, third.ID, got[0].ID)
		require.Len(t, r.events("b"), 3, "each reader has his own cursor")
		require.ErrorIs(t, r.Ack(t.Context(), "a", "unknown"), sql.ErrNoRows)
	})
}

// One large draft to many: the body is stored and checked once, and memory stays flat.
func TestManyParcelsOfOneBody(t *testing.T) {
	r, dir := withBlobs(t, lite)
	opens := &counting{BlobStore: r.opts.Blobs}
	r.opts.Blobs = opens
	q := r.open(r.db, "")
	b := large(t, r.batch(1200))
	_, err := q.Put(t.Context(), b)
	require.NoError(t, err)
	require.Len(t, files(t, dir), 1)
	q = r.open(r.db, "")
	n := 0
	for {
		ls := r.take(q, 500)
		if len(ls) == 0 {
			break
		}
		n += len(ls)
	}
	require.Equal(t, 1200, n)
	require.Equal(t, 1, opens.n)
}

type counting struct {
	securemail.BlobStore
	n int
}

func (c *counting) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	c.n++
	return c.BlobStore.Open(ctx, key)
}

func TestBlobStoreFails(t *testing.T) {
	r := newRig(t, lite, nil)
	broken := &brokenStore{}
	r.opts.Blobs = broken
	q := r.open(r.db, "")
	_, err := q.Put(t.Context(), large(t, r.batch(1)))
	require.ErrorIs(t, err, errBroken)
	require.Zero(t, r.count("SELECT count(*) FROM queue_key"))

	blobs, err := queue.Dir(t.TempDir())
	require.NoError(t, err)
	r.opts.Blobs = blobs
	_, err = r.open(r.db, "").Put(t.Context(), large(t, r.batch(1)))
	require.NoError(t, err)
	for _, o := range []securemail.BlobStore{broken, nil} {
		r.opts.Blobs = o
		_, err = r.open(r.db, "").Take(t.Context(), r.clock(), 1, 0)
		require.Error(t, err, "not now: the store may come back")
		r.pass(time.Minute)
	}
	r.opts.Blobs = blobs
	require.Len(t, r.take(r.open(r.db, ""), 1), 1)
}

var errBroken = errors.New("store is down")

type brokenStore struct{}

func (*brokenStore) Put(context.Context, string, io.Reader) error        { return errBroken }
func (*brokenStore) Open(context.Context, string) (io.ReadCloser, error) { return nil, errBroken }
func (*brokenStore) Delete(context.Context, string) error                { return errBroken }
func (*brokenStore) List(context.Context, time.Time) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("", errBroken) }
}

func TestDir(t *testing.T) {
	_, err := queue.Dir("")
	require.Error(t, err)
	root := t.TempDir()
	file := filepath.Join(root, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = queue.Dir(file)
	require.Error(t, err)
	_, err = queue.Dir(filepath.Join(file, "below"))
	require.Error(t, err)
	require.NotContains(t, err.Error(), root)

	dir := filepath.Join(root, "x", "blobs")
	s, err := queue.Dir(dir)
	require.NoError(t, err)
	for _, key := range []string{"", "/a", "a//b", "a/", "..", "a/../b", "A", "a.tmp"} {
		require.Error(t, s.Put(t.Context(), key, strings.NewReader("x")), key)
		_, err := s.Open(t.Context(), key)
		require.Error(t, err, key)
		require.Error(t, s.Delete(t.Context(), key), key)
	}
	require.NoError(t, s.Put(t.Context(), "ab/c", strings.NewReader("hello")))
	rc, err := s.Open(t.Context(), "ab/c")
	require.NoError(t, err)
	b, err := io.ReadAll(rc)
	require.NoError(t, err)
	require.NoError(t, rc.Close())
	require.Equal(t, "hello", string(b))
	fi, err := os.Stat(filepath.Join(dir, "ab", "c"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), fi.Mode().Perm())

	boom := errors.New("boom")
	require.ErrorIs(t, s.Put(t.Context(), "ab/d", io.MultiReader(strings.NewReader("x"), &failing{boom})), boom)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Put(ctx, "ab/e", strings.NewReader("x")), context.Canceled)
	require.Len(t, files(t, dir), 1, "nothing half written stays")
	_, err = s.Open(t.Context(), "zz/z")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NotContains(t, err.Error(), root)
	require.NoError(t, s.Delete(t.Context(), "zz/z"))
	var keys []string
	for k, err := range s.(queue.BlobLister).List(t.Context(), time.Now().Add(time.Hour)) {
		require.NoError(t, err)
		keys = append(keys, k)
	}
	require.Equal(t, []string{"ab/c"}, keys)
	for range s.(queue.BlobLister).List(t.Context(), time.Now().Add(time.Hour)) {
		break
	}
	for _, err := range s.(queue.BlobLister).List(ctx, time.Now()) {
		require.ErrorIs(t, err, context.Canceled)
	}
	require.NoError(t, s.Delete(t.Context(), "ab/c"))
	require.Empty(t, files(t, dir))
	require.NoError(t, os.Chmod(filepath.Join(dir, "ab"), 0o700))
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }
