package pgp_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/ecdh"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const original = "Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n" +
	"From: Dr Bob <bob@clinic.example>\r\n" +
	"To: Anna <anna@example.org>\r\n" +
	"Bcc: hidden@example.net\r\n" +
	"Subject: Befund zebra-canary\r\n" +
	"Message-ID: <1@clinic.example>\r\n" +
	"MIME-Version: 1.0\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\n" +
	"Content-Transfer-Encoding: 8bit\r\n" +
	"\r\n" +
	"Liebe Anna, giraffe-canary: gr\xc3\xbcn.  \r\nFrom here on\r\n"

func address(t testing.TB, s string) securemail.Address {
	t.Helper()
	a, err := securemail.ParseAddress(s)
	require.NoError(t, err)
	return a
}

func parcel(t testing.TB, msg string) *securemail.Parcel {
	t.Helper()
	m, err := securemail.NewMessage(securemail.Bytes([]byte(msg)))
	require.NoError(t, err)
	return &securemail.Parcel{Slip: securemail.Slip{
		ID: "p1", Actor: securemail.Actor{Tenant: "clinic"},
		From:      securemail.Contact{Address: address(t, "bob@clinic.example")},
		Recipient: securemail.Contact{Address: address(t, "anna@example.org")},
	}, Message: m}
}

func job(t testing.TB, keys ...securemail.Key) *securemail.Job {
	return &securemail.Job{Parcel: parcel(t, original), Keys: keys, Choice: securemail.Choice{Method: securemail.MethodPGP}}
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return b
}

// binary is a fixture without its armor.
func binary(t testing.TB, name string) []byte {
	t.Helper()
	block, err := armor.Decode(bytes.NewReader(fixture(t, name)))
	require.NoError(t, err)
	b, err := io.ReadAll(block.Body)
	require.NoError(t, err)
	return b
}

func pair(t testing.TB, who string) (securemail.Secret, securemail.Key) {
	t.Helper()
	s, k, err := pgp.GenerateKey("Test", address(t, who))
	require.NoError(t, err)
	return s, k
}

func encryptor(t testing.TB, o *pgp.Options) *pgp.Encryptor {
	t.Helper()
	e, err := pgp.New(o)
	require.NoError(t, err)
	return e
}

func text(t testing.TB, s securemail.Source) string {
	t.Helper()
	r, err := s.Open()
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

// restored is the message behind an Opened.
func restored(t testing.TB, o *pgp.Opened) *securemail.Message {
	t.Helper()
	m, err := encrypt.Restore(o.Payload)
	require.NoError(t, err)
	return m
}

func TestSignedAndEncrypted(t *testing.T) {
	secret, key := pair(t, "anna@example.org")
	signer, signerKey := pair(t, "bob@clinic.example")
	e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"bob@clinic.example": signer}})
	require.Equal(t, securemail.MethodPGP, e.Method())
	require.NoError(t, e.Undo(t.Context(), "p1"))
	s, err := e.Encrypt(t.Context(), job(t, key))
	require.NoError(t, err)

	require.Equal(t, "OpenPGP SEIPDv1 AES-256 ECDH-Curve25519", s.Algorithm)
	require.Equal(t, []string{key.Fingerprint}, s.Keys)
	require.Equal(t, signerKey.Fingerprint, s.Detail["signer"])
	require.Equal(t, "hcp_baseline", s.Detail["hp"])
	require.Len(t, s.Detail["subkey"], 40)
	require.NotEqual(t, key.Fingerprint, s.Detail["subkey"])

	wire := text(t, s.Message)
	require.NotContains(t, string(s.Message.Head()), "Bcc")
	for _, canary := range []string{"zebra", "giraffe", "hidden"} { // too long to show up in armor by chance
		require.NotContains(t, wire, canary)
	}
	require.Equal(t, []string{"<1@clinic.example>"}, s.Message.Header("Message-ID"))
	require.Equal(t, []string{"[...]"}, s.Message.Header("Subject"))
	require.Regexp(t, `^multipart/encrypted; protocol="application/pgp-encrypted"; boundary="=_pgp_[A-Z2-7]+"$`,
		s.Message.Header("Content-Type")[0])
	for line := range strings.SplitSeq(wire, "\r\n") {
		require.LessOrEqual(t, len(line), 78)
		require.Regexp(t, regexp.MustCompile(`^[ -~]*$`), line)
	}

	o, err := pgp.Open(t.Context(), s.Message, &pgp.OpenOptions{
		Keys: []securemail.Secret{secret}, Signers: []securemail.Key{signerKey},
	})
	require.NoError(t, err)
	require.Equal(t, pgp.SignatureGood, o.Authenticity)
	require.Equal(t, signerKey.Fingerprint, o.Signer)
	require.Equal(t, key.Fingerprint, o.Key)
	require.Equal(t, "AES-256", o.Algorithm)
	require.WithinDuration(t, time.Now(), o.SignedAt, time.Minute)
	require.Contains(t, text(t, o.Payload), `hp="cipher"; protected-headers="v1"`)
	back := restored(t, o)
	require.Equal(t, text(t, job(t).Message.Body()), text(t, back.Body()))
	require.Equal(t, []string{"Befund zebra-canary"}, back.Header("Subject"))
	require.Empty(t, back.Header("Bcc"))
}

