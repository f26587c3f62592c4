package escrow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/securemail"
)

func (r *rig) deposit(id string, fs ...securemail.Factor) (escrow.Locator, *escrow.Deposit) {
	r.t.Helper()
	s, err := r.e.Encrypt(r.t.Context(), job(r.t, id, fs...))
	require.NoError(r.t, err)
	l := locator(r.t, s.Message)
	d, err := r.e.Find(r.t.Context(), l)
	require.NoError(r.t, err)
	require.Equal(r.t, s.Detail["deposit"], d.ID())
	return l, d
}

func asReader(ctx context.Context, d *escrow.Deposit) context.Context {
	return securemail.WithActor(ctx, d.Reader(securemail.Auth{Method: "test"}))
}

func TestParseLocator(t *testing.T) {
	good := strings.Repeat("0v", 16)
	l, err := escrow.ParseLocator(good)
	require.NoError(t, err)
	require.Equal(t, good, string(l))
	require.Len(t, l.Hash(), 32)
	for _, s := range []string{"", good[1:], good + "0", strings.ToUpper(good), good[:31] + "w", good[:31] + "/", good[:30] + "é"} {
		_, err := escrow.ParseLocator(s)
		require.Error(t, err)
		if s != "" {
			require.NotContains(t, err.Error(), s)
		}
	}
}

func FuzzParseLocator(f *testing.F) {
	f.Add(strings.Repeat("0", 32))
	f.Add("../../etc/passwd")
	f.Add(strings.Repeat("V", 32))
	f.Fuzz(func(t *testing.T, s string) {
		l, err := escrow.ParseLocator(s)
		if err != nil {
			require.Empty(t, l)
			return
		}
		require.Equal(t, s, string(l))
		require.Len(t, s, 32)
		require.Empty(t, strings.Trim(s, "0123456789abcdefghijklmnopqrstuv"))
	})
}

func TestCheckFactors(t *testing.T) {
	r := open(t, nil)
	_, d := r.deposit("p1", factor("code", canaryCode), factor("question", "  Old   Rover\tStraße "))
	for _, c := range []struct {
		kind, value string
		ok          bool
	}{
		{"code", canaryCode, true},
		{"code", "ZQ773141", true},
		{"code", "ZQ77 3141", true},
		{"code", "zq77-3141", false}, // an access code is taken to the letter
		{"code", "", false},
		{"code", "old rover strasse", false},
		{"question", "old rover STRASSE", true},
		{"question", "oldrover strasse", false},
		{"question", "", false},
		{"question", canaryCode, false},
		{"sms", canaryCode, false},
		{"code", strings.Repeat("x", 10_000), false},
	} {
		ok, err := d.Check(t.Context(), c.kind, securemail.NewSecret(c.value))
		require.NoError(t, err)
		require.Equal(t, c.ok, ok, "%s %q", c.kind, c.value)
	}
	require.Equal(t, "hint of question", d.Question())
}

// What people type on telephones, and paste from mail.
func TestCheckFactorsAsTyped(t *testing.T) {
	r := open(t, nil)
	_, d := r.deposit("p1", factor("code", canaryCode), factor("question", "O'Brien \"\u0390\""))
	for value, kind := range map[string]string{
		"\u200bZQ77\u20133141\u00a0":           "code",
		"\uff3a\uff3177\uff0d3141":             "code",
		"o\u2019brien \u201c\u0390\u201d":      "question",
		"O\u2019BRIEN\u00a0\"\u03aa\u0301\"":   "question", // the capital of U+0390 has no form of its own
		"o'brien \"\u03b9\u0308\u0301\"":       "question",
		"\u2060o'brien\u3000 \"\u1fd3\"\u00ad": "question",
	} {
		ok, err := d.Check(t.Context(), kind, securemail.NewSecret(value))
		require.NoError(t, err)
		require.True(t, ok, "%q", value)
	}
}

