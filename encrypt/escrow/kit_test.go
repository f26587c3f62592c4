package escrow_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"github.com/postseal/postseal/encrypt/encrypttest"
	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
)

func TestKit(t *testing.T) { encrypttest.Run(t, encrypttest.Harness{New: kitRig}) }

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
		Encryptor: escrow.Cheapen(e),
		Notice:    true,
		Factors:   []securemail.Factor{factor("code", canaryCode)},
		Open:      func(ctx context.Context, m *securemail.Message) (*securemail.Message, error) { return fetch(ctx, e, m) },
		Left: func(ctx context.Context, id securemail.ParcelID) (n int, err error) {
			err = db.QueryRowContext(ctx, "SELECT COUNT(*) FROM escrow_deposit WHERE parcel=?", string(id)).Scan(&n)
			return n, err
		},
		Close: func() { _, _, _ = db.Close(), ring.Close(), os.RemoveAll(dir) },
	}, nil
}
