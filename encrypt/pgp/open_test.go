package pgp_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
)

// sealedMail gives a mail and what opens it.
func sealedMail(t testing.TB) (string, *pgp.OpenOptions) {
	t.Helper()
	secret, key := pair(t, "anna@example.org")
	signer, signerKey := pair(t, "bob@clinic.example")
	e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"": signer}})
	s, err := e.Encrypt(t.Context(), job(t, key))
	require.NoError(t, err)
	return text(t, s.Message), &pgp.OpenOptions{Keys: []securemail.Secret{secret}, Signers: []securemail.Key{signerKey}}
}

func message(t testing.TB, s string) *securemail.Message {
	t.Helper()
	m, err := securemail.NewMessage(securemail.Bytes([]byte(s)))
	require.NoError(t, err)
	return m
}

func TestOpenTakesOtherShapesOfTheSameThing(t *testing.T) {
	mail, o := sealedMail(t)
	for name, edit := range map[string]func(string) string{
		"as is": func(s string) string { return s },
		"case":  func(s string) string { return strings.Replace(s, "\r\n\r\nVersion: 1", "\r\n\r\nversion : 1", 1) },
		"no prelude": func(s string) string {
			return strings.Replace(s, "This is an OpenPGP/MIME encrypted message (RFC 3156).\r\n", "", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := pgp.Open(t.Context(), message(t, edit(mail)), o)
			require.NoError(t, err)
			require.Equal(t, pgp.SignatureGood, r.Authenticity)
		})
	}
}

func TestOpenRefusesOtherShapes(t *testing.T) {
	mail, o := sealedMail(t)
	head, body, _ := strings.Cut(mail, "\r\n\r\n")
	boundary := body[strings.Index(body, "--=_pgp_"):]
	boundary = boundary[:strings.Index(boundary, "\r\n")]
	for name, s := range map[string]string{
		"plain":           original,
		"other protocol":  strings.Replace(mail, `protocol="application/pgp-encrypted"`, `protocol="application/x"`, 1),
		"mixed":           strings.Replace(mail, "multipart/encrypted", "multipart/mixed", 1),
		"version 2":       strings.Replace(mail, "\r\n\r\nVersion: 1", "\r\n\r\nVersion: 2", 1),
		"no version":      strings.Replace(mail, "\r\n\r\nVersion: 1", "\r\n\r\nFoo: 1", 1),
		"other type":      strings.Replace(mail, "Content-Type: application/octet-stream", "Content-Type: text/plain", 1),
		"third part":      strings.Replace(mail, boundary+"--", boundary+"\r\n\r\n<img src=\"https://evil.example/\">\r\n"+boundary+"--", 1),
		"one part":        head + "\r\n\r\n" + boundary + "\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n" + boundary + "--\r\n",
		"no armor":        strings.Replace(mail, "-----BEGIN PGP MESSAGE", "-----BEGIN PGP SIGNATURE", 1),
		"two types":       strings.Replace(mail, "MIME-Version:", "Content-Type: text/plain\r\nMIME-Version:", 1),
		"encrypted as 1":  strings.Replace(mail, "Content-Type: application/pgp-encrypted", "Content-Type: text/plain", 1),
		"no armor at all": strings.Replace(mail, "-----BEGIN PGP MESSAGE-----", "x", 1),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := pgp.Open(t.Context(), message(t, s), o)
			require.ErrorIs(t, err, pgp.ErrNotPGP)
			require.Nil(t, r)
		})
	}
}