// Parcel and tenant lie in clear: who can write the table must not move a deposit to another tenant.
func TestDepositOfAnotherTenantDoesNotOpen(t *testing.T) {
	for _, q := range []string{"UPDATE escrow_deposit SET tenant='evil'", "UPDATE escrow_deposit SET parcel='p2'"} {
		r := open(t, nil)
		l, _ := r.deposit("p1", factor("code", canaryCode))
		_, err := r.db.ExecContext(t.Context(), q)
		require.NoError(t, err)
		d, err := r.e.Find(t.Context(), l)
		require.NoError(t, err)
		require.False(t, d.Live())
	}
}

func TestUnknownAnswersLikeKnown(t *testing.T) {
	r := open(t, nil)
	d, err := r.e.Find(t.Context(), escrow.Locator(strings.Repeat("0", 32)))
	require.NoError(t, err)
	require.False(t, d.Live())
	require.False(t, d.TakesMailCode())
	require.Empty(t, d.Question())
	ok, err := d.Check(t.Context(), "code", securemail.NewSecret(canaryCode))
	require.NoError(t, err)
	require.False(t, ok)
	_, err = d.Open(asReader(t.Context(), d))
	require.ErrorIs(t, err, securemail.ErrDenied)
	require.ErrorIs(t, d.Opened(asReader(t.Context(), d)), securemail.ErrDenied)
}

func TestFindSaysWhenTheRingIsAway(t *testing.T) {
	r := open(t, nil)
	l, _ := r.deposit("p1", factor("code", canaryCode))
	require.NoError(t, r.ring.Close())
	_, err := r.e.Find(t.Context(), l)
	require.Error(t, err)
	require.NotContains(t, err.Error(), string(l))
}

func TestOpenIsForTheRecipient(t *testing.T) {
	asked := 0
	r := open(t, func(o *escrow.Options) {
		o.Authorizer = securemail.AuthorizerFunc(func(_ context.Context, a securemail.Actor, act securemail.Action, res securemail.Resource) error {
			asked++
			require.Equal(t, securemail.Action("read.deposit"), act)
			require.Equal(t, "deposit", res.Kind)
			if a.ID == "auditor" {
				return nil
			}
			return securemail.ErrDenied
		})
	})
	_, d := r.deposit("p1", factor("code", canaryCode))
	require.Equal(t, "clinic", d.Tenant())
	require.Equal(t, "desk@clinic.example", d.Sender().Reveal())
	require.Equal(t, canaryLocal+"@mail.example.com", d.Recipient().Reveal())

	body, err := d.Open(asReader(t.Context(), d))
	require.NoError(t, err)
	b, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, whole(t, job(t, "p1").Message), string(b))
	require.Zero(t, asked)

	for _, a := range []securemail.Actor{
		{}, {Tenant: "clinic", ID: "other", Kind: "recipient"}, {Tenant: "other", ID: "auditor", Kind: "person"},
		{Tenant: "other", ID: d.ID(), Kind: "recipient"}, {Tenant: "clinic", ID: "nurse", Kind: "person", Roles: []string{"admin"}},
	} {
		_, err := d.Open(securemail.WithActor(t.Context(), a))
		require.ErrorIs(t, err, securemail.ErrDenied)
		require.ErrorIs(t, d.Opened(securemail.WithActor(t.Context(), a)), securemail.ErrDenied)
	}
	_, err = d.Open(t.Context())
	require.ErrorIs(t, err, securemail.ErrDenied)
	_, err = d.Open(securemail.WithActor(t.Context(), securemail.Actor{Tenant: "clinic", ID: "auditor", Kind: "person"}))
	require.NoError(t, err)
}