// packets takes the OpenPGP message of a sealed mail apart as far as it is readable without a key.
func packets(t testing.TB, m *securemail.Message) (seipd int, keyVersions []int) {
	t.Helper()
	block, err := armor.Decode(strings.NewReader(text(t, m)))
	require.NoError(t, err)
	r := packet.NewReader(block.Body)
	for {
		p, err := r.Next()
		require.NoError(t, err)
		switch p := p.(type) {
		case *packet.EncryptedKey:
			keyVersions = append(keyVersions, p.Version)
		case *packet.SymmetricallyEncrypted:
			require.True(t, p.IntegrityProtected)
			return p.Version, keyVersions
		}
	}
}

// inside decrypts and gives what the literal packet and the signature say.
func inside(t testing.TB, m *securemail.Message, secret securemail.Secret) *openpgp.MessageDetails {
	t.Helper()
	ring, err := openpgp.ReadArmoredKeyRing(strings.NewReader(secret.Reveal()))
	require.NoError(t, err)
	block, err := armor.Decode(strings.NewReader(text(t, m)))
	require.NoError(t, err)
	md, err := openpgp.ReadMessage(block.Body, ring, nil, nil)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, md.UnverifiedBody)
	require.NoError(t, err)
	return md
}

func TestNothingInTheOpenPGPLayerTellsMoreThanItMust(t *testing.T) {
	secret, key := pair(t, "anna@example.org")
	e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"": secret}})
	s, err := e.Encrypt(t.Context(), job(t, key))
	require.NoError(t, err)
	require.NotContains(t, text(t, s.Message), "Version: Go")
	require.NotContains(t, text(t, s.Message), "Comment:")
	md := inside(t, s.Message, secret)
	require.Empty(t, md.LiteralData.FileName)
	require.Zero(t, md.LiteralData.Time)
	require.NoError(t, md.SignatureError)
	require.Len(t, md.Signature.IntendedRecipients, 1)
	require.Equal(t, crypto.SHA256, md.Signature.Hash)
	version, keys := packets(t, s.Message)
	require.Equal(t, 1, version)
	require.Equal(t, []int{3}, keys)
}

// TestArmorHasAChecksum: GnuPG 2.2 needs one where the base64 has no padding; RFC 9580 section 6.1 forbids it with SEIPDv2.
func TestArmorHasAChecksum(t *testing.T) {
	_, key := pair(t, "anna@example.org")
	_, _, aead := entity(t, &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, AEADConfig: &packet.AEADConfig{}})
	sum := regexp.MustCompile("\r\n(=[A-Za-z0-9+/]{4})\r\n-----END PGP MESSAGE-----\r\n")
	for n := range 3 {
		j := job(t, key)
		j.Parcel = parcel(t, original+strings.Repeat("x", n))
		s, err := encryptor(t, nil).Encrypt(t.Context(), j)
		require.NoError(t, err)
		wire := text(t, s.Message)
		block, err := armor.Decode(strings.NewReader(wire))
		require.NoError(t, err)
		var again bytes.Buffer
		w, err := armor.EncodeWithChecksumOption(&again, openpgp.MessageType, nil, true)
		require.NoError(t, err)
		_, err = io.Copy(w, block.Body)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		found := sum.FindStringSubmatch(wire)
		require.Len(t, found, 2)
		require.Contains(t, again.String(), "\n"+found[1]+"\n", "as go-crypto's own armor has it")

		j.Keys = []securemail.Key{aead}
		s, err = encryptor(t, nil).Encrypt(t.Context(), j)
		require.NoError(t, err)
		require.Contains(t, s.Algorithm, "SEIPDv2")
		require.NotRegexp(t, sum, text(t, s.Message))
	}
}

func TestNothingIsCompressed(t *testing.T) {
	_, key := pair(t, "anna@example.org")
	j := job(t, key)
	j.Parcel = parcel(t, original+strings.Repeat("aaaaaaaaaa\r\n", 10000))
	s, err := encryptor(t, nil).Encrypt(t.Context(), j)
	require.NoError(t, err)
	require.Greater(t, s.Message.Size(), j.Message.Size())
}

