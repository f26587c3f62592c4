package transport_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport"
)

// eachDatabase runs test with a function that opens one and the same database again and again, as several processes do.
func eachDatabase(t *testing.T, test func(t *testing.T, open func() *sql.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "db")
		test(t, func() *sql.DB { return sqldbtest.SQLite(t, path, sqldbtest.Safe) })
	})
	for name, make := range servers() {
		t.Run(name, func(t *testing.T) { test(t, make(t)) })
	}
}

func stsStore(t testing.TB, db *sql.DB) *transport.STSDatabase {
	t.Helper()
	s, err := transport.STSStore(t.Context(), db, &transport.STSOptions{Now: func() time.Time { return stsNow }})
	require.NoError(t, err)
	return s
}

var stsNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func entry(domain, id string, fetched time.Time) mtasts.Entry {
	return mtasts.Entry{
		Domain: domain, ID: id, Mode: mtasts.Enforce, Text: []byte("version: STSv1\nmode: enforce\nmx: " + id + "." + domain + "\nmax_age: 86400\n"),
		Fetched: fetched, Expires: fetched.Add(24 * time.Hour), Used: fetched,
	}
}

func TestSTSStoreKeeps(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		db := open()
		s := stsStore(t, db)
		_, err := s.Load(t.Context(), "clinic.test")
		require.ErrorIs(t, err, mtasts.ErrNoEntry)

		first := entry("clinic.test", "1", stsNow.Add(-time.Hour))
		require.NoError(t, s.Save(t.Context(), first))
		got, err := s.Load(t.Context(), "clinic.test")
		require.NoError(t, err)
		require.Equal(t, first, got)

		second := entry("clinic.test", "2", stsNow)
		second.Mode, second.Text = mtasts.None, []byte("version: STSv1\nmode: none\nmax_age: 60\n")
		require.NoError(t, s.Save(t.Context(), second))
		require.NoError(t, db.Close())

		got, err = stsStore(t, open()).Load(t.Context(), "clinic.test") // another process, later
		require.NoError(t, err)
		require.Equal(t, second, got)
	})
}

func TestSTSStoreNeverGoesBack(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		mine, theirs := stsStore(t, open()), stsStore(t, open())
		newer, older := entry("clinic.test", "2", stsNow), entry("clinic.test", "1", stsNow.Add(-time.Microsecond))
		require.NoError(t, mine.Save(t.Context(), newer))
		require.NoError(t, theirs.Save(t.Context(), older))
		got, err := theirs.Load(t.Context(), "clinic.test")
		require.NoError(t, err)
		require.Equal(t, newer, got)

		older.Used = stsNow.Add(time.Hour) // its use counts all the same
		require.NoError(t, theirs.Save(t.Context(), older))
		newer.Used = older.Used
		got, err = mine.Load(t.Context(), "clinic.test")
		require.NoError(t, err)
		require.Equal(t, newer, got)

		again := newer // the same policy, fetched again, and used before
		again.Used, again.Expires = stsNow.Add(-time.Hour), stsNow.Add(48*time.Hour)
		require.NoError(t, mine.Save(t.Context(), again))
		again.Used = newer.Used
		got, err = mine.Load(t.Context(), "clinic.test")
		require.NoError(t, err)
		require.Equal(t, again, got)
	})
}

func TestSTSStoreGetsOverAWrongClock(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		s := stsStore(t, open())
		for name, c := range map[string]struct {
			ahead    time.Duration
			replaced bool
		}{"a.test": {time.Hour, false}, "b.test": {time.Hour + time.Second, true}} {
			require.NoError(t, s.Save(t.Context(), entry(name, "future", stsNow.Add(c.ahead))))
			require.NoError(t, s.Save(t.Context(), entry(name, "now", stsNow)))
			got, err := s.Load(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, c.replaced, got.ID == "now", name)
		}
	})
}

func TestSTSStoreLists(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		s := stsStore(t, open())
		names := []string{"a-b.test", "a.test", "a0.test", "ab.test", "b.test", "xn--bcher-kva.test"} // octet by octet
		for i := range names {
			require.NoError(t, s.Save(t.Context(), entry(names[len(names)-1-i], "1", stsNow)))
		}
		var got []string
		for after := ""; ; {
			page, err := s.List(t.Context(), after, 4)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page), 4)
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				require.Equal(t, entry(e.Domain, "1", stsNow), e)
				got = append(got, e.Domain)
			}
			after = got[len(got)-1]
		}
		require.Equal(t, names, got)
	})
}