func TestLargeMessageStreams(t *testing.T) {
	r := open(t, nil)
	j := job(t, "p1", factor("code", canaryCode))
	raw := whole(t, j.Message) + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 20_000)
	m, err := securemail.NewMessage(securemail.Bytes([]byte(raw)))
	require.NoError(t, err)
	j.Parcel = j.With(m)
	s, err := r.e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	d, err := r.e.Find(t.Context(), locator(t, s.Message))
	require.NoError(t, err)
	body, err := d.Open(asReader(t.Context(), d))
	require.NoError(t, err)
	b, err := io.ReadAll(body)
	require.NoError(t, err)
	require.True(t, bytes.Equal([]byte(raw), b))

	// A cut, changed or swapped body is an error, not a shorter message.
	for _, q := range []string{
		"DELETE FROM escrow_body WHERE n=(SELECT MAX(n) FROM escrow_body)",
		"UPDATE escrow_body SET part=zeroblob(length(part)) WHERE n=1",
		"DELETE FROM escrow_body",
	} {
		_, err := r.db.ExecContext(t.Context(), q)
		require.NoError(t, err)
		body, err := d.Open(asReader(t.Context(), d))
		if err == nil {
			_, err = io.Copy(io.Discard, body)
		}
		require.Error(t, err, q)
	}
}

func TestBccIsNotDeposited(t *testing.T) {
	r := open(t, nil)
	j := job(t, "p1", factor("code", canaryCode))
	m, err := j.Message.WithHead([]byte("bcc : a@b.example,\r\n\tc@d.example\r\nMessage-ID: <m@clinic.example>\r\nResent-Bcc: e@f.example\r\n" +
		"Subject: x\r\n y\r\n\r\n"))
	require.NoError(t, err)
	j.Parcel = j.With(m)
	s, err := r.e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	back, err := fetch(t.Context(), r.e, s.Message)
	require.NoError(t, err)
	require.Equal(t, "Message-ID: <m@clinic.example>\r\nSubject: x\r\n y\r\n\r\n"+canaryBody+"\r\n", whole(t, back))
}

func TestOpenedTellsOnce(t *testing.T) {
	r := open(t, nil)
	l, d := r.deposit("p1", factor("code", canaryCode))
	r.now = r.now.Add(time.Hour)
	require.NoError(t, d.Opened(asReader(t.Context(), d)))
	r.now = r.now.Add(time.Hour)
	require.NoError(t, d.Opened(asReader(t.Context(), d)))
	r.reopen(nil)
	d, err := r.e.Find(t.Context(), l)
	require.NoError(t, err)
	require.NoError(t, d.Opened(asReader(t.Context(), d)))
	require.Equal(t, []string{"deposited", "read"}, r.outbox.kinds())
	ev := r.outbox.events[1]
	require.Equal(t, time.Date(2026, 11, 24, 13, 0, 0, 0, time.UTC), ev.Read)
	require.Equal(t, "recipient", ev.By.Kind)
	require.Equal(t, d.ID(), ev.By.ID)
	require.Equal(t, securemail.ParcelID("p1"), ev.Status.ID)
	require.Equal(t, "sub-p1", ev.Submission)
}

func TestAnEventThatIsNotTakenUndoesTheChange(t *testing.T) {
	r := open(t, nil)
	r.outbox.err = errors.New("outbox full")
	_, err := r.e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
	require.ErrorContains(t, err, "outbox full")
	r.outbox.err = nil
	_, d := r.deposit("p1", factor("code", canaryCode))
	r.outbox.err = errors.New("outbox full")
	require.Error(t, d.Opened(asReader(t.Context(), d)))
	r.outbox.err = nil
	require.NoError(t, d.Opened(asReader(t.Context(), d)))
	require.Equal(t, []string{"deposited", "read"}, r.outbox.kinds())
}

func TestRevoke(t *testing.T) {
	r := open(t, nil)
	l, d := r.deposit("p1", factor("code", canaryCode))
	admin := securemail.Actor{Tenant: "clinic", ID: "boss", Kind: "operator", Roles: []string{"admin"}}
	for _, a := range []securemail.Actor{{}, {Tenant: "clinic", ID: "nurse"}, {Tenant: "other", ID: "boss", Roles: []string{"admin"}}, d.Reader(securemail.Auth{})} {
		require.ErrorIs(t, r.e.Revoke(securemail.WithActor(t.Context(), a), "p1"), securemail.ErrDenied)
	}
	ctx := securemail.WithActor(t.Context(), admin)
	require.ErrorIs(t, r.e.Revoke(ctx, "unknown"), securemail.ErrDenied)
	require.NoError(t, r.e.Revoke(ctx, "p1"))
	require.NoError(t, r.e.Revoke(ctx, "p1"))

	d, err := r.e.Find(t.Context(), l)
	require.NoError(t, err)
	require.False(t, d.Live())
	_, err = r.e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
	require.ErrorIs(t, err, securemail.ErrHold)
	require.Equal(t, []string{"deposited", "deposit.revoked"}, r.outbox.kinds())
	require.Equal(t, admin, r.outbox.events[1].By)
	require.Equal(t, "sub-p1", r.outbox.events[1].Submission)
	var n int
	require.NoError(t, r.db.QueryRowContext(t.Context(), "SELECT (SELECT COUNT(*) FROM escrow_body) + length(wrapped) + length(head) FROM escrow_deposit").Scan(&n))
	require.Zero(t, n)
	require.NoError(t, r.e.Undo(t.Context(), "p1"))
}

