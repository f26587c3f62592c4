package backup_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/queue"
)

// migrated makes a package's tables in db.
func migrated(t *testing.T, db *sql.DB, pkg string, steps ...string) {
	t.Helper()
	d, err := sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, d.Migrate(t.Context(), pkg, steps))
}

// into restores made-up records.
func into(t *testing.T, db *sql.DB, text string, change func(*backup.Target)) error {
	t.Helper()
	target := &backup.Target{DB: db, LogDir: t.TempDir(), Ring: func(_ context.Context, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}}
	if change != nil {
		change(target)
	}
	_, err := backup.Restore(t.Context(), bytes.NewReader(sealed(t, text)), fixed, target)
	return err
}

func fresh(t *testing.T) *sql.DB { return lite(t, filepath.Join(t.TempDir(), "x.db")) }

const (
	oneTable = `{"dialect":"sqlite","packages":[{"package":"a","steps":["CREATE TABLE a_b (x {int}, y TEXT, z {bytes}, r REAL);"]}]}`
	columns  = `{"name":"a_b","columns":[{"name":"x","kind":"int"},{"name":"y","kind":"bytes"},{"name":"z","kind":"text"},{"name":"gone","kind":"int"}]}`
)

func ending(rows string) string {
	return rec('O', "kring") + rec('D', "x") + rec('C', "\x00") +
		rec('E', `{"id":"1","taken":"2026-01-02T00:00:00Z","dialect":"sqlite","rows":{`+rows+`},"blobs":0,"gone":0,"log_size":-1,"octets":0}`)
}

func TestRestoreAsTheTargetWantsIt(t *testing.T) {
	db := fresh(t)
	rows := ""
	for range 70 { // more than one insert takes
		rows += rec('R', "i\x02"+"b\x03abc"+"t\x03def"+"i\x04")
	}
	require.NoError(t, into(t, db, rec('M', oneTable)+rec('T', columns)+rows+rec('G', "bx")+ending(`"a_b":70`), nil))
	var n int
	require.NoError(t, db.QueryRow("SELECT count(*) FROM a_b WHERE x=1 AND typeof(y)='text' AND typeof(z)='blob' AND r IS NULL").Scan(&n))
	require.Equal(t, 70, n)
}

func TestRestoreRefuses(t *testing.T) {
	end := ending("")
	object := func(class, name string) string { return rec('O', class+name) + rec('D', "x") + rec('C', "\x00") }
	failing := errors.New("no")
	for name, c := range map[string]struct {
		text   string
		change func(*backup.Target)
		want   error
	}{
		"a table of no step":   {rec('M', oneTable) + rec('T', `{"name":"c","columns":[{"name":"x","kind":"int"}]}`) + end, nil, backup.ErrCorrupt},
		"a step that fails":    {rec('M', `{"dialect":"sqlite","packages":[{"package":"a","steps":["nonsense"]}]}`) + end, nil, nil},
		"a newer backup table": {rec('M', `{"dialect":"sqlite","packages":[{"package":"backup","steps":["CREATE TABLE b (x {int});","SELECT 1;"]}]}`) + end, nil, backup.ErrNewer},
		"blobs and no store":   {rec('M', oneTable) + object("b", "x") + end, nil, nil},
		"ring":                 {rec('M', oneTable) + end, func(t *backup.Target) { t.Ring = func(context.Context, io.Reader) error { return failing } }, failing},
		"file":                 {rec('M', oneTable) + object("f", "x") + end, func(t *backup.Target) { t.File = func(string, []byte) error { return failing } }, failing},
		"adopt": {rec('M', `{"dialect":"postgres","packages":[]}`) + rec('O', "kring") + rec('C', "\x00") +
			rec('E', `{"id":"1","taken":"2026-01-02T00:00:00Z","dialect":"postgres","rows":{},"blobs":0,"gone":0,"log_size":-1,"octets":0}`),
			func(t *backup.Target) {
				t.Adopt = func(context.Context, *sql.Tx, string, string) error { return failing }
			}, failing},
		"twice the same row": {rec('M', `{"dialect":"sqlite","packages":[{"package":"a","steps":["CREATE TABLE a_b (x {int} UNIQUE);"]}]}`) +
			rec('T', `{"name":"a_b","columns":[{"name":"x","kind":"int"}]}`) + rec('R', "i\x02") + rec('R', "i\x02") + ending(`"a_b":2`), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			db := fresh(t)
			err := into(t, db, c.text, c.change)
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			var n int
			require.NoError(t, db.QueryRow("SELECT count(*) FROM sqlite_master").Scan(&n))
			require.Zero(t, n)
		})
	}
	require.NoError(t, into(t, fresh(t), rec('M', oneTable)+object("f", "x")+end, nil), "files are left out where nobody takes them")
	require.NoError(t, backup.Declare(t.Context(), fresh(t), time.Now()))
}

