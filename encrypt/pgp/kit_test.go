package pgp_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/encrypttest"
	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
)

// kitHarness signs for the kit's sender where signed is set, and opens as the recipient does.
func kitHarness(t *testing.T, cfg *packet.Config, signed bool) encrypttest.Harness {
	return encrypttest.Harness{New: func(_ context.Context, s encrypttest.Setup) (*encrypttest.Rig, error) {
		_, secret, key := entity(t, cfg)
		parsed, err := pgp.ParseKey(key.Public[0])
		require.NoError(t, err)
		o := &pgp.Options{}
		open := &pgp.OpenOptions{Keys: []securemail.Secret{secret}}
		if signed {
			signer, signerKey := pair(t, s.Sender.Address.Reveal())
			o.SigningKeys = map[string]securemail.Secret{s.Sender.Address.Reveal(): signer}
			open.Signers = []securemail.Key{signerKey}
		}
		e, err := pgp.New(o)
		require.NoError(t, err)
		return &encrypttest.Rig{
			Encryptor: e, Keys: []securemail.Key{parsed}, Unusable: unusable(t),
			Open: func(ctx context.Context, m *securemail.Message) (*securemail.Message, error) {
				r, err := pgp.Open(ctx, m, open)
				if err != nil {
					return nil, err
				}
				if signed && r.Authenticity != pgp.SignatureGood {
					return nil, errors.New("not signed by the sender")
				}
				return encrypt.Restore(r.Payload)
			},
		}, nil
	}}
}

func unusable(t *testing.T) map[string]securemail.Key {
	keys := map[string]securemail.Key{}
	for _, name := range []string{"dsa.asc", "rsa1024.asc", "sha1.asc", "secp256k1.asc", "signonly.asc", "elgamal.asc", "revoked.asc", "rsa.key"} {
		keys[name] = securemail.Key{Method: securemail.MethodPGP, Public: [][]byte{binary(t, name)}}
	}
	_, _, keys["expired"] = entity(t, &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: 60, Time: func() time.Time { return time.Now().Add(-time.Hour) },
	})
	return keys
}

func TestPassesTheKit(t *testing.T) {
	for name, cfg := range map[string]*packet.Config{
		"legacy curves": {Algorithm: packet.PubKeyAlgoEdDSA, DefaultCipher: packet.CipherAES256},
		"version 6": {V6Keys: true, Algorithm: packet.PubKeyAlgoEd25519, DefaultCipher: packet.CipherAES256,
			AEADConfig: &packet.AEADConfig{}},
	} {
		t.Run(name+" signed", func(t *testing.T) { encrypttest.Run(t, kitHarness(t, cfg, true)) })
		t.Run(name+" unsigned", func(t *testing.T) { encrypttest.Run(t, kitHarness(t, cfg, false)) })
	}
}