func TestExpiry(t *testing.T) {
	r := open(t, func(o *escrow.Options) { o.Expiry = time.Hour })
	l, _ := r.deposit("p1", factor("code", canaryCode))
	j := job(t, "p2", factor("code", canaryCode))
	j.AccessUntil = r.now.Add(2 * time.Hour)
	s, err := r.e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	l2 := locator(t, s.Message)

	r.now = r.now.Add(time.Hour)
	d, err := r.e.Find(t.Context(), l)
	require.NoError(t, err)
	require.False(t, d.Live()) // the time counts, not the sweep
	_, err = r.e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
	require.ErrorIs(t, err, securemail.ErrHold)

	require.NoError(t, r.e.Sweep(t.Context()))
	require.NoError(t, r.e.Sweep(t.Context()))
	require.Equal(t, []string{"deposited", "deposited", "deposit.expired"}, r.outbox.kinds())
	require.Equal(t, "sub-p1", r.outbox.events[2].Submission)
	d, err = r.e.Find(t.Context(), l2)
	require.NoError(t, err)
	require.True(t, d.Live()) // AccessUntil wins
}

// Deposits that expire together cost the key ring few new ledgers, not one each.
func TestSweepSharesDestructions(t *testing.T) {
	counted := &countingRing{}
	r := open(t, func(o *escrow.Options) { o.Expiry = time.Hour })
	counted.KeyRing = r.ring
	e, err := escrow.New(t.Context(), r.db, counted, &escrow.Options{BaseURL: "https://mail.example.org", Now: func() time.Time { return r.now }})
	require.NoError(t, err)
	for i := range 30 {
		r.deposit(fmt.Sprint("p", i), factor("code", canaryCode))
	}
	r.now = r.now.Add(2 * time.Hour)
	require.NoError(t, e.Sweep(t.Context()))
	require.Greater(t, counted.most.Load(), int64(1))
	var n int
	require.NoError(t, r.db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM escrow_deposit WHERE length(wrapped)>0").Scan(&n))
	require.Zero(t, n)
}

// countingRing counts how many destructions are under way at once.
type countingRing struct {
	securemail.KeyRing
	now, most atomic.Int64
}

func (c *countingRing) Destroy(ctx context.Context, scope string) (securemail.Destruction, error) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for old := c.most.Load(); n > old && !c.most.CompareAndSwap(old, n); old = c.most.Load() {
	}
	return c.KeyRing.Destroy(ctx, scope)
}