// TestEFAIL flips each of a sample of characters of the armor: nothing of the plaintext may come out, and there is one error.
func TestEFAIL(t *testing.T) {
	mail, o := sealedMail(t)
	start := strings.Index(mail, "-----BEGIN PGP MESSAGE-----\r\n\r\n") + len("-----BEGIN PGP MESSAGE-----\r\n\r\n")
	end := strings.Index(mail, "-----END PGP")
	for i := start; i < end; i += 31 {
		if mail[i] == '\r' || mail[i] == '\n' || mail[i] == '=' {
			continue
		}
		b := []byte(mail)
		if b[i]++; b[i] == 'z'+1 || b[i] == 'Z'+1 || b[i] == '9'+1 || b[i] == '+'+1 || b[i] == '/'+1 {
			b[i] = 'A'
		}
		r, err := pgp.Open(t.Context(), message(t, string(b)), o)
		if err == nil {
			// a bit that means nothing, such as in a packet's padding: then all of it must be proved
			require.Equal(t, pgp.SignatureGood, r.Authenticity)
			continue
		}
		require.Nil(t, r)
		require.Truef(t, errors.Is(err, pgp.ErrOpen) || errors.Is(err, pgp.ErrNotPGP), "%v", err)
	}
	cut := mail[:end-200] + "\r\n" + mail[end:]
	_, err := pgp.Open(t.Context(), message(t, cut), o)
	require.ErrorIs(t, err, pgp.ErrOpen)
}

// raw makes a mail around an OpenPGP message.
func raw(t testing.TB, write func(*bytes.Buffer)) *securemail.Message {
	t.Helper()
	var msg, b bytes.Buffer
	write(&msg)
	w, err := armor.Encode(&b, openpgp.MessageType, nil)
	require.NoError(t, err)
	_, err = w.Write(msg.Bytes())
	require.NoError(t, err)
	require.NoError(t, w.Close())
	armored := strings.ReplaceAll(b.String(), "\n", "\r\n")
	return message(t, "From: a@b.example\r\nContent-Type: multipart/encrypted; boundary=x;\r\n protocol=\"application/pgp-encrypted\"\r\n\r\n"+
		"--x\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--x\r\nContent-Type: application/octet-stream\r\n"+
		"\r\n"+armored+"\r\n--x--\r\n")
}

func ringOf(t testing.TB, s securemail.Secret) openpgp.EntityList {
	t.Helper()
	l, err := openpgp.ReadArmoredKeyRing(strings.NewReader(s.Reveal()))
	require.NoError(t, err)
	return l
}

func TestOpenRefusesWhatIsNotProtected(t *testing.T) {
	secret, _ := pair(t, "anna@example.org")
	o := &pgp.OpenOptions{Keys: []securemail.Secret{secret}, MaxSize: 1 << 20}
	to := ringOf(t, secret)
	cases := map[string]func(*bytes.Buffer){
		"literal only": func(b *bytes.Buffer) {
			w, err := packet.SerializeLiteral(nopCloser{b}, true, "", 0)
			require.NoError(t, err)
			_, err = w.Write([]byte("zebra-canary"))
			require.NoError(t, err)
			require.NoError(t, w.Close())
		},
		"signed only": func(b *bytes.Buffer) {
			w, err := openpgp.Sign(b, to, nil, nil)
			require.NoError(t, err)
			_, err = w.Write([]byte("zebra-canary"))
			require.NoError(t, err)
			require.NoError(t, w.Close())
		},
		"passphrase": func(b *bytes.Buffer) {
			w, err := openpgp.SymmetricallyEncrypt(b, []byte("x"), nil, nil)
			require.NoError(t, err)
			require.NoError(t, w.Close())
		},
		"passphrase beside the key": func(b *bytes.Buffer) {
			w, err := openpgp.EncryptWithParams(b, to, nil, &openpgp.EncryptParams{Passwords: [][]byte{[]byte("x")}})
			require.NoError(t, err)
			require.NoError(t, w.Close())
		},
		"bomb": func(b *bytes.Buffer) {
			w, err := openpgp.Encrypt(b, to, nil, nil, nil, &packet.Config{DefaultCompressionAlgo: packet.CompressionZLIB})
			require.NoError(t, err)
			_, err = w.Write(make([]byte, 3<<20))
			require.NoError(t, err)
			require.NoError(t, w.Close())
		},
		"empty": func(*bytes.Buffer) {},
	}
	for name, write := range cases {
		t.Run(name, func(t *testing.T) {
			r, err := pgp.Open(t.Context(), raw(t, write), o)
			require.ErrorIs(t, err, pgp.ErrOpen)
			require.Nil(t, r)
		})
	}
}

