package queue_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

func TestMain(m *testing.M) {
	child()
	_ = flag.Set("rapid.checks", "40") // the command line says otherwise
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// opener gives a fresh database, and more handles on it.
type opener func(t testing.TB) func() *sql.DB

func single(open opener) opener {
	return func(t testing.TB) func() *sql.DB {
		again := open(t)
		return func() *sql.DB {
			db := again()
			db.SetMaxOpenConns(1)
			return db
		}
	}
}

func lite(t testing.TB) func() *sql.DB {
	path := filepath.Join(t.TempDir(), "q.db")
	return func() *sql.DB { return sqldbtest.SQLite(t, path, sqldbtest.Safe) }
}

// openers are the databases that the tests run on; the interop lane adds PostgreSQL.
func openers() map[string]opener {
	m := map[string]opener{"sqlite": lite, "sqlite one connection": single(lite)}
	maps.Copy(m, servers())
	return m
}

// rig is a queue on a fresh database, with a clock that stands still.
type rig struct {
	*queue.Queue
	t     testing.TB
	db    *sql.DB
	again func() *sql.DB // another handle on the same database, as another process has
	ring  *ring
	now   *atomic.Int64
	opts  queue.Options
	ids   atomic.Int64
}

func each(t *testing.T, f func(t *testing.T, r *rig)) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) { f(t, newRig(t, open, nil)) })
	}
}

func newRig(t testing.TB, open opener, o *queue.Options) *rig {
	return newRigOn(t, open, newRing(), o)
}

func newRigOn(t testing.TB, open opener, ring *ring, o *queue.Options) *rig {
	r := &rig{t: t, again: open(t), ring: ring, now: new(atomic.Int64)}
	r.db = r.again()
	r.now.Store(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC).UnixMicro())
	if o != nil {
		r.opts = *o
	}
	r.opts.Now, r.opts.Logger = r.clock, slog.New(slog.DiscardHandler)
	r.Queue = r.open(r.db, r.opts.Owner)
	return r
}

// open is another process's queue on db.
func (r *rig) open(db *sql.DB, owner string) *queue.Queue {
	r.t.Helper()
	o := r.opts
	o.Owner = owner
	q, err := queue.New(r.t.Context(), db, r.ring, &o)
	require.NoError(r.t, err)
	return q
}

func (r *rig) clock() time.Time         { return time.UnixMicro(r.now.Load()).UTC() }
func (r *rig) pass(d time.Duration)     { r.now.Add(d.Microseconds()) }
func (r *rig) newID(kind string) string { return fmt.Sprintf("%s%022d", kind, r.ids.Add(1)) }

// message has a body of its own each time.
func message(t testing.TB, subject, body string) *securemail.Message {
	t.Helper()
	m, err := securemail.NewMessage(securemail.Bytes([]byte("Subject: " + subject + "\r\nMessage-ID: <1@x.example>\r\n\r\n" + body + "\r\n")))
	require.NoError(t, err)
	return m
}

func address(t testing.TB, s string) securemail.Address {
	t.Helper()
	a, err := securemail.ParseAddress(s)
	require.NoError(t, err)
	return a
}

// batch is one message to n recipients of a tenant.
func (r *rig) batch(n int) *securemail.Batch {
	b := &securemail.Batch{Tenant: "clinic", Submission: r.newID("sub")}
	m := message(r.t, "result", "your result")
	for i := range n {
		p := &securemail.Parcel{Message: m, Factors: []securemail.Factor{{Kind: "code", Value: securemail.NewSecret("4711")}}}
		p.ID, p.Submission, p.Submitted = securemail.ParcelID(r.newID("par")), b.Submission, r.clock()
		p.Actor = securemail.Actor{Tenant: "clinic", ID: "tester"}
		p.Recipient = securemail.Contact{Name: "Anna", Address: address(r.t, fmt.Sprintf("anna%d@example.org", i)), Ref: fmt.Sprint("patient-", i)}
		p.Size = m.Size()
		p.Labels = map[string]string{"n": fmt.Sprint(i)}
		b.Parcels = append(b.Parcels, p)
		b.Events = append(b.Events, r.event(p.Slip, securemail.StateAccepted))
	}
	return b
}

func (r *rig) event(s securemail.Slip, state securemail.State) securemail.Event {
	return securemail.Event{
		ID: r.newID("evt"), Kind: string(state), Time: r.clock(), By: s.Actor, Status: securemail.Status{Slip: s, State: state},
	}
}

func (r *rig) put(n int) *securemail.Batch {
	r.t.Helper()
	b := r.batch(n)
	_, err := r.Put(r.t.Context(), b)
	require.NoError(r.t, err)
	return b
}

func (r *rig) take(q *queue.Queue, max int) []*securemail.Lease {
	r.t.Helper()
	ls, err := q.Take(r.t.Context(), r.clock(), max, 0)
	require.NoError(r.t, err)
	return ls
}

