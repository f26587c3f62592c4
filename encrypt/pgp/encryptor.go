package pgp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/securemail"
)

// chunk is how much plaintext goes to go-crypto at once: a single large Write costs three times its size.
const chunk = 32 << 10

// Options are what an [Encryptor] can be told. Nil is the zero value: encrypt only.
type Options struct {
	// SigningKeys are private keys, armored or binary and under no passphrase, by whom they sign for: an address
	// ("anna@example.org"), a domain ("@example.org"), or "" for everybody; the first that fits in this order. Case does not
	// matter. Ignored where SigningKey is set. New copies the map.
	SigningKeys map[string]securemail.Secret
	// SigningKey asks the host, who may go by Actor.Tenant as well. [ErrNoSigner]: this sender has none; any other error stops
	// the attempt. Called from many goroutines.
	SigningKey func(ctx context.Context, s securemail.Slip) (securemail.Secret, error)
	// Signing is what becomes of a sender without a key; zero: encrypt only where no key is configured at all, else held.
	Signing Signing
	// Now nil: time.Now.
	Now func() time.Time
}

// Encryptor is the Encryptor of [securemail.MethodPGP]. It is safe for concurrent use and leaves nothing behind.
type Encryptor struct{ o Options }

var _ securemail.Encryptor = (*Encryptor)(nil)

// New checks o, every fault at once, and makes an Encryptor. Nil options: encrypt only. A signing key that can't be read or
// can't sign is an error; one that expires holds its sender's mail from then on.
func New(o *Options) (*Encryptor, error) {
	e := &Encryptor{}
	if o != nil {
		e.o = *o
	}
	if e.o.Now == nil {
		e.o.Now = time.Now
	}
	var err error
	e.o.SigningKeys, err = checkSigners(e.o.SigningKeys)
	faults := []error{err}
	if e.o.Signing > SigningOptional {
		faults = append(faults, errors.New("pgp: options: unknown Signing"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return e, nil
}

// Method is [securemail.MethodPGP].
func (e *Encryptor) Method() securemail.Method { return securemail.MethodPGP }

// Undo is nil: nothing is left behind.
func (e *Encryptor) Undo(context.Context, securemail.ParcelID) error { return nil }

// Encrypt seals j to each usable key of j.Keys that is of this method, as multipart/encrypted (RFC 3156 section 4) with
// the signature inside (section 6.2). The header is that of [encrypt.Outer].
//
// Protection.Algorithm is such as "OpenPGP SEIPDv1 AES-256 ECDH-Curve25519"; Keys are the certificates' fingerprints;
// Detail has "subkey" (fingerprints, comma between), "signer" (fingerprint, or "none") and "hp" ("hcp_baseline").
//
// No key, or none usable, is [securemail.ErrNoKey], with a [*KeyError] a key; a sender who must sign and can't is
// [securemail.ErrHold]. Memory: about three times the message.
func (e *Encryptor) Encrypt(ctx context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	if err := errors.Join(ctx.Err(), available()); err != nil {
		return nil, err
	}
	now := e.o.Now() // read once: a key that ends in the middle must not be named for one that was used
	cfg := config(func() time.Time { return now })
	to, err := recipients(j.Keys, cfg)
	if err != nil {
		return nil, err
	}
	payload, err := encrypt.Payload(j.Parcel)
	if err != nil {
		return nil, err
	}
	signer, err := e.signer(ctx, j.Parcel, cfg)
	if err != nil {
		return nil, err
	}
	body := newBody(payload.Size())
	if err := seal(ctx, body, payload, &sealing{to: to, signer: signer, cfg: cfg}); err != nil {
		return nil, err
	}
	m, err := encrypt.Outer(j.Parcel, body.content())
	if err != nil {
		return nil, err
	}
	return &securemail.Sealed{Message: m, Protection: protection(to, signer)}, nil
}

// recipients reads the certificates, each call anew: go-crypto writes what it has verified into an entity, so that none may
// be shared between goroutines.
func recipients(keys []securemail.Key, cfg *packet.Config) ([]openpgp.Key, error) {
	var to []openpgp.Key
	var faults []error
	for _, k := range keys {
		if k.Method != securemail.MethodPGP {
			continue
		}
		sub, err := recipient(k, cfg)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		to = append(to, sub)
	}
	switch {
	case len(to) > 0:
		return to, nil
	case len(faults) > 0:
		return nil, fmt.Errorf("pgp: no key is usable: %w", errors.Join(faults...))
	}
	return nil, fmt.Errorf("pgp: no key given: %w", securemail.ErrNoKey)
}

func recipient(k securemail.Key, cfg *packet.Config) (openpgp.Key, error) {
	if len(k.Public) == 0 || len(k.Public[0]) > maxCert {
		return openpgp.Key{}, &KeyError{Why: WhyMalformed}
	}
	e, err := readCert(bytes.Clone(k.Public[0]))
	if err != nil {
		return openpgp.Key{}, err
	}
	if fp := fingerprint(e.PrimaryKey); k.Fingerprint != "" && !strings.EqualFold(fp, k.Fingerprint) {
		return openpgp.Key{}, &KeyError{WhyMismatch, fp}
	}
	return usable(e, cfg)
}

// sealing is what one OpenPGP message is made with.
type sealing struct {
	to     []openpgp.Key
	signer *openpgp.Entity // nil: not signed
	cfg    *packet.Config
}

// seal writes payload as one OpenPGP message.
func seal(ctx context.Context, w io.Writer, payload securemail.Source, s *sealing) error {
	out := newArmor(w, !seipd2(s.to))
	params := &openpgp.EncryptParams{Config: s.cfg, Hints: &openpgp.FileHints{}} // no name, no time
	if s.signer != nil {
		params.Signers = []*openpgp.Entity{s.signer}
	}
	var to []*openpgp.Entity
	for _, k := range s.to {
		to = append(to, k.Entity)
	}
	plain, err := openpgp.EncryptWithParams(out, to, nil, params)
	if err != nil {
		return errors.New("pgp: encrypt: the library refused") // its text may quote a user id
	}
	if err := copyChunks(ctx, plain, payload); err != nil {
		return err
	}
	if err := plain.Close(); err != nil {
		return errors.New("pgp: encrypt: sign or finish")
	}
	return out.Close()
}

func copyChunks(ctx context.Context, w io.Writer, s securemail.Source) error {
	r, err := s.Open()
	if err != nil {
		return fmt.Errorf("pgp: read message: %w", err)
	}
	defer r.Close()
	buf := make([]byte, chunk)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return errors.New("pgp: encrypt: write")
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("pgp: read message: %w", err)
		}
	}
}

func protection(to []openpgp.Key, signer *openpgp.Entity) securemail.Protection {
	p := securemail.Protection{Algorithm: "OpenPGP " + suite(to), Detail: map[string]string{"signer": "none", "hp": "hcp_baseline"}}
	var subkeys []string
	for _, k := range to {
		p.Keys = append(p.Keys, fingerprint(k.Entity.PrimaryKey))
		subkeys = append(subkeys, fingerprint(k.PublicKey))
		p.Algorithm += " " + keyName(k.PublicKey)
	}
	p.Detail["subkey"] = strings.Join(subkeys, ",")
	if signer != nil {
		p.Detail["signer"] = fingerprint(signer.PrimaryKey)
	}
	return p
}