func TestSTSStoreSweeps(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		s := stsStore(t, open())
		require.NoError(t, s.Save(t.Context(), entry("old.test", "1", stsNow.Add(-48*time.Hour))))
		require.NoError(t, s.Save(t.Context(), entry("edge.test", "1", stsNow.Add(-24*time.Hour))))
		require.NoError(t, s.Save(t.Context(), entry("new.test", "1", stsNow)))
		n, err := s.Sweep(t.Context(), stsNow)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		left, err := s.List(t.Context(), "", 10)
		require.NoError(t, err)
		require.Len(t, left, 2)
	})
}

// TestSTSStoreIsShared: whoever saves last, the policy that was fetched last is there in the end.
func TestSTSStoreIsShared(t *testing.T) {
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		var wg sync.WaitGroup
		var errs sync.Map
		for p := range 2 {
			s := stsStore(t, open())
			for w := range 8 {
				wg.Go(func() {
					for i := range 10 {
						n := (p*8+w)*7919 + i*104729
						e := entry(fmt.Sprintf("%d.test", i), fmt.Sprint(n%1000), stsNow.Add(-time.Duration(n%1000)*time.Second))
						if err := s.Save(context.Background(), e); err != nil {
							errs.Store(err.Error(), true)
						}
					}
				})
			}
		}
		wg.Wait()
		errs.Range(func(err, _ any) bool { t.Error(err); return true })
		s := stsStore(t, open())
		for i := range 10 {
			newest := 1000
			for k := range 16 {
				newest = min(newest, (k*7919+i*104729)%1000)
			}
			got, err := s.Load(t.Context(), fmt.Sprintf("%d.test", i))
			require.NoError(t, err)
			require.Equal(t, entry(got.Domain, fmt.Sprint(newest), stsNow.Add(-time.Duration(newest)*time.Second)), got)
		}
	})
}

func TestSTSStoreSavesAllOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	var faults sqldbtest.Faults
	plain := sqldbtest.SQLite(t, path, sqldbtest.Safe)
	db := sqldbtest.Open(plain, "file:"+path+sqldbtest.Safe, &faults)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s := stsStore(t, db)
	old, now := entry("clinic.test", "1", stsNow.Add(-time.Hour)), entry("clinic.test", "2", stsNow)
	require.NoError(t, s.Save(t.Context(), old))
	for _, fault := range []error{sqldbtest.IOErr, sqldbtest.Full} {
		for n := 1; ; n++ {
			faults.At(n, fault)
			err := s.Save(t.Context(), now)
			if faults.Clear() < n {
				require.NoError(t, err)
				break
			}
			require.ErrorIs(t, err, fault)
			require.NotContains(t, err.Error(), "clinic")
			got, err := s.Load(t.Context(), "clinic.test")
			require.NoError(t, err)
			require.Equal(t, old, got, "statement %d", n)
		}
		_, err := plain.Exec("DELETE FROM transport_sts")
		require.NoError(t, err)
		require.NoError(t, s.Save(t.Context(), old))
	}
	faults.LoseCommit()
	require.ErrorIs(t, s.Save(t.Context(), now), sqldb.ErrUncertain)
	require.NoError(t, s.Save(t.Context(), now)) // to save again is no harm
}

func TestSTSStoreReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	e := entry("clinic.test", "1", stsNow)
	require.NoError(t, stsStore(t, sqldbtest.SQLite(t, path, sqldbtest.Safe)).Save(t.Context(), e))

	db := sqldbtest.SQLite(t, path, sqldbtest.Safe)
	db.SetMaxOpenConns(1)
	s := stsStore(t, db)
	_, err := db.Exec("PRAGMA query_only=1") // it becomes so under our feet
	require.NoError(t, err)
	later := entry("clinic.test", "2", stsNow.Add(time.Second))
	require.True(t, sqldb.IsReadOnly(s.Save(t.Context(), later)))
	_, err = s.Sweep(t.Context(), stsNow)
	require.True(t, sqldb.IsReadOnly(err))
	got, err := s.Load(t.Context(), "clinic.test")
	require.NoError(t, err)
	require.Equal(t, e, got)

	_, err = transport.STSStore(t.Context(), sqldbtest.SQLite(t, path, sqldbtest.Safe+"&mode=ro"), nil)
	require.True(t, sqldb.IsReadOnly(err))
}