// mark is a Mark that enters state; deferred and retried ones are due in a minute.
func (r *rig) mark(l *securemail.Lease, state securemail.State) securemail.Mark {
	st := l.Last
	st.State, st.Attempt, st.Next = state, l.Attempt, time.Time{}
	if state == securemail.StateDeferred {
		st.Next = r.clock().Add(time.Minute)
	}
	e := r.event(l.Parcel.Slip, state)
	return securemail.Mark{Lease: l, Status: st, Events: []securemail.Event{e}}
}

func (r *rig) find(q securemail.Query) []securemail.Status {
	r.t.Helper()
	q.Tenant = "clinic"
	var out []securemail.Status
	for st, err := range r.Find(r.t.Context(), q) {
		require.NoError(r.t, err)
		out = append(out, st)
	}
	return out
}

func (r *rig) status(id securemail.ParcelID) securemail.Status {
	r.t.Helper()
	sts := r.find(securemail.Query{IDs: []securemail.ParcelID{id}})
	require.Len(r.t, sts, 1)
	return sts[0]
}

// events reads all that reader has not read, and checks that Seq rises.
func (r *rig) events(reader string) []securemail.Event {
	r.t.Helper()
	var out []securemail.Event
	last := int64(0)
	for {
		es, err := r.Next(r.t.Context(), reader, 100)
		require.NoError(r.t, err)
		if len(es) == 0 {
			return out
		}
		for _, e := range es {
			require.Greater(r.t, e.Seq, last)
			last = e.Seq
		}
		out = append(out, es...)
		require.NoError(r.t, r.Ack(r.t.Context(), reader, es[len(es)-1].ID))
	}
}

func (r *rig) count(query string) int {
	r.t.Helper()
	var n int
	require.NoError(r.t, r.db.QueryRow(query).Scan(&n))
	return n
}

func (r *rig) exec(query string) {
	r.t.Helper()
	_, err := r.db.Exec(query)
	require.NoError(r.t, err)
}

func content(t testing.TB, m *securemail.Message) string {
	t.Helper()
	rc, err := m.Open()
	require.NoError(t, err)
	defer rc.Close()
	b, err := io.ReadAll(rc)
	require.NoError(t, err)
	return string(b)
}

// ring is a KeyRing in memory; every scope has a key, and losing one loses what it wraps.
type ring struct {
	mu     sync.Mutex // guards all
	scopes map[string][]byte
	gone   map[string]bool
	fail   error
	wraps  int
}

// fixedRing has the keys that the crash test's child has too.
func fixedRing() *ring {
	r := newRing()
	for _, s := range []string{"queue/index", "tenant/clinic"} {
		k := sha256.Sum256([]byte(s))
		r.scopes[s] = k[:]
	}
	return r
}

// destroyedError is how a ring says that an error is final.
type destroyedError struct{}

func (destroyedError) Error() string   { return "scope destroyed" }
func (destroyedError) Destroyed() bool { return true }

func newRing() *ring { return &ring{scopes: make(map[string][]byte), gone: make(map[string]bool)} }

func (r *ring) key(scopes []string) ([]byte, error) {
	h := sha256.New()
	for _, s := range scopes {
		if r.scopes[s] == nil {
			return nil, fmt.Errorf("ring: %w", destroyedError{})
		}
		h.Write(r.scopes[s])
	}
	return h.Sum(nil), nil
}

func (r *ring) Wrap(_ context.Context, key []byte, scopes ...string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return nil, r.fail
	}
	r.wraps++
	for _, s := range scopes {
		if r.scopes[s] == nil && !r.gone[s] {
			r.scopes[s] = seal.NewKey()
		}
	}
	k, err := r.key(scopes)
	if err != nil {
		return nil, err
	}
	sealed, err := seal.Seal(k, key, nil)
	if err != nil {
		return nil, err
	}
	list := []byte(strings.Join(scopes, "\n"))
	return append(append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...), sealed...), nil
}

func (r *ring) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return nil, r.fail
	}
	if len(wrapped) < 2 || len(wrapped) < 2+int(binary.BigEndian.Uint16(wrapped)) {
		return nil, errors.New("ring: damaged")
	}
	n := 2 + int(binary.BigEndian.Uint16(wrapped))
	scopes := strings.Split(string(wrapped[2:n]), "\n")
	k, err := r.key(scopes)
	if err != nil {
		return nil, err
	}
	return seal.Open(k, wrapped[n:], nil)
}

func (r *ring) Destroy(_ context.Context, scope string) (securemail.Destruction, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.scopes, scope)
	r.gone[scope] = true
	return securemail.Destruction{Scope: scope, At: time.Now()}, nil
}

func (r *ring) break_(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// big is a body over the limit of a row.
func big() string {
	return strings.TrimSuffix(string(bytes.Repeat([]byte("all work and no play\r\n"), 5000)), "\r\n")
}
