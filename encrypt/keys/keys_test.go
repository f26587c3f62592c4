package keys_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/keys"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func address(t testing.TB, s string) securemail.Address {
	t.Helper()
	a, err := securemail.ParseAddress(s)
	require.NoError(t, err)
	return a
}

func lookup(t testing.TB, tenant, who string) securemail.Lookup {
	return securemail.Lookup{Tenant: tenant, Address: address(t, who), Method: securemail.MethodPGP}
}

// parse reads keys of the form "pgp:<fingerprint>".
func parse(b []byte) (securemail.Key, error) {
	method, fp, ok := strings.Cut(string(b), ":")
	switch {
	case !ok:
		return securemail.Key{}, errors.Join(errors.New("malformed"), securemail.ErrNoKey) // as pgp.KeyError does
	case method == "fips":
		return securemail.Key{}, encrypt.ErrUnavailable
	}
	return securemail.Key{Method: securemail.Method(method), Fingerprint: fp, Public: [][]byte{bytes.Clone(b)}}, nil
}

func parsers() map[securemail.Method]keys.Parser {
	return map[securemail.Method]keys.Parser{securemail.MethodPGP: parse}
}

// folder writes a folder of keys.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

func index(entries ...string) string { return "[" + strings.Join(entries, ",") + "]" }

const (
	anna  = `{"address":"anna@example.org","method":"pgp","file":"1"}`
	anna2 = `{"address":"Anna@Example.org","method":"pgp","file":"2","fingerprint":"BB"}`
	ben   = `{"address":"ben@example.org","method":"pgp","file":"1","tenant":"clinic"}`
	all   = `{"address":"all@example.org","method":"pgp","file":"1","tenant":"*"}`
	smime = `{"address":"carl@example.org","method":"smime","file":"none"}`
)

func TestFile(t *testing.T) {
	dir := folder(t, map[string]string{"keys.json": index(anna, anna2, ben, all, smime), "1": "pgp:aa", "2": "pgp:bb"})
	for _, path := range []string{dir, filepath.Join(dir, "keys.json")} {
		s, err := keys.File(path, parsers())
		require.NoError(t, err)
		found, err := s.Keys(t.Context(), lookup(t, "", "ANNA@example.org"))
		require.NoError(t, err)
		require.Equal(t, []securemail.Key{
			{Method: "pgp", Fingerprint: "aa", Origin: "file", Trust: securemail.TrustPinned, Public: [][]byte{[]byte("pgp:aa")}},
			{Method: "pgp", Fingerprint: "bb", Origin: "file", Trust: securemail.TrustPinned, Public: [][]byte{[]byte("pgp:bb")}},
		}, found)
		for _, l := range []securemail.Lookup{
			lookup(t, "clinic", "anna@example.org"), lookup(t, "", "ben@example.org"), lookup(t, "other", "ben@example.org"),
			lookup(t, "", "nobody@example.org"), lookup(t, "*", "ben@example.org"),
			{Address: address(t, "carl@example.org"), Method: securemail.MethodSMIME}, {},
		} {
			_, err := s.Keys(t.Context(), l)
			require.ErrorIs(t, err, securemail.ErrNoKey)
		}
		for _, l := range []securemail.Lookup{
			lookup(t, "clinic", "ben@example.org"), lookup(t, "", "all@example.org"), lookup(t, "x", "all@example.org"),
		} {
			found, err := s.Keys(t.Context(), l)
			require.NoError(t, err)
			require.Len(t, found, 1)
		}
	}
}

