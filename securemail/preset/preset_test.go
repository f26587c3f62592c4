package preset_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/smtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// far is a mail host for x.test, with or without TLS, and the transport options that lead there.
func far(t *testing.T, withTLS bool) (*smtppeer.Peer, *smtp.Options) {
	t.Helper()
	ca := smtppeer.NewCA()
	var c *tls.Config
	if withTLS {
		c = ca.Config("mx.test")
	}
	p, err := smtppeer.Start(smtppeer.Options{Hostname: "mx.test", TLS: c})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	dns, err := dnspeer.Start(dnspeer.Zone{"x.test": {"MX 10 mx.test."}, "mx.test": {"A 127.0.0.1"}})
	require.NoError(t, err)
	t.Cleanup(dns.Close)
	r, err := smtp.DNS(dns.Addr(), nil)
	require.NoError(t, err)
	return p, &smtp.Options{Resolver: r, RootCAs: ca.Pool(), Port: uint16(p.Port())}
}

func open(t *testing.T, path string, o *preset.Options) *preset.System {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := preset.Open(t.Context(), path, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func draft() *securemail.Draft {
	return &securemail.Draft{
		From: securemail.Mailbox("Clinic <clinic@example.org>"), To: securemail.To("anna@x.test"),
		Subject: "c4n4ry subject", Text: "c4n4ry text\n", Purpose: securemail.PurposeTreatment,
	}
}

func state(t *testing.T, s *preset.System) securemail.Status {
	t.Helper()
	var out []securemail.Status
	for st, err := range s.Find(t.Context(), securemail.Query{}) {
		require.NoError(t, err)
		out = append(out, st)
	}
	require.Len(t, out, 1)
	return out[0]
}

func TestSendSurvivesARestart(t *testing.T) {
	peer, so := far(t, true)
	path := filepath.Join(t.TempDir(), "mail 100%.db")
	s, err := preset.Open(t.Context(), path, &preset.Options{SMTP: so})
	require.NoError(t, err)
	sub, err := s.Send(t.Context(), draft())
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "a second Close")
	_, err = s.RunDue(t.Context())
	require.ErrorIs(t, err, preset.ErrClosed)
	require.ErrorIs(t, s.Run(t.Context()), preset.ErrClosed)

	s = open(t, path, &preset.Options{SMTP: so})
	n, err := s.RunDue(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Len(t, peer.Messages(), 1)
	st := state(t, s)
	require.Equal(t, securemail.StateDelivered, st.State)
	require.Equal(t, sub.Parcels[0].ID, st.ID)
	require.Equal(t, securemail.ProofPKIX, st.Receipt.Proof)
	requireNoCanary(t, filepath.Dir(path))
}

func requireNoCanary(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		require.NotContains(t, string(b), "c4n4ry", filepath.Base(p))
		require.NotContains(t, string(b), "anna@x.test", filepath.Base(p))
		return err
	}))
}