func entity(t testing.TB, cfg *packet.Config) (*openpgp.Entity, securemail.Secret, securemail.Key) {
	t.Helper()
	e, err := openpgp.NewEntity("Test", "", "anna@example.org", cfg)
	require.NoError(t, err)
	return e, private(t, e, cfg), public(t, e)
}

func private(t testing.TB, e *openpgp.Entity, cfg *packet.Config) securemail.Secret {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PrivateKeyType, nil)
	require.NoError(t, err)
	require.NoError(t, e.SerializePrivateWithoutSigning(w, cfg))
	require.NoError(t, w.Close())
	return securemail.NewSecret(b.String())
}

func public(t testing.TB, e *openpgp.Entity) securemail.Key {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, e.Serialize(&b))
	return securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{b.Bytes()}}
}

// TestProtectionNamesWhatIsUsed compares what the evidence says with what the message says.
func TestProtectionNamesWhatIsUsed(t *testing.T) {
	legacy := packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, DefaultCipher: packet.CipherAES256}
	with := func(edit func(*packet.Config)) *packet.Config { c := legacy; edit(&c); return &c }
	for _, c := range []struct {
		cfg       *packet.Config
		algorithm string
		cipher    string
		version   int
	}{
		{&legacy, "OpenPGP SEIPDv1 AES-256 ECDH-Curve25519", "AES-256", 1},
		{with(func(c *packet.Config) { c.DefaultCipher = packet.CipherAES128 }), "OpenPGP SEIPDv1 AES-128 ECDH-Curve25519", "AES-128", 1},
		{with(func(c *packet.Config) { c.Algorithm = packet.PubKeyAlgoRSA; c.RSABits = 2048 }), "OpenPGP SEIPDv1 AES-256 RSA-2048", "AES-256", 1},
		{with(func(c *packet.Config) { c.Algorithm = packet.PubKeyAlgoECDSA; c.Curve = packet.CurveNistP384 }), "OpenPGP SEIPDv1 AES-256 ECDH-P384", "AES-256", 1},
		{with(func(c *packet.Config) { c.Algorithm = packet.PubKeyAlgoEd25519 }), "OpenPGP SEIPDv1 AES-256 X25519", "AES-256", 1},
		{with(func(c *packet.Config) { c.Algorithm = packet.PubKeyAlgoEd448 }), "OpenPGP SEIPDv1 AES-256 X448", "AES-256", 1},
		{with(func(c *packet.Config) { c.AEADConfig = &packet.AEADConfig{} }), "OpenPGP SEIPDv2 AES-256-OCB ECDH-Curve25519", "AES-256", 2},
		{with(func(c *packet.Config) { c.AEADConfig = &packet.AEADConfig{DefaultMode: packet.AEADModeGCM} }), "OpenPGP SEIPDv2 AES-256-GCM ECDH-Curve25519", "AES-256", 2},
		{with(func(c *packet.Config) { c.AEADConfig = &packet.AEADConfig{DefaultMode: packet.AEADModeEAX} }), "OpenPGP SEIPDv2 AES-256-EAX ECDH-Curve25519", "AES-256", 2},
		{with(func(c *packet.Config) {
			c.V6Keys, c.Algorithm, c.AEADConfig = true, packet.PubKeyAlgoEd25519, &packet.AEADConfig{}
		}), "OpenPGP SEIPDv2 AES-256-OCB X25519", "AES-256", 2},
		{with(func(c *packet.Config) {
			c.V6Keys, c.Algorithm, c.AEADConfig = true, packet.PubKeyAlgoMldsa65Ed25519, &packet.AEADConfig{}
		}), "OpenPGP SEIPDv2 AES-256-OCB ML-KEM-768+X25519", "AES-256", 2},
	} {
		t.Run(c.algorithm, func(t *testing.T) {
			_, secret, key := entity(t, c.cfg)
			s, err := encryptor(t, nil).Encrypt(t.Context(), job(t, key))
			require.NoError(t, err)
			require.Equal(t, c.algorithm, s.Algorithm)
			version, _ := packets(t, s.Message)
			require.Equal(t, c.version, version)
			o, err := pgp.Open(t.Context(), s.Message, &pgp.OpenOptions{Keys: []securemail.Secret{secret}})
			require.NoError(t, err)
			require.Equal(t, c.cipher, o.Algorithm)
			require.Equal(t, pgp.Unsigned, o.Authenticity)
			require.Equal(t, "none", s.Detail["signer"])
		})
	}
}

