package pgp

import (
	"bytes"
	"errors"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/postseal/postseal/securemail"
)

// GenerateKey makes a key pair of version 4 with the legacy Ed25519 and Curve25519 algorithms, which every program in use
// reads (GnuPG 2.2 knows no newer form), without expiry and without a passphrase. It gives the private key in armor and the
// certificate. The user id is "name <address>"; a name with any of ()<> or NUL is refused. For tests, first steps and
// signing keys of an organisation.
func GenerateKey(name string, address securemail.Address) (securemail.Secret, securemail.Key, error) {
	if err := available(); err != nil {
		return securemail.Secret{}, securemail.Key{}, err
	}
	cfg := config(time.Now)
	e, err := openpgp.NewEntity(name, "", address.Reveal(), cfg)
	if err != nil {
		return securemail.Secret{}, securemail.Key{}, errors.New("pgp: generate key: name or address not allowed in a user id")
	}
	var public, private bytes.Buffer
	w, err := armor.Encode(&private, openpgp.PrivateKeyType, nil)
	if err == nil {
		err = errors.Join(e.SerializePrivateWithoutSigning(w, cfg), w.Close(), e.Serialize(&public))
	}
	if err != nil {
		return securemail.Secret{}, securemail.Key{}, errors.New("pgp: generate key: encode")
	}
	key, err := ParseKey(public.Bytes())
	if err != nil {
		return securemail.Secret{}, securemail.Key{}, err
	}
	return securemail.NewSecret(private.String()), key, nil
}
