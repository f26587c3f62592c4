package dkim_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/transport/dkim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone is a resolver that knows these names; a nil list is a time-out.
type zone map[string][]string

func (z zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	txts, ok := z[name]
	switch {
	case !ok:
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	case txts == nil:
		return nil, &net.DNSError{Err: "timed out", Name: name, IsTimeout: true}
	}
	return txts, ctx.Err()
}

func (z zone) publish(keys ...dkim.Key) zone {
	for _, k := range keys {
		z[k.RecordName()] = []string{k.Record().String()}
	}
	return z
}

var rsaKey = sync.OnceValue(func() crypto.Signer {
	k, err := dkim.Generate(dkim.RSA)
	if err != nil {
		panic(err)
	}
	return k
})

var weakKey = sync.OnceValue(func() crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		panic(err)
	}
	return k
})

func edKey(t testing.TB) crypto.Signer {
	k, err := dkim.Generate(dkim.Ed25519)
	require.NoError(t, err)
	return k
}

// pair is an RSA key and an Ed25519 key of example.org.
func pair(t testing.TB) []dkim.Key {
	return []dkim.Key{
		{Domain: "example.org", Selector: "r1", Private: rsaKey()},
		{Domain: "example.org", Selector: "e1", Private: edKey(t)},
	}
}

func signer(t testing.TB, keys []dkim.Key, now func() time.Time) *dkim.Signer {
	s, err := dkim.New(keys, &dkim.Options{Now: now})
	require.NoError(t, err)
	return s
}
