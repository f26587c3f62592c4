package pgp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/securemail"
)

// ErrNoSigner is what Options.SigningKey answers for a sender who has no key.
var ErrNoSigner = errors.New("pgp: sender has no signing key")

// Signing says what happens to mail whose sender has no signing key.
type Signing uint8

const (
	// SigningConfigured: where no signing key is configured at all, mail is encrypted only; where one is, a sender without
	// is held.
	SigningConfigured Signing = iota
	// SigningRequired: a sender without a key is held, also where none is configured.
	SigningRequired
	// SigningOptional: a sender without a key is encrypted only.
	SigningOptional
)

// privateKey reads a private key, binary or armored, that is not under a passphrase.
func privateKey(s securemail.Secret) (*openpgp.Entity, error) {
	raw, err := dearmor([]byte(s.Reveal()))
	if err != nil {
		return nil, err
	}
	e, err := readEntity(raw)
	if err != nil {
		return nil, err
	}
	if e.PrivateKey == nil {
		return nil, &KeyError{WhyNoPrivate, fingerprint(e.PrimaryKey)}
	}
	if e.PrivateKey.Encrypted {
		return nil, &KeyError{WhyLocked, fingerprint(e.PrimaryKey)}
	}
	for _, s := range e.Subkeys {
		if s.PrivateKey != nil && s.PrivateKey.Encrypted {
			return nil, &KeyError{WhyLocked, fingerprint(e.PrimaryKey)}
		}
	}
	return e, nil
}

// signingKey checks that e can sign now.
func signingKey(e *openpgp.Entity, cfg *packet.Config) error {
	if _, err := e.VerifyPrimaryKey(cfg.Now(), cfg); err != nil {
		return &KeyError{why(e, err, cfg.Now()), fingerprint(e.PrimaryKey)}
	}
	k, ok := e.SigningKey(cfg.Now(), cfg)
	if !ok || k.PrivateKey == nil || k.PrivateKey.Dummy() {
		return &KeyError{WhyNoSigning, fingerprint(e.PrimaryKey)}
	}
	return nil
}

// signer gives the entity that signs p, in memory of its own since go-crypto writes into it; nil: encrypt only.
func (e *Encryptor) signer(ctx context.Context, p *securemail.Parcel, cfg *packet.Config) (*openpgp.Entity, error) {
	secret, err := e.secret(ctx, p)
	if errors.Is(err, ErrNoSigner) {
		configured := e.o.SigningKey != nil || len(e.o.SigningKeys) > 0
		if e.o.Signing == SigningOptional || e.o.Signing == SigningConfigured && !configured {
			return nil, nil
		}
		return nil, fmt.Errorf("%w: %w", err, securemail.ErrHold)
	}
	if errors.Is(err, securemail.ErrNoKey) {
		return nil, holdSigner(err)
	}
	if err != nil {
		return nil, fmt.Errorf("pgp: signing key: %w", err)
	}
	entity, err := privateKey(secret)
	if err == nil {
		err = signingKey(entity, cfg)
	}
	if err != nil {
		return nil, holdSigner(err)
	}
	return entity, nil
}

// holdSigner makes ErrHold of a fault of the sender's own key, and keeps it from being taken for the recipient's, which
// would be ErrNoKey.
func holdSigner(err error) error {
	if k, ok := errors.AsType[*KeyError](err); ok {
		return fmt.Errorf("pgp: signing key unusable: %s: %w", k.Why, securemail.ErrHold)
	}
	return fmt.Errorf("pgp: signing key unusable: %w", securemail.ErrHold)
}

// secret finds the private key of p's author: by address, by domain, then the one for all.
func (e *Encryptor) secret(ctx context.Context, p *securemail.Parcel) (securemail.Secret, error) {
	if e.o.SigningKey != nil {
		return e.o.SigningKey(ctx, p.Slip)
	}
	from := p.From.Address
	for _, name := range []string{encrypt.Fold(from), "@" + from.Domain(), ""} {
		if s, ok := e.o.SigningKeys[name]; ok {
			return s, nil
		}
	}
	return securemail.Secret{}, ErrNoSigner
}

// checkSigners reads every configured key once, so that New can refuse, and gives a map by folded names.
func checkSigners(in map[string]securemail.Secret) (map[string]securemail.Secret, error) {
	out := map[string]securemail.Secret{}
	var faults []error
	for name, s := range in {
		folded, err := signerName(name)
		if _, twice := out[folded]; err == nil && twice {
			err = errors.New("pgp: options: SigningKeys: a name twice, in other case")
		}
		if err != nil {
			faults = append(faults, err)
		} else {
			out[folded] = s
		}
		if available() != nil {
			continue // nothing can be read; each Encrypt says so
		}
		entity, err := privateKey(s)
		if err == nil {
			err = signingKey(entity, config(never)) // what no time could mend
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("pgp: options: SigningKeys: %w", err))
		}
	}
	return out, errors.Join(faults...)
}

// never is the zero time, at which go-crypto leaves out the checks of time.
func never() time.Time { return time.Time{} }

// signerName folds an address, "@domain" or "".
func signerName(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	whole, isDomain := name, strings.HasPrefix(name, "@")
	if isDomain {
		whole = "x" + name
	}
	a, err := securemail.ParseAddress(whole)
	if err != nil {
		return "", errors.New("pgp: options: SigningKeys: neither an address, nor @domain, nor empty")
	}
	if isDomain {
		return "@" + a.Domain(), nil
	}
	return encrypt.Fold(a), nil
}