func TestValuesOfEveryKind(t *testing.T) {
	s := liteStore(t)
	migrated(t, s.db, "kinds", "CREATE TABLE kinds_a (a {int}, b REAL, c TEXT, d {bytes}, e BOOLEAN);", "CREATE TABLE kinds_b (a {int});\nDROP TABLE kinds_b")
	_, err := s.db.Exec("INSERT INTO kinds_a VALUES (?, ?, ?, ?, ?), (NULL, NULL, NULL, NULL, NULL)", -5, 1.5, "text", []byte{0, 255}, true)
	require.NoError(t, err)
	b, rep := s.backup()
	require.EqualValues(t, 2, rep.Rows["kinds_a"])
	require.Greater(t, rep.Total(), int64(2))
	to := s.restoredLite(b)
	var a int
	var r float64
	var text string
	var octets []byte
	var yes bool
	require.NoError(t, to.db.QueryRow("SELECT * FROM kinds_a WHERE a IS NOT NULL").Scan(&a, &r, &text, &octets, &yes))
	require.Equal(t, []any{-5, 1.5, "text", []byte{0, 255}, true}, []any{a, r, text, octets, yes})
}

func TestTheWholeLogIsCopied(t *testing.T) {
	s := filled(t)
	require.NoError(t, os.MkdirAll(s.path("log/catalog"), 0o700))
	require.NoError(t, os.WriteFile(s.path("log/catalog/x"), []byte("catalogue"), 0o600))
	require.NoError(t, os.WriteFile(s.path("log/catalog/y.tmp"), []byte("half"), 0o600))
	for range 30 {
		s.put(10, 10)
	}
	s.feed()
	b, _ := s.backup()
	to := s.restoredLite(b)
	got, err := os.ReadFile(to.path("log/catalog/x"))
	require.NoError(t, err)
	require.Equal(t, "catalogue", string(got))
	require.NoFileExists(t, to.path("log/catalog/y.tmp"))
	require.NoError(t, to.log.Check(t.Context()))
	require.NoError(t, to.log.Extends(t.Context(), s.log.Checkpoint()))
	require.NoError(t, s.log.Check(t.Context()))

	// Without a log there is one less to be restored.
	set := s.set()
	set.Log, set.LogKey, set.Named, set.Blobs, set.Files = nil, "", nil, nil, nil
	var c bytes.Buffer
	rep, err := backup.Write(t.Context(), &c, set)
	require.NoError(t, err)
	require.EqualValues(t, -1, rep.LogSize)
	require.NoError(t, verify(t, c.Bytes(), s.opener(), ""))
}

// TestEveryStatementFails: whatever fails is an error, and leaves no row.
func TestEveryStatementFails(t *testing.T) {
	s := filled(t)
	b, _ := s.backup()
	db, faults := faulty(t, s.path("mail.db"))
	set := s.set()
	set.DB = db
	_, err := backup.Write(t.Context(), io.Discard, set) // finds out the dialect
	require.NoError(t, err)
	for n := 1; ; n++ {
		faults.At(n, sqldbtest.IOErr)
		_, err := backup.Write(t.Context(), io.Discard, set)
		if seen := faults.Clear(); n > seen {
			require.NoError(t, err)
			break
		}
		require.Error(t, err, n)
	}
	dir := t.TempDir()
	db, faults = faulty(t, filepath.Join(dir, "mail.db"))
	_, err = sqldb.Of(t.Context(), db)
	require.NoError(t, err)
	for n := 1; ; n++ {
		faults.At(n, sqldbtest.IOErr)
		_, err := backup.Restore(t.Context(), bytes.NewReader(b), s.opener(), &backup.Target{DB: db, Blobs: nowhere{}, Ring: discard})
		if seen := faults.Clear(); n > seen {
			require.NoError(t, err)
			break
		}
		require.Error(t, err, n)
		m, err := backup.Pending(t.Context(), db)
		require.NoError(t, err)
		require.Nil(t, m)
	}
	for n := 1; ; n++ {
		faults.At(n, sqldbtest.IOErr)
		m, err := backup.Pending(t.Context(), db)
		if seen := faults.Clear(); n > seen {
			require.NoError(t, err)
			require.NotNil(t, m)
			break
		}
		require.Error(t, err)
	}
}

func faulty(t *testing.T, path string) (*sql.DB, *sqldbtest.Faults) {
	f := new(sqldbtest.Faults)
	db := sqldbtest.Open(lite(t, path), "file:"+path+sqldbtest.Safe, f)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db, f
}

func TestClosedDatabases(t *testing.T) {
	db := lite(t, filepath.Join(t.TempDir(), "x.db"))
	require.NoError(t, db.Close())
	_, err := backup.Pending(t.Context(), db)
	require.Error(t, err)
	require.Error(t, backup.Declare(t.Context(), db, time.Now()))
	require.Error(t, into(t, db, "", nil))
	open := fresh(t)
	require.NoError(t, into(t, open, rec('M', oneTable)+ending(""), nil))
	require.NoError(t, open.Close())
	_, err = backup.Pending(t.Context(), open)
	require.Error(t, err)
	require.Error(t, backup.Declare(t.Context(), open, time.Now()))
	require.Error(t, into(t, open, "", nil))
}

func discard(_ context.Context, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// nowhere takes blobs and keeps none.
type nowhere struct{ securemail.BlobStore }

func (nowhere) Put(ctx context.Context, _ string, r io.Reader) error { return discard(ctx, r) }

var _ backup.Named = (*queue.Queue)(nil)