func TestEveryUsableKeyOfTheRecipientOpens(t *testing.T) {
	s1, k1 := pair(t, "anna@example.org")
	s2, k2 := pair(t, "anna@example.org")
	bad := securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{{1, 2, 3}}}
	other := securemail.Key{Method: securemail.MethodSMIME, Public: [][]byte{{1}}}
	s, err := encryptor(t, nil).Encrypt(t.Context(), job(t, other, bad, k1, k2))
	require.NoError(t, err)
	require.Equal(t, []string{k1.Fingerprint, k2.Fingerprint}, s.Keys)
	for _, secret := range []securemail.Secret{s1, s2} {
		_, err := pgp.Open(t.Context(), s.Message, &pgp.OpenOptions{Keys: []securemail.Secret{secret}})
		require.NoError(t, err)
	}
	s3, _ := pair(t, "eve@example.org")
	_, err = pgp.Open(t.Context(), s.Message, &pgp.OpenOptions{Keys: []securemail.Secret{s3}})
	require.ErrorIs(t, err, pgp.ErrOpen)
}

func TestRefusedKeys(t *testing.T) {
	now := time.Now()
	past := func() time.Time { return now.Add(-48 * time.Hour) }
	future := func() time.Time { return now.Add(48 * time.Hour) }
	cfg := func(edit func(*packet.Config)) securemail.Key {
		c := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
		edit(c)
		_, _, k := entity(t, c)
		return k
	}
	file := func(name string) securemail.Key {
		return securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{binary(t, name)}}
	}
	good := cfg(func(*packet.Config) {})
	two := securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{append(bytes.Clone(good.Public[0]), good.Public[0]...)}}
	wrong := good
	wrong.Fingerprint = strings.Repeat("0", 40)
	for _, c := range []struct {
		name string
		key  securemail.Key
		why  pgp.Why
	}{
		{"dsa", file("dsa.asc"), pgp.WhyWeak},
		{"rsa 1024", file("rsa1024.asc"), pgp.WhyWeak},
		{"sha-1", file("sha1.asc"), pgp.WhyWeak},
		{"secp256k1", file("secp256k1.asc"), pgp.WhyWeak},
		{"sign only", file("signonly.asc"), pgp.WhyNoEncryption},
		{"elgamal", file("elgamal.asc"), pgp.WhyNoEncryption},
		{"revoked", file("revoked.asc"), pgp.WhyRevoked},
		{"private", file("rsa.key"), pgp.WhyPrivate},
		{"expired", cfg(func(c *packet.Config) { c.Time = past; c.KeyLifetimeSecs = 3600 }), pgp.WhyExpired},
		{"signature expired", cfg(func(c *packet.Config) { c.Time = past; c.SigLifetimeSecs = 3600 }), pgp.WhyExpired},
		{"future", cfg(func(c *packet.Config) { c.Time = future }), pgp.WhyFuture},
		{"several", two, pgp.WhySeveral},
		{"mismatch", wrong, pgp.WhyMismatch},
		{"empty", securemail.Key{Method: securemail.MethodPGP}, pgp.WhyMalformed},
		{"garbage", securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{[]byte("zebra-canary")}}, pgp.WhyMalformed},
		{"cut", securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{good.Public[0][:60]}}, pgp.WhyMalformed},
		{"huge", securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{make([]byte, 2<<20)}}, pgp.WhyMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := encryptor(t, nil).Encrypt(t.Context(), job(t, c.key))
			require.Nil(t, s)
			require.ErrorIs(t, err, securemail.ErrNoKey)
			k, ok := errors.AsType[*pgp.KeyError](err)
			require.True(t, ok)
			require.Equal(t, c.why, k.Why)
			require.NotContains(t, err.Error(), "canary")
			require.NotContains(t, err.Error(), "example")
		})
	}
	_, err := encryptor(t, nil).Encrypt(t.Context(), job(t))
	require.ErrorIs(t, err, securemail.ErrNoKey)
}

// TestACertificateThatOnlyCostsTime: thousands of self-signatures, or a modulus of 64 kbit, are refused before anything is
// computed with them.
func TestACertificateThatOnlyCostsTime(t *testing.T) {
	cfg := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
	e, _, _ := entity(t, cfg)
	for _, id := range e.Identities {
		for range 1000 {
			id.SelfCertifications = append(id.SelfCertifications, id.SelfCertifications[0])
		}
	}
	huge := append([]byte{0x99, 0x20, 0x0e, 4, 0, 0, 0, 1, 1, 0xff, 0xff}, bytes.Repeat([]byte{0xff}, 8192)...)
	huge = append(huge, 0, 17, 1, 0, 1)
	huge[1], huge[2] = byte((len(huge)-3)>>8), byte(len(huge)-3)
	huge = append(huge, 0xb4, 1, 'x') // a user id, so that there is one
	for name, b := range map[string][]byte{"signatures": public(t, e).Public[0], "modulus": huge} {
		start := time.Now()
		_, err := pgp.ParseKey(b)
		require.ErrorIs(t, err, securemail.ErrNoKey, name)
		require.Less(t, time.Since(start), 20*time.Second, name) // without the bound: hours
	}
}