func TestSweepGoesOnAfterFaults(t *testing.T) {
	r := open(t, func(o *escrow.Options) { o.Expiry = time.Hour })
	_, d := r.deposit("p1", factor("code", canaryCode))
	r.deposit("p2", factor("code", canaryCode))
	_, err := r.ring.Destroy(t.Context(), escrow.DepositScope(d.ID()))
	require.NoError(t, err)
	r.now = r.now.Add(2 * time.Hour)

	ring := &brokenRing{KeyRing: r.ring, after: 4} // New needs four calls: pepper, decoy
	e, err := escrow.New(t.Context(), r.db, ring, &escrow.Options{BaseURL: "https://mail.example.org", Outbox: r.outbox, Now: func() time.Time { return r.now }})
	require.NoError(t, err)
	ring.after = ring.calls
	require.ErrorIs(t, e.Sweep(t.Context()), errRing)
	ring.after = 1000
	require.NoError(t, e.Sweep(t.Context())) // the rows were closed; keys and bytes go now
	require.Equal(t, []string{"deposited", "deposited", "deposit.expired", "deposit.expired"}, r.outbox.kinds())
	var n int
	require.NoError(t, r.db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM escrow_body").Scan(&n))
	require.Zero(t, n)
}

func TestFaultsOfRingAndDatabase(t *testing.T) {
	r := open(t, nil)
	ring := &brokenRing{KeyRing: r.ring, after: 1000}
	e, err := escrow.New(t.Context(), r.db, ring, &escrow.Options{BaseURL: "https://mail.example.org", Now: func() time.Time { return r.now }})
	require.NoError(t, err)
	ring.after = ring.calls
	_, err = e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
	require.ErrorIs(t, err, errRing)
	ring.after = 1000
	_, err = e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
	require.NoError(t, err)
	ring.after = ring.calls
	require.ErrorIs(t, e.Undo(t.Context(), "p1"), errRing)
	_, err = e.Encrypt(t.Context(), job(t, "p1", factor("code", canaryCode)))
	require.ErrorIs(t, err, errRing)

	_, err = r.db.ExecContext(t.Context(), "DROP TABLE escrow_body")
	require.NoError(t, err)
	ring.after = 1000
	require.Error(t, e.Undo(t.Context(), "p1"))
	_, err = e.Encrypt(t.Context(), job(t, "p2", factor("code", canaryCode)))
	require.Error(t, err)
	_, err = r.db.ExecContext(t.Context(), "DROP TABLE escrow_deposit")
	require.NoError(t, err)
	require.Error(t, e.Undo(t.Context(), "p1"))
	require.Error(t, e.Revoke(t.Context(), "p1"))
	require.Error(t, e.Sweep(t.Context()))
	_, err = e.Find(t.Context(), escrow.Locator(strings.Repeat("0", 32)))
	require.Error(t, err)
	_, err = e.Encrypt(t.Context(), job(t, "p2", factor("code", canaryCode)))
	require.Error(t, err)
}

// Two workers that both found no deposit: one is kept, the other's key is destroyed.
func TestTheLoserOfARaceLeavesNothing(t *testing.T) {
	r := open(t, nil)
	j := job(t, "p1", factor("code", canaryCode))
	slow := &meanwhile{KeyRing: r.ring}
	e, err := escrow.New(t.Context(), r.db, slow, &escrow.Options{BaseURL: "https://mail.example.org", Now: func() time.Time { return r.now }})
	require.NoError(t, err)
	var first *securemail.Sealed
	slow.do = func() { first, err = r.e.Encrypt(t.Context(), j) }
	second, err2 := e.Encrypt(t.Context(), j)
	require.NoError(t, err)
	require.NoError(t, err2)
	require.Equal(t, first.Protection, second.Protection)
	require.Equal(t, 1, slow.destroyed)
	require.Equal(t, []string{"deposited"}, r.outbox.kinds())
}

// meanwhile does something else before it wraps a key.
type meanwhile struct {
	securemail.KeyRing
	do        func()
	destroyed int
}

func (m *meanwhile) Wrap(ctx context.Context, key []byte, scopes ...string) ([]byte, error) {
	if do := m.do; do != nil {
		m.do = nil
		do()
	}
	return m.KeyRing.Wrap(ctx, key, scopes...)
}

func (m *meanwhile) Destroy(ctx context.Context, scope string) (securemail.Destruction, error) {
	m.destroyed++
	return m.KeyRing.Destroy(ctx, scope)
}

func TestMailRoute(t *testing.T) {
	r := open(t, nil)
	r.route = known(goodWire)
	_, d := r.deposit("p1")
	require.True(t, d.TakesMailCode())
	require.NoError(t, d.MailRoute(t.Context()))
	r.route = known(securemail.Wire{})
	require.ErrorIs(t, d.MailRoute(t.Context()), securemail.ErrHold)
	r.route = securemail.Route{}
	err := d.MailRoute(t.Context())
	require.Error(t, err)
	require.NotErrorIs(t, err, securemail.ErrHold)
}

func TestHashAndMatch(t *testing.T) {
	r := open(t, nil)
	h, err := r.e.Hash(t.Context(), securemail.NewSecret("12345678"))
	require.NoError(t, err)
	h2, err := r.e.Hash(t.Context(), securemail.NewSecret("12345678"))
	require.NoError(t, err)
	require.NotEqual(t, h, h2)
	ok, err := r.e.Match(t.Context(), h, securemail.NewSecret("12345678"))
	require.NoError(t, err)
	require.True(t, ok)
	ok, err = r.e.Match(t.Context(), h, securemail.NewSecret("12345679"))
	require.NoError(t, err)
	require.False(t, ok)
	_, err = r.e.Match(t.Context(), h[1:], securemail.NewSecret("12345678"))
	require.Error(t, err)
	require.Equal(t, r.e.Pseudonym("a", "b"), r.e.Pseudonym("a", "b"))
	require.NotEqual(t, r.e.Pseudonym("ab", ""), r.e.Pseudonym("a", "b"))
	before := r.e.Pseudonym("a")
	r.reopen(nil)
	require.Equal(t, before, r.e.Pseudonym("a"))
	require.Same(t, r.db, r.e.DB())
}

// The cost of guessing is bounded: two computations at once, a short line behind them, and no more.
func TestHashIsBounded(t *testing.T) {
	r := open(t, nil)
	e, err := escrow.New(t.Context(), r.db, r.ring, &escrow.Options{BaseURL: "https://mail.example.org"}) // not cheap
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	busy, done := 0, 0
	ctx, cancel := context.WithCancel(t.Context())
	for range 200 {
		wg.Go(func() {
			_, err := e.Hash(ctx, securemail.NewSecret("x"))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, escrow.ErrBusy):
				busy++
			case err == nil:
				done++
			}
			if busy > 0 {
				cancel()
			}
		})
	}
	wg.Wait()
	cancel()
	require.Positive(t, busy)
	require.LessOrEqual(t, done, 140)
}