// flood is a message with that many session keys and one-pass signatures, all for keys of ours.
func flood(t testing.TB, to openpgp.Key, sessions, signatures int) *securemail.Message {
	t.Helper()
	cfg := &packet.Config{DefaultCipher: packet.CipherAES256}
	return raw(t, func(b *bytes.Buffer) {
		key := make([]byte, 32)
		for range sessions {
			require.NoError(t, packet.SerializeEncryptedKeyAEAD(b, to.PublicKey, packet.CipherAES256, false, key, cfg))
		}
		w, err := packet.SerializeSymmetricallyEncrypted(b, packet.CipherAES256, false, packet.CipherSuite{}, key, cfg)
		require.NoError(t, err)
		for range signatures {
			ops := packet.OnePassSignature{Version: 3, SigType: packet.SigTypeBinary, Hash: crypto.SHA256,
				PubKeyAlgo: to.Entity.PrimaryKey.PubKeyAlgo, KeyId: to.Entity.PrimaryKey.KeyId}
			require.NoError(t, ops.Serialize(w))
		}
		l, err := packet.SerializeLiteral(w, true, "", 0)
		require.NoError(t, err)
		_, err = l.Write([]byte("A: b\r\n\r\nx\r\n"))
		require.NoError(t, err)
		require.NoError(t, l.Close()) // and w with it
	})
}

// TestOpenBoundsItsWork: each session key costs a private operation, and each signature a hash of everything.
func TestOpenBoundsItsWork(t *testing.T) {
	secret, _ := pair(t, "anna@example.org")
	o := &pgp.OpenOptions{Keys: []securemail.Secret{secret}}
	to, ok := ringOf(t, secret)[0].EncryptionKey(time.Now(), nil)
	require.True(t, ok)
	_, err := pgp.Open(t.Context(), flood(t, to, 100, 0), o)
	require.NoError(t, err)
	for _, n := range [][2]int{{101, 0}, {1, 100}, {1, 20000}} {
		m := flood(t, to, n[0], n[1])
		start := time.Now()
		_, err := pgp.Open(t.Context(), m, o)
		require.ErrorIs(t, err, pgp.ErrOpen)
		require.Less(t, time.Since(start), 20*time.Second)
	}
}

// TestOpenStopsWithItsContext, in the middle as well.
func TestOpenStopsWithItsContext(t *testing.T) {
	mail, o := sealedMail(t)
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	o.Now = func() time.Time { // go-crypto asks while it reads
		calls++
		cancel()
		return time.Now()
	}
	_, err := pgp.Open(ctx, message(t, mail), o)
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, calls)
}

type nopCloser struct{ *bytes.Buffer }

func (nopCloser) Close() error { return nil }

func TestMaxSize(t *testing.T) {
	mail, o := sealedMail(t)
	o.MaxSize = 10
	_, err := pgp.Open(t.Context(), message(t, mail), o)
	require.ErrorIs(t, err, pgp.ErrOpen)
}

func TestAuthenticity(t *testing.T) {
	secret, key := pair(t, "anna@example.org")
	other, otherKey := pair(t, "carl@example.org")
	signer, signerKey := pair(t, "bob@clinic.example")
	open := func(m *securemail.Message, who securemail.Secret, signers ...securemail.Key) *pgp.Opened {
		r, err := pgp.Open(t.Context(), m, &pgp.OpenOptions{Keys: []securemail.Secret{who}, Signers: signers})
		require.NoError(t, err)
		return r
	}
	e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"": signer}})
	s, err := e.Encrypt(t.Context(), job(t, key))
	require.NoError(t, err)
	require.Equal(t, pgp.SignatureGood, open(s.Message, secret, signerKey).Authenticity)
	require.Equal(t, pgp.SignatureGood, open(s.Message, secret, otherKey, signerKey).Authenticity)
	require.Equal(t, pgp.SignerUnknown, open(s.Message, secret, otherKey).Authenticity)
	require.Equal(t, pgp.SignerUnknown, open(s.Message, secret).Authenticity)
	require.Empty(t, open(s.Message, secret).Signer)

	t.Run("own key is no sender", func(t *testing.T) {
		e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"": secret}})
		s, err := e.Encrypt(t.Context(), job(t, key))
		require.NoError(t, err)
		require.Equal(t, pgp.SignerUnknown, open(s.Message, secret).Authenticity)
		require.Equal(t, pgp.SignatureGood, open(s.Message, secret, key).Authenticity)
	})
	t.Run("passed on under another envelope", func(t *testing.T) {
		// carl gets a signed message and encrypts the signed content to anna anew (surreptitious forwarding)
		s, err := e.Encrypt(t.Context(), job(t, otherKey))
		require.NoError(t, err)
		carl := inside(t, s.Message, other)
		require.NotNil(t, carl)
		m := raw(t, func(b *bytes.Buffer) {
			var signed bytes.Buffer
			for _, sig := range carl.SignatureCandidates {
				require.NoError(t, sig.CorrespondingSig.Serialize(&signed))
			}
			w, err := openpgp.EncryptWithParams(b, ringOf(t, secret), nil, &openpgp.EncryptParams{OutsideSig: signed.Bytes()})
			require.NoError(t, err)
			o := open(s.Message, other, signerKey)
			_, err = w.Write([]byte(text(t, o.Payload)))
			require.NoError(t, err)
			require.NoError(t, w.Close())
		})
		require.Equal(t, pgp.SignatureBad, open(m, secret, signerKey).Authenticity)
	})
}