func TestAnExpiredKeyIsGoodBefore(t *testing.T) {
	now := time.Now()
	_, _, key := entity(t, &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: 3600,
		Time: func() time.Time { return now.Add(-48 * time.Hour) },
	})
	e := encryptor(t, &pgp.Options{Now: func() time.Time { return now.Add(-47*time.Hour - 30*time.Minute) }})
	_, err := e.Encrypt(t.Context(), job(t, key))
	require.NoError(t, err)
	k, err := pgp.ParseKey(key.Public[0])
	require.NoError(t, err)
	require.WithinDuration(t, now.Add(-47*time.Hour), k.NotAfter, 2*time.Second)
}

func TestParseKey(t *testing.T) {
	for _, name := range []string{"rsa.asc", "p256.asc", "cv25519.asc"} {
		armored := fixture(t, name)
		k, err := pgp.ParseKey(armored)
		require.NoError(t, err, name)
		require.Equal(t, fixture(t, name), armored)
		require.Equal(t, securemail.MethodPGP, k.Method)
		require.Len(t, k.Fingerprint, 40)
		require.True(t, k.NotAfter.IsZero())
		again, err := pgp.ParseKey(k.Public[0])
		require.NoError(t, err)
		require.Equal(t, k, again)
		require.NotSame(t, &k.Public[0][0], &again.Public[0][0])
		_, err = encryptor(t, nil).Encrypt(t.Context(), job(t, k))
		require.NoError(t, err)
	}
	for name, why := range map[string]pgp.Why{
		"dsa.asc": pgp.WhyWeak, "rsa1024.asc": pgp.WhyWeak, "sha1.asc": pgp.WhyWeak, "signonly.asc": pgp.WhyNoEncryption,
		"revoked.asc": pgp.WhyRevoked, "rsa.key": pgp.WhyPrivate, "README": pgp.WhyMalformed,
	} {
		_, err := pgp.ParseKey(fixture(t, name))
		k, ok := errors.AsType[*pgp.KeyError](err)
		require.True(t, ok, name)
		require.Equal(t, why, k.Why, name)
	}
	for _, b := range [][]byte{nil, make([]byte, 2<<20), []byte("-----BEGIN PGP MESSAGE-----\n\nAAAA\n-----END PGP MESSAGE-----\n"),
		[]byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!!\n-----END PGP PUBLIC KEY BLOCK-----\n")} {
		_, err := pgp.ParseKey(b)
		require.ErrorIs(t, err, securemail.ErrNoKey)
	}
}

func TestParseKeyTakesTheEndOfTheLastEncryptionSubkey(t *testing.T) {
	cfg := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
	e, _, _ := entity(t, cfg)
	require.NoError(t, e.AddSigningSubkey(cfg))
	short := *cfg
	short.KeyLifetimeSecs = 3600
	e.Subkeys = e.Subkeys[:0]
	require.NoError(t, e.AddEncryptionSubkey(&short))
	k, err := pgp.ParseKey(public(t, e).Public[0])
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(time.Hour), k.NotAfter, time.Minute)
	short.KeyLifetimeSecs = 7200
	require.NoError(t, e.AddEncryptionSubkey(&short))
	k, err = pgp.ParseKey(public(t, e).Public[0])
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(2*time.Hour), k.NotAfter, time.Minute)
	require.NoError(t, e.AddEncryptionSubkey(cfg))
	k, err = pgp.ParseKey(public(t, e).Public[0])
	require.NoError(t, err)
	require.True(t, k.NotAfter.IsZero())
}

func TestARevokedSubkeyIsNotUsed(t *testing.T) {
	cfg := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
	e, _, _ := entity(t, cfg)
	require.NoError(t, e.Subkeys[0].Revoke(packet.KeyCompromised, "zebra-canary", cfg))
	_, err := encryptor(t, nil).Encrypt(t.Context(), job(t, public(t, e)))
	k, ok := errors.AsType[*pgp.KeyError](err)
	require.True(t, ok)
	require.Equal(t, pgp.WhyRevoked, k.Why)
	require.NotContains(t, err.Error(), "canary")
}

// revokeUserID adds a certification revocation (RFC 9580 section 5.2.1.14) to the user id.
func revokeUserID(t testing.TB, e *openpgp.Entity, id *openpgp.Identity, cfg *packet.Config) {
	t.Helper()
	sig := &packet.Signature{
		Version: e.PrimaryKey.Version, SigType: packet.SigTypeCertificationRevocation, PubKeyAlgo: e.PrimaryKey.PubKeyAlgo,
		Hash: crypto.SHA256, CreationTime: cfg.Now(), IssuerKeyId: &e.PrimaryKey.KeyId,
	}
	require.NoError(t, sig.SignUserId(id.UserId.Id, e.PrimaryKey, e.PrivateKey, cfg))
	id.Revocations = append(id.Revocations, packet.NewVerifiableSig(sig))
}

