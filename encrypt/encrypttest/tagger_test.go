package encrypttest_test

import (
	"context"
	"sync"

	"github.com/postseal/postseal/securemail"
)

// tagger remembers whose parcel a sealed body is, as a locator in a notice would say.
type tagger struct {
	securemail.Encryptor
	mu    sync.Mutex // guards owner
	owner map[string]securemail.ParcelID
}

func (t *tagger) Encrypt(ctx context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	s, err := t.Encryptor.Encrypt(ctx, j)
	if s != nil && s.Message != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.owner[readAll(s.Message)] = j.ID
	}
	return s, err
}

func (t *tagger) of(m *securemail.Message) (securemail.ParcelID, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id, ok := t.owner[readAll(m)]
	return id, ok
}