func TestFileRefusesAtOnce(t *testing.T) {
	good := map[string]string{"keys.json": index(anna), "1": "pgp:aa"}
	for name, edit := range map[string]func(map[string]string){
		"no index":          func(m map[string]string) { delete(m, "keys.json") },
		"no JSON":           func(m map[string]string) { m["keys.json"] = "anna@example.org" },
		"unknown word":      func(m map[string]string) { m["keys.json"] = index(`{"adress":"anna@example.org"}`) },
		"null":              func(m map[string]string) { m["keys.json"] = "null" },
		"null entry":        func(m map[string]string) { m["keys.json"] = "[null]" },
		"object":            func(m map[string]string) { m["keys.json"] = anna },
		"cut":               func(m map[string]string) { m["keys.json"] = "[" + anna },
		"cut in an entry":   func(m map[string]string) { m["keys.json"] = "[" + anna[:len(anna)-1] },
		"cut behind a word": func(m map[string]string) { m["keys.json"] = `[{"file"` },
		"no word":           func(m map[string]string) { m["keys.json"] = `[{1:2}]` },
		"word twice":        func(m map[string]string) { m["keys.json"] = index(strings.Replace(anna, "{", `{"file":"2",`, 1)) },
		"word in capitals":  func(m map[string]string) { m["keys.json"] = index(strings.Replace(anna, "{", `{"FILE":"2",`, 1)) },
		"not a text":        func(m map[string]string) { m["keys.json"] = strings.Replace(index(anna), `"1"`, `1`, 1) },
		"no UTF-8":          func(m map[string]string) { m["keys.json"] = strings.Replace(index(anna), "anna@", "\xff@", 1) },
		"deep":              func(m map[string]string) { m["keys.json"] = strings.Repeat("[", 1<<20) },
		"deep value":        func(m map[string]string) { m["keys.json"] = `[{"file":` + strings.Repeat(`{"a":`, 1<<20) },
		"two values":        func(m map[string]string) { m["keys.json"] += "[]" },
		"bad address":       func(m map[string]string) { m["keys.json"] = strings.Replace(index(anna), "@", "", 1) },
		"no method":         func(m map[string]string) { m["keys.json"] = strings.Replace(index(anna), `"pgp"`, `""`, 1) },
		"no file":           func(m map[string]string) { m["keys.json"] = strings.Replace(index(anna), `"1"`, `""`, 1) },
		"outside":           func(m map[string]string) { m["keys.json"] = strings.Replace(index(anna), `"1"`, `"../anna"`, 1) },
		"absolute":          func(m map[string]string) { m["keys.json"] = strings.Replace(index(anna), `"1"`, `"/etc/passwd"`, 1) },
		"key gone":          func(m map[string]string) { delete(m, "1") },
		"key malformed":     func(m map[string]string) { m["1"] = "anna" },
		"key of other kind": func(m map[string]string) { m["1"] = "smime:aa" },
		"other key":         func(m map[string]string) { m["keys.json"], m["2"] = index(anna2), "pgp:cc" },
		"key too large":     func(m map[string]string) { m["1"] = "pgp:" + strings.Repeat("a", 2<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(good)
			edit(files)
			s, err := keys.File(folder(t, files), parsers())
			require.Error(t, err)
			require.Nil(t, s)
			require.NotErrorIs(t, err, securemail.ErrNoKey)
			require.NotContains(t, err.Error(), "anna")
			require.NotContains(t, err.Error(), os.TempDir())
		})
	}
	_, err := keys.File(filepath.Join(t.TempDir(), "anna"), parsers())
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NotContains(t, err.Error(), "anna")
	_, err = keys.File(folder(t, good), map[securemail.Method]keys.Parser{"pgp": nil})
	require.Error(t, err)
}