// TestARevokedUserID: a certificate stays usable while one user id is; which one is not compared with the address.
func TestARevokedUserID(t *testing.T) {
	cfg := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
	e, _, _ := entity(t, cfg)
	require.NoError(t, e.AddUserId("Other", "", "other@example.net", cfg))
	var ids []*openpgp.Identity
	for _, id := range e.Identities {
		ids = append(ids, id)
	}
	require.Len(t, ids, 2)
	revokeUserID(t, e, ids[0], cfg)
	_, err := encryptor(t, nil).Encrypt(t.Context(), job(t, public(t, e)))
	require.NoError(t, err)
	revokeUserID(t, e, ids[1], cfg)
	_, err = encryptor(t, nil).Encrypt(t.Context(), job(t, public(t, e)))
	require.ErrorIs(t, err, securemail.ErrNoKey)
	k, ok := errors.AsType[*pgp.KeyError](err)
	require.True(t, ok)
	require.Equal(t, pgp.WhyUnbound, k.Why)
}

// TestAnOlderSubkeyStandsInForAnExpiredOne: the newest of those that are valid now is taken.
func TestAnOlderSubkeyStandsInForAnExpiredOne(t *testing.T) {
	at := func(hours int, life uint32) *packet.Config {
		return &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: life,
			Time: func() time.Time { return time.Now().Add(time.Duration(-hours) * time.Hour) }}
	}
	e, _, _ := entity(t, at(200, 0))
	e.Subkeys = e.Subkeys[:0]
	require.NoError(t, e.AddEncryptionSubkey(at(150, 0)))
	require.NoError(t, e.AddEncryptionSubkey(at(100, 3600)))
	s, err := encryptor(t, nil).Encrypt(t.Context(), job(t, public(t, e)))
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString(e.Subkeys[0].PublicKey.Fingerprint), s.Detail["subkey"])
}

// TestAKeyThatNothingCanBeSealedTo: the point of order 1 is bound by a good signature, and shows only when it is used. It
// is a fault of this key, so that the recipient's others and the next Choice stand in.
func TestAKeyThatNothingCanBeSealedTo(t *testing.T) {
	cfg := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
	e, _, _ := entity(t, cfg)
	sub := &e.Subkeys[0]
	point := *sub.PublicKey.PublicKey.(*ecdh.PublicKey)
	point.Point = make([]byte, 32)
	sub.PublicKey = packet.NewECDHPublicKey(sub.PublicKey.CreationTime, &point)
	sub.PublicKey.IsSubkey = true
	require.NoError(t, sub.Bindings[0].Packet.SignKey(sub.PublicKey, e.PrivateKey, cfg))
	bad := public(t, e)
	_, err := encryptor(t, nil).Encrypt(t.Context(), job(t, bad))
	require.ErrorIs(t, err, securemail.ErrNoKey)
	secret, good := pair(t, "anna@example.org")
	s, err := encryptor(t, nil).Encrypt(t.Context(), job(t, bad, good))
	require.NoError(t, err)
	require.Equal(t, []string{good.Fingerprint}, s.Keys)
	_, err = pgp.Open(t.Context(), s.Message, &pgp.OpenOptions{Keys: []securemail.Secret{secret}})
	require.NoError(t, err)
}

// TestTheClockIsReadOnce: a key that expires while a message is sealed is not named for one that was used.
func TestTheClockIsReadOnce(t *testing.T) {
	_, key := pair(t, "anna@example.org")
	calls := 0
	e := encryptor(t, &pgp.Options{Now: func() time.Time { calls++; return time.Now() }})
	_, err := e.Encrypt(t.Context(), job(t, key))
	require.NoError(t, err)
	require.Equal(t, 1, calls)
}

// TestSignersAreFoundWithoutRegardToCase, as recipients' keys are.
func TestSignersAreFoundWithoutRegardToCase(t *testing.T) {
	_, key := pair(t, "anna@example.org")
	good, k := pair(t, "bob@clinic.example")
	for _, name := range []string{"Bob@Clinic.Example", "@Clinic.EXAMPLE"} {
		s, err := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{name: good}}).Encrypt(t.Context(), job(t, key))
		require.NoError(t, err, name)
		require.Equal(t, k.Fingerprint, s.Detail["signer"])
	}
	_, err := pgp.New(&pgp.Options{SigningKeys: map[string]securemail.Secret{"bob@clinic.example": good, "BOB@clinic.example": good}})
	require.ErrorContains(t, err, "twice")
	_, err = pgp.New(&pgp.Options{SigningKeys: map[string]securemail.Secret{"@": good}})
	require.ErrorContains(t, err, "neither an address")
}