func TestWithoutEscrowMailIsHeldAndOneLineSaysSo(t *testing.T) {
	peer, so := far(t, false)
	var log bytes.Buffer
	s := open(t, filepath.Join(t.TempDir(), "mail.db"), &preset.Options{SMTP: so, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.Equal(t, 1, strings.Count(log.String(), "\n"))
	require.Contains(t, log.String(), "no escrow")
	es, err := s.Explain(t.Context(), draft())
	require.NoError(t, err)
	require.Nil(t, es[0].Use)
	require.Equal(t, securemail.OutcomeHold, es[0].Decision.Else)
	require.Contains(t, fmt.Sprint(es[0].Decision.Reasons), "escrow is not set up")
	_, err = s.Send(t.Context(), draft())
	require.NoError(t, err)
	_, err = s.RunDue(t.Context())
	require.NoError(t, err)
	require.Equal(t, securemail.StateHeld, state(t, s).State)
	require.Empty(t, peer.Attempts())
	require.NotContains(t, log.String(), "c4n4ry")
	require.NotContains(t, log.String(), "anna")
	rec := httptest.NewRecorder()
	s.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/m/x", nil))
	require.Equal(t, http.StatusNotFound, rec.Code)
}

func TestCloseEndsRun(t *testing.T) {
	_, so := far(t, true)
	s := open(t, filepath.Join(t.TempDir(), "mail.db"), &preset.Options{SMTP: so})
	ran := make(chan error, 1)
	go func() { ran <- s.Run(context.Background()) }()
	sub, err := s.Send(t.Context(), draft())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sts, err := s.Wait(ctx, sub)
	require.NoError(t, err)
	require.Equal(t, securemail.StateDelivered, sts[0].State)
	require.NoError(t, s.Close())
	require.NoError(t, <-ran)
}

func TestTheLedgerProvesWhatHappened(t *testing.T) {
	_, so := far(t, true)
	var ids []string
	s := open(t, filepath.Join(t.TempDir(), "mail.db"), &preset.Options{SMTP: so, Override: func(c *securemail.Config) {
		c.Sinks = map[string]securemail.Sink{"test": securemail.SinkFunc(func(_ context.Context, e securemail.Event) error {
			ids = append(ids, e.ID)
			return nil
		})}
	}})
	_, err := s.Send(t.Context(), draft())
	require.NoError(t, err)
	_, err = s.RunDue(t.Context())
	require.NoError(t, err)
	require.Len(t, ids, 4, "accepted, policy, attempting, delivered")
	for _, id := range ids {
		proof, err := s.Ledger.Prove(t.Context(), id)
		require.NoError(t, err)
		require.NotContains(t, string(proof), "c4n4ry")
		require.NotContains(t, string(proof), "anna")
		_, err = audit.Verify(proof, s.Ledger.Verifier())
		require.NoError(t, err)
		proof[len(proof)/2] ^= 1
		_, err = audit.Verify(proof, s.Ledger.Verifier())
		require.Error(t, err)
	}
	require.NoError(t, s.Ledger.Check(t.Context()))
}

func TestBadOptionsLeaveNothingOpen(t *testing.T) {
	dir := t.TempDir()
	exposed := filepath.Join(dir, "exposed.key")
	require.NoError(t, os.WriteFile(exposed, []byte("x"), 0o644))
	for name, c := range map[string]struct {
		path string
		o    *preset.Options
	}{
		"no path":      {"", nil},
		"no folder":    {filepath.Join(dir, "none", "mail.db"), nil},
		"clear url":    {filepath.Join(dir, "a.db"), &preset.Options{BaseURL: "http://mail.example.org"}},
		"no loopback":  {filepath.Join(dir, "b.db"), &preset.Options{BaseURL: "http://mail.example.org", InsecureLoopback: true}},
		"exposed key":  {filepath.Join(dir, "c.db"), &preset.Options{KeyFile: exposed}},
		"bad override": {filepath.Join(dir, "d.db"), &preset.Options{Override: func(c *securemail.Config) { c.Policy = nil }}},
		"bad relay":    {filepath.Join(dir, "e.db"), &preset.Options{Relay: &smtp.Relay{}}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := preset.Open(t.Context(), c.path, c.o)
			require.Error(t, err)
			require.Nil(t, s)
		})
	}
	// What failed can be opened at once with better options: no lock is left.
	open(t, filepath.Join(dir, "d.db"), &preset.Options{})
}

// gate reads the host's table through the transaction of SendTx, as with one connection it must.
type gate struct{ db *sql.DB }

func (g gate) Allow(ctx context.Context, p *securemail.Parcel) error {
	var n int
	var row *sql.Row
	if tx, ok := securemail.TxOf(ctx); ok {
		row = tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM stop")
	} else {
		row = g.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM stop")
	}
	if err := row.Scan(&n); err != nil || n == 0 {
		return err
	}
	return securemail.ErrRefused
}

func hostDB(t *testing.T) (*sql.DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "host.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(300)")
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	_, err = db.Exec("CREATE TABLE stop (x INTEGER); CREATE TABLE visits (id TEXT PRIMARY KEY)")
	require.NoError(t, err)
	return db, path
}

