package cosign_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/internal/cosign"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func vkey(name string, typed []byte) string {
	return fmt.Sprintf("%s+%08x+%s", name, cosign.KeyHash(name, typed), base64.StdEncoding.EncodeToString(typed))
}

func TestVerifier(t *testing.T) {
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", 32)))
	public := key.Public().(ed25519.PublicKey)
	v, err := cosign.NewVerifier(vkey("w.test", append([]byte{4}, public...)))
	require.NoError(t, err)
	require.Equal(t, "w.test", v.Name())
	require.True(t, public.Equal(v.Key()))

	text, at := "log.test\n1\nAAAA\n", time.Unix(1_700_000_000, 0).UTC()
	sign := func(at time.Time) []byte {
		return append(binary.BigEndian.AppendUint64(nil, uint64(at.Unix())), ed25519.Sign(key, cosign.Message(at, []byte(text)))...)
	}
	good := sign(at)
	require.True(t, v.Verify([]byte(text), good))
	for i := range good { // each octet counts, the time's as well
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		require.False(t, v.Verify([]byte(text), bad), i)
	}
	require.False(t, v.Verify([]byte(text), sign(time.Unix(0, 0))))
	require.False(t, v.Verify([]byte(text+"x\n"), good))

	line := binary.BigEndian.AppendUint32(nil, v.KeyHash())
	s := note.Signature{Base64: base64.StdEncoding.EncodeToString(append(line, good...))}
	got, err := cosign.Time(s)
	require.NoError(t, err)
	require.Equal(t, at, got)
	for _, b := range [][]byte{nil, line, append(line, make([]byte, cosign.SigSize)...)} {
		_, err := cosign.Time(note.Signature{Base64: base64.StdEncoding.EncodeToString(b)})
		require.Error(t, err)
	}
}

func TestNewVerifier(t *testing.T) {
	key := make([]byte, 33)
	key[0] = 4
	good := vkey("w.test", key)
	_, err := cosign.NewVerifier(vkey("w.test", append([]byte{6}, make([]byte, 1312)...)))
	require.ErrorIs(t, err, cosign.ErrMLDSA)
	for _, bad := range []string{
		"", "w", "w+1", "w+00000000+", strings.Repeat("x", 5000), vkey("w w", key), vkey("w", key[:9]), vkey("w", []byte{1, 2}),
		"x" + good, good + "=", good + "\n", strings.ToUpper(good), strings.Replace(good, "+", "+0", 1),
	} {
		_, err := cosign.NewVerifier(bad)
		require.Error(t, err, "%.40s", bad)
	}
}

// FuzzNewVerifier: a key that is taken is written in one way only.
func FuzzNewVerifier(f *testing.F) {
	f.Add(vkey("w.test", append([]byte{4}, make([]byte, 32)...)))
	f.Add("w+00000000+BAA=")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := cosign.NewVerifier(s)
		if err != nil {
			return
		}
		if vkey(v.Name(), append([]byte{4}, v.Key()...)) != strings.Replace(s, s[len(v.Name()):len(v.Name())+10], strings.ToLower(s[len(v.Name()):len(v.Name())+10]), 1) {
			t.Fatal(s)
		}
	})
}