func TestSigners(t *testing.T) {
	_, key := pair(t, "anna@example.org")
	byAddress, a := pair(t, "bob@clinic.example")
	byDomain, d := pair(t, "desk@clinic.example")
	forAll, all := pair(t, "post@host.example")
	failed := errors.New("vault down")
	type secrets = map[string]securemail.Secret
	fn := func(s securemail.Secret, err error) func(context.Context, securemail.Slip) (securemail.Secret, error) {
		return func(_ context.Context, slip securemail.Slip) (securemail.Secret, error) {
			require.Equal(t, "clinic", slip.Actor.Tenant)
			return s, err
		}
	}
	for _, c := range []struct {
		name   string
		o      *pgp.Options
		signer string
		err    error
	}{
		{"none configured", nil, "none", nil},
		{"none configured, required", &pgp.Options{Signing: pgp.SigningRequired}, "", securemail.ErrHold},
		{"address first", &pgp.Options{SigningKeys: secrets{"": forAll, "@clinic.example": byDomain, "bob@clinic.example": byAddress}}, a.Fingerprint, nil},
		{"then domain", &pgp.Options{SigningKeys: secrets{"": forAll, "@clinic.example": byDomain}}, d.Fingerprint, nil},
		{"then all", &pgp.Options{SigningKeys: secrets{"": forAll, "@other.example": byDomain}}, all.Fingerprint, nil},
		{"none for him", &pgp.Options{SigningKeys: secrets{"@other.example": byDomain}}, "", securemail.ErrHold},
		{"none for him, optional", &pgp.Options{SigningKeys: secrets{"@other.example": byDomain}, Signing: pgp.SigningOptional}, "none", nil},
		{"function", &pgp.Options{SigningKey: fn(byAddress, nil), SigningKeys: secrets{"": forAll}}, a.Fingerprint, nil},
		{"function: none", &pgp.Options{SigningKey: fn(securemail.Secret{}, pgp.ErrNoSigner)}, "", securemail.ErrHold},
		{"function: none, optional", &pgp.Options{SigningKey: fn(securemail.Secret{}, pgp.ErrNoSigner), Signing: pgp.SigningOptional}, "none", nil},
		{"function: error", &pgp.Options{SigningKey: fn(securemail.Secret{}, failed)}, "", failed},
		{"function: the wrong error", &pgp.Options{SigningKey: fn(securemail.Secret{}, securemail.ErrNoKey)}, "", securemail.ErrHold},
		{"function: garbage", &pgp.Options{SigningKey: fn(securemail.NewSecret("zebra-canary"), nil)}, "", securemail.ErrHold},
		{"function: certificate", &pgp.Options{SigningKey: fn(securemail.NewSecret(string(fixture(t, "rsa.asc"))), nil)}, "", securemail.ErrHold},
		{"function: locked", &pgp.Options{SigningKey: fn(securemail.NewSecret(string(fixture(t, "locked.key"))), nil)}, "", securemail.ErrHold},
		{"expired later", &pgp.Options{SigningKeys: secrets{"": shortLived(t)}}, "", securemail.ErrHold},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := encryptor(t, c.o).Encrypt(t.Context(), job(t, key))
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
				require.NotErrorIs(t, err, securemail.ErrNoKey, "the sender's fault is not the recipient's")
				require.NotContains(t, err.Error(), "canary")
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.signer, s.Detail["signer"])
		})
	}
}

func shortLived(t testing.TB) securemail.Secret {
	t.Helper()
	_, s, _ := entity(t, &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: 60,
		Time: func() time.Time { return time.Now().Add(-time.Hour) },
	})
	return s
}

func TestAnOfflinePrimaryKeyWithoutSigningSubkeyHolds(t *testing.T) {
	cfg := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}
	e, _, _ := entity(t, cfg)
	var b bytes.Buffer
	require.NoError(t, e.SerializePrivateWithoutSigning(&b, cfg))
	for _, id := range e.Identities {
		id.SelfCertifications[0].Packet.FlagSign = false
		require.NoError(t, id.ReSign(cfg))
	}
	_, key := pair(t, "anna@example.org")
	_, err := pgp.New(&pgp.Options{SigningKeys: map[string]securemail.Secret{"": private(t, e, cfg)}})
	require.ErrorContains(t, err, string(pgp.WhyNoSigning), "New finds it, where it has the key")
	o := &pgp.Options{SigningKey: func(context.Context, securemail.Slip) (securemail.Secret, error) { return private(t, e, cfg), nil }}
	_, err = encryptor(t, o).Encrypt(t.Context(), job(t, key))
	require.ErrorIs(t, err, securemail.ErrHold)
	require.ErrorContains(t, err, string(pgp.WhyNoSigning))
}