func TestRunSweepsAndEnds(t *testing.T) {
	r := open(t, func(o *escrow.Options) { o.Expiry = time.Hour })
	r.deposit("p1", factor("code", canaryCode))
	r.now = r.now.Add(2 * time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.e.Run(ctx) }()
	require.Eventually(t, func() bool { return len(r.outbox.kinds()) == 2 }, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)

	_, err := r.db.ExecContext(t.Context(), "DROP TABLE escrow_deposit")
	require.NoError(t, err)
	ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	require.NoError(t, r.e.Run(ctx)) // a failing sweep is logged
	require.Contains(t, r.log.String(), "escrow: sweep")
}

var link = regexp.MustCompile(`https://mail\.example\.org/m/([0-9a-v]{32})\b`)

// fetch does what a recipient does with the notice: follow its link and give the access code.
func fetch(ctx context.Context, e *escrow.Escrow, notice *securemail.Message) (*securemail.Message, error) {
	src, err := notice.Open()
	if err != nil {
		return nil, err
	}
	defer src.Close()
	b, err := io.ReadAll(src)
	if err != nil {
		return nil, err
	}
	found := link.FindStringSubmatch(strings.ReplaceAll(string(b), "=\r\n", ""))
	if found == nil {
		return nil, errors.New("no link")
	}
	l, err := escrow.ParseLocator(found[1])
	if err != nil {
		return nil, err
	}
	d, err := e.Find(ctx, l)
	if err != nil {
		return nil, err
	}
	if ok, err := d.Check(ctx, "code", securemail.NewSecret(canaryCode)); err != nil || !ok {
		return nil, errors.Join(err, errors.New("refused"))
	}
	body, err := d.Open(asReader(ctx, d))
	if err != nil {
		return nil, err
	}
	if b, err = io.ReadAll(body); err != nil {
		return nil, err
	}
	return securemail.NewMessage(securemail.Bytes(b))
}