// TestLettersThatLookAlike: U+212A, U+017F and U+0130 fold into ASCII, and are other people's all the same.
func TestLettersThatLookAlike(t *testing.T) {
	entry := func(who string) string { return strings.Replace(anna, "anna@example.org", who, 1) }
	f, err := keys.File(folder(t, map[string]string{
		"keys.json": index(entry("\u212aate@example.org"), entry("sam@example.org"), entry("\u00fc@m\u00fcller.example")), "1": "pgp:aa",
	}), parsers())
	require.NoError(t, err)
	s := store(t, database(t), newRing(), nil)
	for _, who := range []string{"\u212aate@example.org", "sam@example.org", "\u00fc@m\u00fcller.example"} {
		require.NoError(t, s.Pin(admin(t, ""), pinned(t, "", who, "aa")))
	}
	for name, source := range map[string]securemail.KeySource{"file": f, "sql": s} {
		t.Run(name, func(t *testing.T) {
			for _, other := range []string{"kate@example.org", "\u017fam@example.org"} {
				_, err := source.Keys(t.Context(), lookup(t, "", other))
				require.ErrorIs(t, err, securemail.ErrNoKey)
			}
			for _, who := range []string{"\u212aATE@example.org", "Sam@EXAMPLE.org", "\u00dc@xn--mller-kva.example"} {
				found, err := source.Keys(t.Context(), lookup(t, "", who))
				require.NoError(t, err)
				require.Len(t, found, 1)
			}
		})
	}
}

func TestFileNamesEveryFault(t *testing.T) {
	_, err := keys.File(folder(t, map[string]string{"keys.json": index(anna, ben, anna2), "2": "x"}), parsers())
	for _, n := range []string{"entry 1", "entry 2", "entry 3"} {
		require.ErrorContains(t, err, n)
	}
}

func TestAFolderThatBreaksLaterIsNotKnown(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"folder gone": func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(dir)) },
		"index gone":  func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "keys.json"))) },
		"index cut":   func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, "keys.json"), 9)) },
		"key gone":    func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "1"))) },
		"key cut":     func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, "1"), 0)) },
		"key is a folder": func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "1")))
			require.NoError(t, os.Mkdir(filepath.Join(dir, "1"), 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, map[string]string{"keys.json": index(anna), "1": "pgp:aa"})
			s, err := keys.File(dir, parsers())
			require.NoError(t, err)
			damage(t, dir)
			found, err := s.Keys(t.Context(), lookup(t, "", "anna@example.org"))
			require.Error(t, err)
			require.NotErrorIs(t, err, securemail.ErrNoKey)
			require.Empty(t, found)
			require.NotContains(t, err.Error(), dir)
		})
	}
}

func TestFileWithAMethodThatThisProcessCannotUse(t *testing.T) {
	s, err := keys.File(folder(t, map[string]string{"keys.json": index(anna), "1": "fips:"}), parsers())
	require.NoError(t, err)
	_, err = s.Keys(t.Context(), lookup(t, "", "anna@example.org"))
	require.ErrorIs(t, err, securemail.ErrNoKey)
}

func TestFileHonoursTheContext(t *testing.T) {
	s, err := keys.File(folder(t, map[string]string{"keys.json": "[]"}), parsers())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Keys(ctx, lookup(t, "", "anna@example.org"))
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, securemail.ErrNoKey)
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(index(anna, anna2, ben, all, smime)))
	f.Add([]byte("null"))
	dir := f.TempDir()
	require.NoError(f, os.WriteFile(filepath.Join(dir, "1"), []byte("pgp:aa"), 0o600))
	l := lookup(f, "", "anna@example.org")
	f.Fuzz(func(t *testing.T, b []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "keys.json"), b, 0o600))
		s, err := keys.File(dir, parsers())
		if err != nil {
			require.Nil(t, s)
			require.NotErrorIs(t, err, securemail.ErrNoKey)
			return
		}
		if found, err := s.Keys(t.Context(), l); err == nil {
			require.NotEmpty(t, found)
		}
	})
}