func TestOpenAnswersForBadOptions(t *testing.T) {
	mail, o := sealedMail(t)
	for name, edit := range map[string]func(*pgp.OpenOptions){
		"garbage key": func(o *pgp.OpenOptions) { o.Keys = []securemail.Secret{securemail.NewSecret("x")} },
		"locked key": func(o *pgp.OpenOptions) {
			o.Keys = []securemail.Secret{securemail.NewSecret(string(fixture(t, "locked.key")))}
		},
		"public as own": func(o *pgp.OpenOptions) {
			o.Keys = []securemail.Secret{securemail.NewSecret(string(fixture(t, "rsa.asc")))}
		},
		"empty signer":   func(o *pgp.OpenOptions) { o.Signers = []securemail.Key{{}} },
		"garbage signer": func(o *pgp.OpenOptions) { o.Signers = []securemail.Key{{Public: [][]byte{{1}}}} },
	} {
		t.Run(name, func(t *testing.T) {
			c := *o
			edit(&c)
			_, err := pgp.Open(t.Context(), message(t, mail), &c)
			_, ok := errors.AsType[*pgp.KeyError](err)
			require.True(t, ok, "%v", err)
		})
	}
	_, err := pgp.Open(t.Context(), message(t, mail), nil)
	require.ErrorIs(t, err, pgp.ErrOpen)
}

func TestOldMailStaysReadable(t *testing.T) {
	then := time.Now().Add(-1000 * time.Hour)
	cfg := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: 3600, Time: func() time.Time { return then }}
	_, secret, key := entity(t, cfg)
	e := encryptor(t, &pgp.Options{SigningKeys: map[string]securemail.Secret{"": secret}, Now: func() time.Time { return then.Add(time.Minute) }})
	s, err := e.Encrypt(t.Context(), job(t, key))
	require.NoError(t, err)
	r, err := pgp.Open(t.Context(), s.Message, &pgp.OpenOptions{Keys: []securemail.Secret{secret}, Signers: []securemail.Key{key}})
	require.NoError(t, err)
	require.Equal(t, pgp.SignatureGood, r.Authenticity)
}

func TestOpenDecodesBase64AndQuotedPrintable(t *testing.T) {
	mail, o := sealedMail(t)
	i, j := strings.Index(mail, "-----BEGIN PGP MESSAGE"), strings.Index(mail, "-----END PGP MESSAGE-----\r\n")+27
	armored := mail[i:j]
	qp := strings.ReplaceAll(armored, "=", "=3D")
	s := strings.Replace(mail, armored, qp, 1)
	s = strings.Replace(s, "Content-Description: OpenPGP encrypted message", "Content-Transfer-Encoding: quoted-printable", 1)
	_, err := pgp.Open(t.Context(), message(t, s), o)
	require.NoError(t, err)
	s = strings.Replace(mail, armored, base64Lines(armored), 1)
	s = strings.Replace(s, "Content-Description: OpenPGP encrypted message", "Content-Transfer-Encoding: base64", 1)
	_, err = pgp.Open(t.Context(), message(t, s), o)
	require.NoError(t, err)
}
