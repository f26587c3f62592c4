package transport_test

import (
	"context"
	"database/sql"
	"errors"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/tlsrpt"
)

// eachTLSRPT runs fn on each kind of Store. Open gives another handle on the same accounts, as a second process has.
func eachTLSRPT(t *testing.T, fn func(t *testing.T, open func() tlsrpt.Store)) {
	t.Run("memory", func(t *testing.T) {
		m := &tlsrpt.Memory{}
		fn(t, func() tlsrpt.Store { return m })
	})
	kinds := tlsrptServers()
	kinds["sqlite"] = func(t testing.TB) func() *sql.DB {
		path := filepath.Join(t.TempDir(), "x.db")
		return func() *sql.DB { return sqldbtest.SQLite(t, path, sqldbtest.Safe) }
	}
	for name, open := range kinds {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			fn(t, func() tlsrpt.Store {
				s, err := transport.TLSRPTStore(t.Context(), db())
				require.NoError(t, err)
				return s
			})
		})
	}
}

func TestTLSRPTStoreKeepsAccounts(t *testing.T) {
	eachTLSRPT(t, func(t *testing.T, open func() tlsrpt.Store) {
		s, k := open(), tlsrpt.Key{Day: "2026-11-25", Domain: "example.org"}
		want := tlsrpt.Account{
			Key: k, ReportID: "id", Attempts: 2,
			Next: time.Unix(2, 0).UTC(), First: time.Unix(1, 500).UTC(),
			Deliveries: []tlsrpt.Delivery{{To: "https://example.org/x", Done: true}},
			Policies: []tlsrpt.Counts{{
				Type: tlsrpt.STS, Domain: "example.org", Strings: []string{"a"}, MXHosts: []string{"b"}, Success: 1, Failures: 2,
				Details: []tlsrpt.Detail{{What: tlsrpt.Failure{
					Type: tlsrpt.TLSAInvalid, SendingIP: netip.MustParseAddr("192.0.2.1"), ReceivingMX: "mx", Reason: "r",
				}, Sessions: 2}},
			}},
		}
		require.NoError(t, s.Update(t.Context(), []tlsrpt.Key{k}, func(a *tlsrpt.Account) error {
			require.Equal(t, tlsrpt.Account{Key: k}, *a)
			*a = want
			return nil
		}))
		require.NoError(t, open().Update(t.Context(), []tlsrpt.Key{k}, func(a *tlsrpt.Account) error {
			require.Equal(t, want, *a)
			return nil
		}))
	})
}

func TestTLSRPTStoreAllOrNone(t *testing.T) {
	boom := errors.New("boom")
	eachTLSRPT(t, func(t *testing.T, open func() tlsrpt.Store) {
		s := open()
		keys := []tlsrpt.Key{{Day: "2026-11-25", Domain: "b.example"}, {Day: "2026-11-25", Domain: "a.example"}}
		n := 0
		err := s.Update(t.Context(), keys, func(a *tlsrpt.Account) error {
			a.Next = time.Unix(1, 0)
			if n++; n == 2 {
				return boom
			}
			return nil
		})
		require.ErrorIs(t, err, boom)
		due, err := s.Due(t.Context(), time.Unix(2, 0), 10)
		require.NoError(t, err)
		require.Empty(t, due)
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, s.Update(canceled, keys, func(*tlsrpt.Account) error { return nil }), context.Canceled)
	})
}

func TestTLSRPTStoreDueAndRemove(t *testing.T) {
	eachTLSRPT(t, func(t *testing.T, open func() tlsrpt.Store) {
		s := open()
		next := map[tlsrpt.Key]int64{
			{Day: "2026-11-23", Domain: "late.example"}:  30,
			{Day: "2026-11-24", Domain: "early.example"}: 10,
			{Day: "2026-11-25", Domain: "mid.example"}:   20,
			{Day: "2026-11-25", Domain: "done.example"}:  0,
		}
		for k, at := range next {
			require.NoError(t, s.Update(t.Context(), []tlsrpt.Key{k}, func(a *tlsrpt.Account) error {
				if at > 0 {
					a.Next = time.Unix(at, 0)
				}
				return nil
			}))
		}
		due := func(at int64, max int) (domains []string) {
			keys, err := s.Due(t.Context(), time.Unix(at, 0), max)
			require.NoError(t, err)
			for _, k := range keys {
				domains = append(domains, k.Domain)
			}
			return domains
		}
		require.Empty(t, due(9, 10))
		require.Equal(t, []string{"early.example", "mid.example"}, due(20, 10))
		require.Equal(t, []string{"early.example"}, due(30, 1))
		n, err := s.Remove(t.Context(), "2026-11-25")
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.Equal(t, []string{"mid.example"}, due(30, 10))
	})
}

// TestTLSRPTStoreManyProcesses: no count is lost where two processes write the same accounts at once.
func TestTLSRPTStoreManyProcesses(t *testing.T) {
	eachTLSRPT(t, func(t *testing.T, open func() tlsrpt.Store) {
		a, b := tlsrpt.Key{Day: "2026-11-25", Domain: "a.example"}, tlsrpt.Key{Day: "2026-11-25", Domain: "b.example"}
		var wg sync.WaitGroup
		for _, keys := range [][]tlsrpt.Key{{a, b}, {b, a}} {
			s := open()
			wg.Go(func() {
				for range 20 {
					err := s.Update(t.Context(), keys, func(a *tlsrpt.Account) error {
						a.Attempts++
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, open().Update(t.Context(), []tlsrpt.Key{a, b}, func(a *tlsrpt.Account) error {
			require.Equal(t, 40, a.Attempts)
			return nil
		}))
	})
}

func TestTLSRPTStoreFaults(t *testing.T) {
	_, err := transport.TLSRPTStore(t.Context(), nil)
	require.Error(t, err)

	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "x.db"), sqldbtest.Safe)
	s, err := transport.TLSRPTStore(t.Context(), db)
	require.NoError(t, err)
	_, err = db.Exec("INSERT INTO transport_tlsrpt (day, domain, next, account) VALUES ('2026-11-25', 'x', 0, '{')")
	require.NoError(t, err)
	keep := func(*tlsrpt.Account) error { return nil }
	require.ErrorContains(t, s.Update(t.Context(), []tlsrpt.Key{{Day: "2026-11-25", Domain: "x"}}, keep), "damaged")

	_, err = db.Exec("DROP TABLE transport_tlsrpt")
	require.NoError(t, err)
	require.Error(t, s.Update(t.Context(), []tlsrpt.Key{{Day: "2026-11-25", Domain: "x"}}, keep))
	_, err = s.Due(t.Context(), time.Unix(1, 0), 1)
	require.Error(t, err)
	_, err = s.Remove(t.Context(), "2026-11-25")
	require.Error(t, err)
	require.NoError(t, db.Close())
	_, err = transport.TLSRPTStore(t.Context(), db)
	require.Error(t, err)
}
