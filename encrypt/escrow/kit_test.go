package escrow_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/encrypttest"
	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
)

// The kit for Encryptors, but for one rule: the header of a notice is not encrypt.Outer's, which would show the names in
// From, To and Cc. What the notice shows instead is in TestNoticeHoldsNothing.
func TestKit(t *testing.T) {
	r := encrypttest.Check(t.Context(), encrypttest.Harness{New: kitRig})
	require.Greater(t, r.Cases, 15)
	for _, f := range r.Failures {
		if !strings.HasPrefix(f.Rule, "the header of sealed mail is encrypt.Outer's") {
			t.Errorf("%s: %s\n\trule: %s", f.Case, f.Detail, f.Rule)
		}
	}
	for _, s := range r.Skipped {
		t.Log("skipped: " + s)
	}
}

func kitRig(ctx context.Context, s encrypttest.Setup) (*encrypttest.Rig, error) {
	dir, err := os.MkdirTemp("", "escrow-kit")
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mail.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	ring, err := keyring.OpenFile(filepath.Join(dir, "ring.key"), nil)
	if err != nil {
		return nil, err
	}
	e, err := escrow.New(ctx, db, ring, &escrow.Options{BaseURL: "https://mail.example.org", Logger: s.Logger})
	if err != nil {
		return nil, err
	}
	return &encrypttest.Rig{
		Encryptor: e,
		Factors:   []securemail.Factor{factor("code", canaryCode)},
		Open:      func(ctx context.Context, m *securemail.Message) (*securemail.Message, error) { return fetch(ctx, e, m) },
		Left: func(ctx context.Context, id securemail.ParcelID) (n int, err error) {
			err = db.QueryRowContext(ctx, "SELECT COUNT(*) FROM escrow_deposit WHERE parcel=?", string(id)).Scan(&n)
			return n, err
		},
		Close: func() { _, _, _ = db.Close(), ring.Close(), os.RemoveAll(dir) },
	}, nil
}
