package pgp_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
)

func base64Lines(s string) string {
	b := base64.StdEncoding.EncodeToString([]byte(s))
	var out strings.Builder
	for len(b) > 0 {
		n := min(76, len(b))
		out.WriteString(b[:n] + "\r\n")
		b = b[n:]
	}
	return out.String()
}

var fixtures = []string{"rsa.asc", "p256.asc", "cv25519.asc", "dsa.asc", "elgamal.asc", "secp256k1.asc", "sha1.asc", "signonly.asc",
	"revoked.asc", "rsa1024.asc", "rsa.key", "p256.key", "cv25519.key", "locked.key"}

func seeds(f *testing.F) {
	for _, name := range fixtures {
		f.Add(fixture(f, name))
		f.Add(binary(f, name))
	}
	for _, cfg := range []*packet.Config{
		{Algorithm: packet.PubKeyAlgoEd25519, V6Keys: true, AEADConfig: &packet.AEADConfig{}},
		{Algorithm: packet.PubKeyAlgoMldsa65Ed25519, V6Keys: true, AEADConfig: &packet.AEADConfig{}},
		{Algorithm: packet.PubKeyAlgoEd448},
	} {
		_, s, k := entity(f, cfg)
		f.Add(k.Public[0])
		f.Add([]byte(s.Reveal()))
	}
}

// FuzzCertificate: hostile certificates and private keys never panic, in parsing, encrypting, signing and opening, and are
// never written to.
func FuzzCertificate(f *testing.F) {
	seeds(f)
	_, good := pair(f, "anna@example.org")
	mail, opts := sealedMail(f)
	m := message(f, mail)
	plain, err := pgp.New(nil)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		k, err := pgp.ParseKey(b)
		if err == nil {
			require.NotEmpty(t, k.Fingerprint)
			require.Len(t, k.Public, 1)
		} else {
			require.ErrorIs(t, err, securemail.ErrNoKey)
		}
		key := securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{b}}
		if _, err := plain.Encrypt(t.Context(), job(t, key)); err != nil {
			require.NotEmpty(t, err.Error())
		}
		if e, err := pgp.New(&pgp.Options{SigningKeys: map[string]securemail.Secret{"": securemail.NewSecret(string(b))}}); err == nil {
			_, _ = e.Encrypt(t.Context(), job(t, good))
		}
		_, _ = pgp.Open(t.Context(), m, &pgp.OpenOptions{Keys: opts.Keys, Signers: []securemail.Key{key}})
		_, _ = pgp.Open(t.Context(), m, &pgp.OpenOptions{Keys: []securemail.Secret{securemail.NewSecret(string(b))}})
		require.Equal(t, in, b)
	})
}

// FuzzOpen: hostile messages never panic and never give out anything that is not proved.
func FuzzOpen(f *testing.F) {
	mail, opts := sealedMail(f)
	f.Add([]byte(mail))
	f.Add([]byte(original))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := securemail.NewMessage(securemail.Bytes(b))
		if err != nil {
			return
		}
		r, err := pgp.Open(t.Context(), m, opts)
		if err != nil {
			require.Nil(t, r)
			return
		}
		require.Equal(t, pgp.SignatureGood, r.Authenticity, "only the seed itself can open")
	})
}

// FuzzPackets: the same for the OpenPGP layer alone.
func FuzzPackets(f *testing.F) {
	mail, opts := sealedMail(f)
	block, err := armor.Decode(strings.NewReader(mail))
	require.NoError(f, err)
	b, err := io.ReadAll(block.Body)
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := pgp.Open(t.Context(), raw(t, func(w *bytes.Buffer) { w.Write(b) }), opts); err == nil {
			require.Equal(t, pgp.SignatureGood, r.Authenticity)
		}
	})
}