func openDB(t *testing.T, db *sql.DB, path string, so *smtp.Options) *preset.System {
	t.Helper()
	s, err := preset.OpenDB(t.Context(), db, path, &preset.Options{
		SMTP: so, Logger: slog.New(slog.DiscardHandler),
		Override: func(c *securemail.Config) { c.Gates = []securemail.Gate{gate{db}} },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestSendTxFollowsTheHostsTransactionOnOneConnection(t *testing.T) {
	peer, so := far(t, true)
	db, path := hostDB(t)
	s := openDB(t, db, path, so)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	send := func(id string, commit bool, more ...string) error {
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
		for _, q := range append(more, "INSERT INTO visits VALUES ('"+id+"')") {
			_, err = tx.ExecContext(ctx, q)
			require.NoError(t, err)
		}
		d := draft()
		d.Key = id
		if _, err := s.SendTx(ctx, tx, d); err != nil && !errors.Is(err, securemail.ErrRefused) {
			return err
		}
		if !commit {
			return nil
		}
		return tx.Commit()
	}
	require.NoError(t, send("rolled back", false))
	n, err := s.RunDue(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
	// The same key may be used again: the first use never happened.
	require.NoError(t, send("rolled back", true))
	_, err = s.RunDue(ctx)
	require.NoError(t, err)
	require.Len(t, peer.Messages(), 1)
	// A repeated key does not abort the host's transaction, and another content under it is an error that leaves it usable.
	tx, err := db.BeginTx(ctx, nil)
	require.NoError(t, err)
	d := draft()
	d.Key = "rolled back"
	sub, err := s.SendTx(ctx, tx, d)
	require.NoError(t, err)
	require.True(t, sub.Repeated)
	d.Text = "other"
	_, err = s.SendTx(ctx, tx, d)
	require.ErrorIs(t, err, securemail.ErrConflict)
	_, err = tx.ExecContext(ctx, "INSERT INTO visits VALUES ('after')")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	// What the same transaction wrote already counts for the Gate.
	require.NoError(t, send("stopped", true, "INSERT INTO stop VALUES (1)"))
	n, err = s.RunDue(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
	var visits int
	require.NoError(t, db.QueryRowContext(ctx, "SELECT COUNT(*) FROM visits").Scan(&visits))
	require.Equal(t, 3, visits)
}

func TestSQLiteBusyIsAnErrorAndThenWorks(t *testing.T) {
	_, so := far(t, true)
	db, path := hostDB(t)
	s := openDB(t, db, path, so)
	other, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate&_pragma=busy_timeout(300)")
	require.NoError(t, err)
	defer other.Close()
	lock, err := other.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = s.Send(ctx, draft())
	require.Error(t, err, "the database is locked by somebody else")
	require.NoError(t, lock.Rollback())
	_, err = s.Send(t.Context(), draft())
	require.NoError(t, err)
	n, err := s.RunDue(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

func TestReadMail(t *testing.T) {
	// A full circle through escrow is examples/quickstart; here: the notice names the portal and nothing else.
	peer, so := far(t, false)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	s := open(t, filepath.Join(t.TempDir(), "mail.db"), &preset.Options{
		SMTP: so, BaseURL: "http://" + l.Addr().String(), InsecureLoopback: true, Brand: "Example Clinic",
	})
	d := draft()
	d.To[0].Factors = []securemail.Factor{{Kind: "code", Value: securemail.NewSecret("tulip-4711")}}
	_, err = s.Send(t.Context(), d)
	require.NoError(t, err)
	_, err = s.RunDue(t.Context())
	require.NoError(t, err)
	require.Equal(t, securemail.MethodEscrow, state(t, s).Choice.Method)
	ms := peer.Messages()
	require.Len(t, ms, 1)
	require.NotContains(t, string(ms[0].Data), "c4n4ry")
	require.Contains(t, string(ms[0].Data), "/m/")
}

// dialTo leads each address to a loopback port.
func dialTo(addrs map[string]string) func(context.Context, string, string) (net.Conn, error) {
	var d net.Dialer
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		to, ok := addrs[addr]
		if !ok {
			return nil, errNoHost
		}
		return d.DialContext(ctx, network, to)
	}
}