func TestNewNamesEveryFault(t *testing.T) {
	good, _ := pair(t, "bob@clinic.example")
	e, err := pgp.New(&pgp.Options{
		Signing: 99,
		SigningKeys: map[string]securemail.Secret{
			"zebra-canary": good, "@a.example": securemail.NewSecret("zebra-canary"),
			"": securemail.NewSecret(string(fixture(t, "locked.key"))),
		},
	})
	require.Nil(t, e)
	for _, part := range []string{"neither an address", "malformed", "locked", "unknown Signing"} {
		require.ErrorContains(t, err, part)
	}
	require.NotContains(t, err.Error(), "canary")
}

func TestNewCopiesTheMap(t *testing.T) {
	good, _ := pair(t, "bob@clinic.example")
	_, key := pair(t, "anna@example.org")
	m := map[string]securemail.Secret{"": good}
	e := encryptor(t, &pgp.Options{SigningKeys: m})
	clear(m)
	s, err := e.Encrypt(t.Context(), job(t, key))
	require.NoError(t, err)
	require.NotEqual(t, "none", s.Detail["signer"])
}

func TestEncryptIsConcurrentAndWritesNothing(t *testing.T) {
	signer, _ := pair(t, "bob@clinic.example")
	_, key := pair(t, "anna@example.org")
	e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"": signer}})
	j := job(t, key)
	before := bytes.Clone(key.Public[0])
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := e.Encrypt(t.Context(), j)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, before, key.Public[0])
	require.Equal(t, original, text(t, j.Message))
}

type deadReader struct{}

func (*deadReader) Read([]byte) (int, error) { return 0, errors.New("disk gone") }

// flaky gives the message once and then fails.
type flaky struct {
	text string
	mu   sync.Mutex
	left int
	tail io.Reader
}

func (f *flaky) Size() int64 { return int64(len(f.text)) }
func (f *flaky) Open() (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left >= 0 {
		return io.NopCloser(strings.NewReader(f.text)), nil
	}
	if f.tail == nil {
		return nil, errors.New("disk gone")
	}
	return io.NopCloser(io.MultiReader(strings.NewReader(f.text[:len(f.text)-3]), f.tail)), nil
}

func TestASourceThatFailsStopsTheAttempt(t *testing.T) {
	_, key := pair(t, "anna@example.org")
	for name, tail := range map[string]io.Reader{"open": nil, "read": &deadReader{}} {
		t.Run(name, func(t *testing.T) {
			m, err := securemail.NewMessage(&flaky{text: original, left: 1, tail: tail})
			require.NoError(t, err)
			j := job(t, key)
			j.Parcel = j.With(m)
			_, err = encryptor(t, nil).Encrypt(t.Context(), j)
			require.ErrorContains(t, err, "disk gone")
			require.NotErrorIs(t, err, securemail.ErrNoKey)
		})
	}
}

func TestContext(t *testing.T) {
	_, key := pair(t, "anna@example.org")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := encryptor(t, nil).Encrypt(ctx, job(t, key))
	require.ErrorIs(t, err, context.Canceled)
	_, err = pgp.Open(ctx, job(t).Message, nil)
	require.ErrorIs(t, err, context.Canceled)

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	m, err := securemail.NewMessage(&hooked{text: original + strings.Repeat("x\r\n", 1<<16), left: 1, hook: cancel})
	require.NoError(t, err)
	j := job(t, key)
	j.Parcel = j.With(m)
	_, err = encryptor(t, nil).Encrypt(ctx, j)
	require.ErrorIs(t, err, context.Canceled)
}

// hooked is a Source whose later Opens call hook first.
type hooked struct {
	text string
	left int
	hook func()
}

func (h *hooked) Size() int64 { return int64(len(h.text)) }
func (h *hooked) Open() (io.ReadCloser, error) {
	if h.left--; h.left < 0 {
		h.hook()
	}
	return io.NopCloser(strings.NewReader(h.text)), nil
}

func TestAMessageWithoutFromIsNoKeyFault(t *testing.T) {
	_, key := pair(t, "anna@example.org")
	j := job(t, key)
	j.Parcel = parcel(t, strings.Replace(original, "From:", "X-From:", 1))
	_, err := encryptor(t, nil).Encrypt(t.Context(), j)
	require.Error(t, err)
	require.NotErrorIs(t, err, securemail.ErrNoKey)
	require.NotErrorIs(t, err, securemail.ErrHold)
}

func TestGenerateKeyRefusesNamesThatBreakTheUserID(t *testing.T) {
	_, _, err := pgp.GenerateKey("zebra-canary <x>", address(t, "anna@example.org"))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "canary")
}