func TestSTSStoreFaults(t *testing.T) {
	_, err := transport.STSStore(t.Context(), nil, nil)
	require.ErrorContains(t, err, "no database")
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		db := open()
		s := stsStore(t, db)
		require.Error(t, s.Save(t.Context(), mtasts.Entry{}))
		require.Error(t, s.Save(t.Context(), mtasts.Entry{Domain: "a.test", Text: []byte(strings.Repeat("x", mtasts.MaxPolicy+1))}))
		require.NoError(t, s.Save(t.Context(), mtasts.Entry{Domain: "a.test"}))
		got, err := s.Load(t.Context(), "a.test")
		require.NoError(t, err)
		require.True(t, got.Fetched.IsZero() && got.Expires.IsZero() && got.Used.IsZero())

		_, err = db.Exec("UPDATE transport_sts SET policy=NULL")
		require.Error(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, err := range []error{
			s.Save(ctx, entry("a.test", "1", stsNow)),
			second(s.Load(ctx, "a.test")), second(s.List(ctx, "", 1)), second(s.Sweep(ctx, stsNow)),
		} {
			require.ErrorIs(t, err, context.Canceled)
			require.False(t, errors.Is(err, mtasts.ErrNoEntry), "not known is not none")
		}
		require.NoError(t, db.Close())
		_, err = transport.STSStore(t.Context(), db, nil)
		require.Error(t, err)
		_, err = s.Load(t.Context(), "a.test")
		require.NotErrorIs(t, err, mtasts.ErrNoEntry)
		require.Error(t, err)
	})
}

func second[T any](_ T, err error) error { return err }

// far is the DNS and the policy host of every domain.
type far struct{ down bool }

var errDown = errors.New("down")

func (f *far) LookupTXT(context.Context, string) ([]string, error) {
	if f.down {
		return nil, errDown
	}
	return []string{"v=STSv1; id=1;"}, nil
}

func (f *far) Fetch(context.Context, string) ([]byte, error) {
	if f.down {
		return nil, errDown
	}
	return []byte("version: STSv1\nmode: enforce\nmx: mx.clinic.test\nmax_age: 604800\n"), nil
}

// TestSTSStoreBindsAfterRestart: what was once fetched is enforced by the next process too, though nothing answers it, and a
// database that can't be written costs nothing but the memory of it.
func TestSTSStoreBindsAfterRestart(t *testing.T) {
	cache := func(s mtasts.Store, f *far) *mtasts.Cache {
		c, err := mtasts.New(s, &mtasts.Options{Resolver: f, Fetcher: f, Now: func() time.Time { return stsNow }})
		require.NoError(t, err)
		return c
	}
	enforced := func(c *mtasts.Cache) {
		state, err := c.Lookup(t.Context(), "clinic.test")
		require.NoError(t, err)
		require.NotNil(t, state.Policy)
		require.Equal(t, mtasts.Enforce, state.Policy.Mode)
	}
	eachDatabase(t, func(t *testing.T, open func() *sql.DB) {
		db := open()
		enforced(cache(stsStore(t, db), &far{}))
		require.NoError(t, db.Close())
		enforced(cache(stsStore(t, open()), &far{down: true}))

		db = open()
		s := stsStore(t, db)
		require.NoError(t, db.Close())
		_, err := cache(s, &far{down: true}).Lookup(t.Context(), "clinic.test")
		require.Error(t, err, "not known is not none")
	})

	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "db"), sqldbtest.Safe)
	db.SetMaxOpenConns(1)
	s, f := stsStore(t, db), &far{}
	_, err := db.Exec("PRAGMA query_only=1")
	require.NoError(t, err)
	c := cache(s, f)
	enforced(c)
	f.down = true
	enforced(c)
}