func TestChain(t *testing.T) {
	key := func(fp string) securemail.KeySource {
		return securemail.KeySourceFunc(func(_ context.Context, l securemail.Lookup) ([]securemail.Key, error) {
			return []securemail.Key{{Method: l.Method, Fingerprint: fp}}, nil
		})
	}
	fails := func(err error) securemail.KeySource {
		return securemail.KeySourceFunc(func(context.Context, securemail.Lookup) ([]securemail.Key, error) { return nil, err })
	}
	dead := errors.New("dead")
	none, pending, down, silent := fails(securemail.ErrNoKey), fails(securemail.ErrPending), fails(dead), fails(nil)
	wrong := securemail.KeySourceFunc(func(context.Context, securemail.Lookup) ([]securemail.Key, error) {
		return []securemail.Key{{Method: securemail.MethodSMIME}}, nil
	})
	for _, c := range []struct {
		name    string
		sources []securemail.KeySource
		fp      string
		err     error
		unknown bool
	}{
		{name: "first", sources: []securemail.KeySource{key("a"), down}, fp: "a"},
		{name: "second", sources: []securemail.KeySource{none, key("b")}, fp: "b"},
		{name: "nothing", sources: []securemail.KeySource{none, none}, err: securemail.ErrNoKey},
		{name: "no source", err: securemail.ErrNoKey},
		{name: "not known stops", sources: []securemail.KeySource{down, key("b")}, err: dead, unknown: true},
		{name: "not known behind none", sources: []securemail.KeySource{none, down}, err: dead, unknown: true},
		{name: "pending stops", sources: []securemail.KeySource{pending, key("b")}, err: securemail.ErrPending},
		{name: "pending wins over none", sources: []securemail.KeySource{fails(errors.Join(securemail.ErrNoKey, securemail.ErrPending)), none}, err: securemail.ErrPending},
		{name: "silence is not none", sources: []securemail.KeySource{silent, key("b")}, unknown: true},
		{name: "wrong method", sources: []securemail.KeySource{wrong, key("b")}, unknown: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := keys.Chain(c.sources...).Keys(t.Context(), lookup(t, "", "anna@example.org"))
			if c.fp != "" {
				require.NoError(t, err)
				require.Equal(t, c.fp, found[0].Fingerprint)
				return
			}
			require.Error(t, err)
			require.Empty(t, found)
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
			}
			if c.unknown || c.err == securemail.ErrPending {
				require.NotErrorIs(t, err, securemail.ErrNoKey)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := keys.Chain(none).Keys(ctx, lookup(t, "", "anna@example.org"))
	require.ErrorIs(t, err, context.Canceled)
	list := []securemail.KeySource{none}
	c := keys.Chain(list...)
	list[0] = key("x")
	_, err = c.Keys(t.Context(), lookup(t, "", "anna@example.org"))
	require.ErrorIs(t, err, securemail.ErrNoKey)
}

// TestChainOfEveryPair: each answer of a first source before each of a second. Only "surely none" goes on.
func TestChainOfEveryPair(t *testing.T) {
	dead := errors.New("dead")
	good := []securemail.Key{{Method: securemail.MethodPGP, Fingerprint: "aa"}}
	mixed := append(slices.Clone(good), securemail.Key{Method: securemail.MethodSMIME})
	type answer struct {
		keys  []securemail.Key
		err   error
		means string // what the chain makes of it
	}
	answers := map[string]answer{
		"found":                 {good, nil, "found"},
		"none":                  {nil, securemail.ErrNoKey, "none"},
		"none, wrapped":         {nil, fmt.Errorf("x: %w", securemail.ErrNoKey), "none"},
		"method not usable":     {nil, encrypt.ErrUnavailable, "none"},
		"none with keys":        {good, securemail.ErrNoKey, "none"},
		"pending":               {nil, securemail.ErrPending, "pending"},
		"pending and none":      {nil, errors.Join(securemail.ErrNoKey, securemail.ErrPending), "pending"},
		"pending with keys":     {good, securemail.ErrPending, "pending"},
		"dead":                  {nil, dead, "unknown"},
		"dead with keys":        {good, dead, "unknown"},
		"late":                  {nil, context.DeadlineExceeded, "unknown"},
		"silent":                {nil, nil, "unknown"},
		"silent, not nil":       {[]securemail.Key{}, nil, "unknown"},
		"one of another method": {mixed, nil, "unknown"},
	}
	source := func(a answer) securemail.KeySource {
		return securemail.KeySourceFunc(func(context.Context, securemail.Lookup) ([]securemail.Key, error) { return a.keys, a.err })
	}
	for n1, first := range answers {
		for n2, second := range answers {
			t.Run(n1+" then "+n2, func(t *testing.T) {
				want := first.means
				if want == "none" {
					want = second.means
				}
				found, err := keys.Chain(source(first), source(second)).Keys(t.Context(), lookup(t, "", "anna@example.org"))
				require.Equal(t, want == "found", err == nil)
				require.Equal(t, want == "found", len(found) > 0)
				require.Equal(t, want == "none", errors.Is(err, securemail.ErrNoKey))
				require.Equal(t, want == "pending", errors.Is(err, securemail.ErrPending))
			})
		}
	}
}

// ring is a KeyRing in memory.
type ring struct {
	mu     sync.Mutex
	keys   map[string][]byte
	scopes map[string]string
	dead   error
}

func newRing() *ring { return &ring{keys: map[string][]byte{}, scopes: map[string]string{}} }

func (r *ring) Wrap(_ context.Context, key []byte, scopes ...string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead != nil {
		return nil, r.dead
	}
	id := rand.Text()
	r.keys[id], r.scopes[id] = bytes.Clone(key), strings.Join(scopes, ",")
	return []byte(id), nil
}

func (r *ring) Unwrap(_ context.Context, w []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.keys[string(w)]; k != nil && r.dead == nil {
		return bytes.Clone(k), nil
	}
	return nil, errors.New("ring: gone")
}

func (r *ring) Destroy(_ context.Context, scope string) (securemail.Destruction, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.scopes {
		if s == scope {
			delete(r.keys, id)
		}
	}
	return securemail.Destruction{Scope: scope}, nil
}

func database(t testing.TB) *sql.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.db")
	return sqldbtest.SQLite(t, path, "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
}

func admin(t testing.TB, tenant string) context.Context {
	return securemail.WithActor(t.Context(), securemail.Actor{Tenant: tenant, ID: "u1", Kind: "person", Roles: []string{"admin"}})
}

func pinned(t testing.TB, tenant, who, fp string) keys.Pinned {
	return keys.Pinned{Tenant: tenant, Address: address(t, who), Key: securemail.Key{
		Method: securemail.MethodPGP, Fingerprint: fp, Public: [][]byte{[]byte("cert " + who + " " + fp)},
		NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Capabilities: []string{"c"}, Origin: "evil", Trust: 9,
	}}
}

func store(t testing.TB, db *sql.DB, r securemail.KeyRing, o *keys.Options) *keys.SQL {
	t.Helper()
	s, err := keys.NewSQL(t.Context(), db, r, o)
	require.NoError(t, err)
	return s
}

// everywhere runs f on each kind of database.
func everywhere(t *testing.T, f func(t *testing.T, db *sql.DB)) {
	t.Run("sqlite", func(t *testing.T) { f(t, database(t)) })
	for name, open := range servers() {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
}

func TestSQL(t *testing.T) { everywhere(t, testSQL) }

func testSQL(t *testing.T, db *sql.DB) {
	r := newRing()
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	s := store(t, db, r, &keys.Options{Now: func() time.Time { now = now.Add(time.Second); return now }})
	ctx := admin(t, "clinic")
	_, err := s.Keys(t.Context(), lookup(t, "clinic", "anna@example.org"))
	require.ErrorIs(t, err, securemail.ErrNoKey)
	list, err := s.List(ctx, "clinic")
	require.NoError(t, err)
	require.Empty(t, list)
	require.NoError(t, s.Remove(ctx, pinned(t, "clinic", "anna@example.org", "aa")))

	require.NoError(t, s.Pin(ctx, pinned(t, "clinic", "Anna@example.org", "AA")))
	require.NoError(t, s.Pin(ctx, pinned(t, "clinic", "anna@example.org", "bb")))
	require.NoError(t, s.Pin(ctx, pinned(t, "clinic", "anna@example.org", "bb")))
	require.NoError(t, s.Pin(ctx, pinned(t, "clinic", "ben@example.org", "cc")))
	again := store(t, db, r, nil)
	found, err := again.Keys(t.Context(), lookup(t, "clinic", "ANNA@example.org"))
	require.NoError(t, err)
	require.Len(t, found, 2)
	slices.SortFunc(found, func(a, b securemail.Key) int { return strings.Compare(a.Fingerprint, b.Fingerprint) })
	want := pinned(t, "clinic", "anna@example.org", "bb").Key
	want.Origin, want.Trust = "pinned", securemail.TrustPinned
	require.Equal(t, "aa", found[0].Fingerprint)
	require.Equal(t, want, found[1])

	for _, l := range []securemail.Lookup{
		lookup(t, "other", "anna@example.org"), lookup(t, "", "anna@example.org"), lookup(t, "clinic", "nobody@example.org"),
		{Tenant: "clinic", Address: address(t, "anna@example.org"), Method: securemail.MethodSMIME},
	} {
		_, err := s.Keys(t.Context(), l)
		require.ErrorIs(t, err, securemail.ErrNoKey)
	}
	list, err = s.List(ctx, "clinic")
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.True(t, list[0].At.Before(list[1].At))
	require.Equal(t, "u1", list[0].By)
	require.Equal(t, "Anna@example.org", list[0].Address.Reveal())

	require.NoError(t, s.Remove(ctx, pinned(t, "clinic", "anna@example.org", "AA")))
	found, err = s.Keys(t.Context(), lookup(t, "clinic", "anna@example.org"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, s.Remove(ctx, pinned(t, "clinic", "anna@example.org", "")))
	_, err = s.Keys(t.Context(), lookup(t, "clinic", "anna@example.org"))
	require.ErrorIs(t, err, securemail.ErrNoKey)
	require.Contains(t, slices.Collect(maps.Values(r.scopes)), "tenant/clinic")
}

func TestSQLShowsNothing(t *testing.T) {
	db := database(t)
	s := store(t, db, newRing(), nil)
	require.NoError(t, s.Pin(admin(t, "clinic"), pinned(t, "clinic", "zebra-canary@example.org", "abcdef0123456789")))
	_, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	require.NoError(t, err)
	var path, name string
	var seq int
	require.NoError(t, db.QueryRow("PRAGMA database_list").Scan(&seq, &name, &path))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, canary := range []string{"zebra", "example.org", "abcdef0123456789", "cert "} {
		require.NotContains(t, string(b), canary)
	}
}

func TestSQLRights(t *testing.T) {
	db, r := database(t), newRing()
	s := store(t, db, r, nil)
	p := pinned(t, "clinic", "anna@example.org", "aa")
	for name, ctx := range map[string]context.Context{
		"nobody":       t.Context(),
		"other tenant": admin(t, "other"),
		"no admin":     securemail.WithActor(t.Context(), securemail.Actor{Tenant: "clinic", ID: "u", Kind: "person"}),
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, s.Pin(ctx, p), securemail.ErrDenied)
			require.ErrorIs(t, s.Remove(ctx, p), securemail.ErrDenied)
			_, err := s.List(ctx, "clinic")
			require.ErrorIs(t, err, securemail.ErrDenied)
		})
	}
	type asked struct {
		act securemail.Action
		r   securemail.Resource
	}
	var got []asked
	s = store(t, db, r, &keys.Options{Authorizer: securemail.AuthorizerFunc(
		func(_ context.Context, _ securemail.Actor, act securemail.Action, r securemail.Resource) error {
			got = append(got, asked{act, r})
			return nil
		})})
	ctx := securemail.WithActor(t.Context(), securemail.Actor{ID: "op", Kind: "operator"})
	require.NoError(t, s.Pin(ctx, p))
	_, err := s.List(ctx, "clinic")
	require.NoError(t, err)
	require.Equal(t, []asked{
		{"write.key", securemail.Resource{Tenant: "clinic", Kind: "key", ID: "aa"}},
		{"write.key", securemail.Resource{Tenant: "clinic", Kind: "key"}},
	}, got)
}

func TestSQLRefusesWhatIsNoKey(t *testing.T) {
	s := store(t, database(t), newRing(), nil)
	for name, edit := range map[string]func(*keys.Pinned){
		"no address":  func(p *keys.Pinned) { p.Address = securemail.Address{} },
		"no method":   func(p *keys.Pinned) { p.Key.Method = "" },
		"fingerprint": func(p *keys.Pinned) { p.Key.Fingerprint = "anna" },
		"none":        func(p *keys.Pinned) { p.Key.Fingerprint = "" },
		"no key":      func(p *keys.Pinned) { p.Key.Public = nil },
		"too large":   func(p *keys.Pinned) { p.Key.Public = [][]byte{make([]byte, 2<<20)} },
		"secret":      func(p *keys.Pinned) { p.Key.Secret = securemail.NewSecret("x") },
	} {
		t.Run(name, func(t *testing.T) {
			p := pinned(t, "clinic", "anna@example.org", "aa")
			edit(&p)
			err := s.Pin(admin(t, "clinic"), p)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "anna")
		})
	}
	_, err := keys.NewSQL(t.Context(), nil, newRing(), nil)
	require.Error(t, err)
	_, err = keys.NewSQL(t.Context(), database(t), nil, nil)
	require.Error(t, err)
	db := database(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = keys.NewSQL(ctx, db, newRing(), nil)
	require.Error(t, err)
}

// TestSQLDamageIsNotKnown: whatever is wrong with the store, it never answers "none".
func TestSQLDamageIsNotKnown(t *testing.T) {
	exec := func(q string) func(*testing.T, *sql.DB, *ring) {
		return func(t *testing.T, db *sql.DB, _ *ring) {
			_, err := db.Exec(q)
			require.NoError(t, err)
		}
	}
	for name, damage := range map[string]func(*testing.T, *sql.DB, *ring){
		"row":          exec("UPDATE keys_pinned SET sealed=x'00'"),
		"moved":        exec("UPDATE keys_pinned SET sealed=(SELECT sealed FROM keys_pinned p WHERE p.id<>keys_pinned.id)"),
		"no table":     exec("DROP TABLE keys_pinned"),
		"no keys":      exec("DROP TABLE keys_tenant"),
		"wrong type":   exec("UPDATE keys_pinned SET id=x'00' || id"),
		"other lookup": exec("UPDATE keys_pinned SET lookup=(SELECT min(lookup) FROM keys_pinned)"),
		"ring dead":    func(_ *testing.T, _ *sql.DB, r *ring) { r.dead = errors.New("kms down") },
		"destroyed": func(t *testing.T, _ *sql.DB, r *ring) {
			_, err := r.Destroy(t.Context(), "tenant/clinic")
			require.NoError(t, err)
		},
		"short key": func(_ *testing.T, _ *sql.DB, r *ring) {
			for id := range r.keys {
				r.keys[id] = []byte("short")
			}
		},
		"closed": func(t *testing.T, db *sql.DB, _ *ring) { require.NoError(t, db.Close()) },
	} {
		t.Run(name, func(t *testing.T) {
			db, r := database(t), newRing()
			s := store(t, db, r, nil)
			ctx := admin(t, "clinic")
			require.NoError(t, s.Pin(ctx, pinned(t, "clinic", "anna@example.org", "aa")))
			require.NoError(t, s.Pin(ctx, pinned(t, "clinic", "ben@example.org", "bb")))
			damage(t, db, r)
			failed := 0
			for _, who := range []string{"anna@example.org", "ben@example.org"} {
				found, err := s.Keys(t.Context(), lookup(t, "clinic", who))
				if name == "other lookup" && errors.Is(err, securemail.ErrNoKey) {
					continue // its rows were all taken away: nothing can tell that from a removal
				}
				if name == "moved" && err == nil {
					continue // SQLite gives this row its own value back
				}
				require.Error(t, err)
				failed++
				require.NotErrorIs(t, err, securemail.ErrNoKey)
				require.Empty(t, found)
			}
			require.Positive(t, failed)
			if name != "other lookup" && name != "moved" && name != "wrong type" && name != "row" {
				require.Error(t, s.Pin(ctx, pinned(t, "clinic", "anna@example.org", "aa")))
				_, err := s.List(ctx, "clinic")
				require.Error(t, err)
			}
		})
	}
}

func TestSQLPinWithADeadRing(t *testing.T) {
	r := newRing()
	r.dead = errors.New("kms down")
	s := store(t, database(t), r, nil)
	require.ErrorIs(t, s.Pin(admin(t, "clinic"), pinned(t, "clinic", "anna@example.org", "aa")), r.dead)
}

func TestSQLIsConcurrent(t *testing.T) { everywhere(t, testConcurrent) }

func testConcurrent(t *testing.T, db *sql.DB) {
	s := store(t, db, newRing(), nil)
	ctx := admin(t, "clinic")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			fp := strings.Repeat(string("0123456789"[i]), 8)
			if err := s.Pin(ctx, pinned(t, "clinic", "anna@example.org", fp)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	found, err := s.Keys(t.Context(), lookup(t, "clinic", "anna@example.org"))
	require.NoError(t, err)
	require.Len(t, found, 8)
}

// outbox notes events; failing, it undoes the change.
type outbox struct {
	events []securemail.Event
	err    error
}

func (o *outbox) Add(_ context.Context, tx *sql.Tx, es ...securemail.Event) error {
	if tx == nil {
		return errors.New("no transaction")
	}
	o.events = append(o.events, es...)
	return o.err
}

func (*outbox) Next(context.Context, string, int) ([]securemail.Event, error) { return nil, nil }
func (*outbox) Ack(context.Context, string, string) error                     { return nil }

func TestSQLTellsTheOutbox(t *testing.T) { everywhere(t, testOutbox) }

func testOutbox(t *testing.T, db *sql.DB) {
	o := &outbox{}
	s := store(t, db, newRing(), &keys.Options{Outbox: o})
	ctx := admin(t, "clinic")
	p := pinned(t, "clinic", "anna@example.org", "aa")
	p.Key.Fingerprint = "AA" // it is recorded as securemail.Key has it
	require.NoError(t, s.Pin(ctx, p))
	require.NoError(t, s.Remove(ctx, p))
	require.NoError(t, s.Remove(ctx, p), "nothing to remove, nothing to tell")
	require.Len(t, o.events, 2)
	for i, kind := range []string{"key.pinned", "key.removed"} {
		e := o.events[i]
		require.Equal(t, kind, e.Kind)
		require.Equal(t, "clinic", e.By.Tenant)
		require.NotEmpty(t, e.ID)
		require.Equal(t, map[string]string{"method": "pgp", "fingerprint": "aa"}, e.Detail)
	}
	o.err = errors.New("outbox full")
	require.ErrorIs(t, s.Pin(ctx, p), o.err)
	_, err := s.Keys(t.Context(), lookup(t, "clinic", "anna@example.org"))
	require.ErrorIs(t, err, securemail.ErrNoKey, "undone with its event")
}
