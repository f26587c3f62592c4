package pgp

import (
	"bytes"
	"crypto"
	"crypto/fips140"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/securemail"
)

// Limits of a certificate or private key: octets, signatures that have to be verified, and bits of an RSA modulus. More
// only costs time.
const (
	maxCert       = 1 << 20
	maxSignatures = 1000
	minRSABits    = 2048
	maxRSABits    = 16384
)

// Why says what is wrong with a certificate.
type Why string

// The reasons of a [*KeyError].
const (
	WhyMalformed    Why = "malformed"       // no OpenPGP certificate, a broken key in it, over 1 MiB, or over 1,000 self-signatures
	WhyPrivate      Why = "private"         // a private key where a certificate was expected
	WhySeveral      Why = "several"         // more than one certificate
	WhyMismatch     Why = "mismatch"        // not the certificate that Key.Fingerprint names
	WhyUnbound      Why = "unbound"         // no valid self-signature, or every user id revoked
	WhyExpired      Why = "expired"         // the key or its self-signature
	WhyFuture       Why = "future"          // not valid yet
	WhyRevoked      Why = "revoked"         // the key, or its only encryption subkey
	WhyWeak         Why = "weak"            // SHA-1 or MD5 binding, DSA, ElGamal, secp256k1, RSA outside 2,048 to 16,384 bits
	WhyNoEncryption Why = "no-encryption"   // no key in it may encrypt; ElGamal, DSA and RSA subkeys out of bounds do not count
	WhyNoSigning    Why = "no-signing"      // no key in it may sign
	WhyLocked       Why = "locked"          // a private key under a passphrase
	WhyNoPrivate    Why = "no-private-part" // a certificate where a private key was expected
)

// KeyError says why a key can't be used. It Is [securemail.ErrNoKey].
type KeyError struct {
	Why Why
	// Fingerprint is the certificate's, "" where it could not be read.
	Fingerprint string
}

// Error names the reason, not the key: a fingerprint leads to a person.
func (e *KeyError) Error() string { return "pgp: key unusable: " + string(e.Why) }

// Is makes errors.Is(err, securemail.ErrNoKey) true.
func (e *KeyError) Is(target error) bool { return target == securemail.ErrNoKey }

// available guards go-crypto, which panics where SHA-1 is refused.
func available() error {
	if fips140.Enforced() {
		return encrypt.ErrUnavailable
	}
	return nil
}

// config is the one place where go-crypto is told what we want. A nil now is [time.Now].
func config(now func() time.Time) *packet.Config {
	return &packet.Config{
		Time: now,
		// zero would be AES-128 although the recipient takes AES-256
		DefaultCipher:           packet.CipherAES256,
		DefaultHash:             crypto.SHA256,
		DefaultCompressionAlgo:  packet.CompressionNone,
		MinRSABits:              minRSABits,
		Algorithm:               packet.PubKeyAlgoEdDSA,
		Curve:                   packet.Curve25519,
		CheckIntendedRecipients: packet.BoolPointer(true),
		CheckPacketSequence:     packet.BoolPointer(true),
		RejectHashAlgorithms:    map[crypto.Hash]bool{crypto.SHA1: true, crypto.MD5: true, crypto.RIPEMD160: true},
	}
}

// ParseKey reads one OpenPGP certificate, binary or armored, of at most 1 MiB, and gives it as a [securemail.Key] with
// Fingerprint, NotAfter (zero: none) and the binary form in Public. Origin and Trust are the caller's to set.
//
// A certificate that no time could make usable is a [*KeyError]: malformed, several at once, a private key, no encryption key,
// revoked, weak. An expired one is given, with its NotAfter. It does not keep b or write into it, and never panics.
func ParseKey(b []byte) (securemail.Key, error) {
	if err := available(); err != nil {
		return securemail.Key{}, err
	}
	raw, err := dearmor(b)
	if err != nil {
		return securemail.Key{}, err
	}
	e, err := readCert(raw)
	if err != nil {
		return securemail.Key{}, err
	}
	key := securemail.Key{Method: securemail.MethodPGP, Fingerprint: fingerprint(e.PrimaryKey), Public: [][]byte{raw}}
	forever := config(time.Now)
	sub, err := e.EncryptionKeyWithError(time.Time{}, forever) // the zero time: checks of time are left out
	if err != nil {
		return securemail.Key{}, &KeyError{why(e, err, time.Time{}), key.Fingerprint}
	}
	if err := sealable(sub, forever); err != nil {
		return securemail.Key{}, err
	}
	key.NotAfter = earlier(expiry(e.PrimaryKey, sub.PrimarySelfSignature), latestSubkey(e, sub, forever))
	return key, nil
}

// dearmor gives the binary form, in memory of its own.
func dearmor(b []byte) ([]byte, error) {
	if len(b) > maxCert {
		return nil, &KeyError{Why: WhyMalformed}
	}
	// the first octet of a binary certificate has bit 7 set (RFC 9580 section 4.2)
	if len(b) == 0 || b[0]&0x80 != 0 {
		return bytes.Clone(b), nil
	}
	block, err := armor.Decode(bytes.NewReader(b))
	if err != nil || (block.Type != openpgp.PublicKeyType && block.Type != openpgp.PrivateKeyType) {
		return nil, &KeyError{Why: WhyMalformed}
	}
	raw, err := io.ReadAll(block.Body)
	if err != nil {
		return nil, &KeyError{Why: WhyMalformed}
	}
	return raw, nil
}

// readEntity reads exactly one certificate or private key.
func readEntity(raw []byte) (*openpgp.Entity, error) {
	packets := packet.NewReader(bytes.NewReader(raw))
	e, err := openpgp.ReadEntity(packets)
	if err != nil {
		return nil, &KeyError{Why: WhyMalformed}
	}
	if _, err := packets.Next(); err != io.EOF {
		return nil, &KeyError{Why: WhySeveral, Fingerprint: fingerprint(e.PrimaryKey)}
	}
	if signatures(e) > maxSignatures {
		return nil, &KeyError{WhyMalformed, fingerprint(e.PrimaryKey)}
	}
	if !fit(e.PrimaryKey) {
		return nil, &KeyError{WhyWeak, fingerprint(e.PrimaryKey)}
	}
	e.Subkeys = fitSubkeys(e.Subkeys)
	return e, nil
}

// signatures counts those that go-crypto verifies; what others certified is not among them.
func signatures(e *openpgp.Entity) int {
	n := len(e.DirectSignatures) + len(e.Revocations)
	for _, id := range e.Identities {
		n += len(id.SelfCertifications) + len(id.Revocations)
	}
	for _, s := range e.Subkeys {
		n += len(s.Bindings) + len(s.Revocations)
	}
	return n
}

func readCert(raw []byte) (*openpgp.Entity, error) {
	e, err := readEntity(raw)
	if err != nil {
		return nil, err
	}
	if e.PrivateKey != nil {
		return nil, &KeyError{WhyPrivate, fingerprint(e.PrimaryKey)}
	}
	return e, nil
}

// fit refuses moduli that only cost time, before anything is computed with them.
func fit(pk *packet.PublicKey) bool {
	switch pk.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSAEncryptOnly, packet.PubKeyAlgoRSASignOnly:
		n, err := pk.BitLength()
		return err == nil && n >= minRSABits && n <= maxRSABits
	case packet.PubKeyAlgoDSA, packet.PubKeyAlgoElGamal:
		return false
	}
	return true
}

func fitSubkeys(in []openpgp.Subkey) []openpgp.Subkey {
	var out []openpgp.Subkey
	for _, s := range in {
		if fit(s.PublicKey) {
			out = append(out, s)
		}
	}
	return out
}

// usable says whether mail can be encrypted to e now.
func usable(e *openpgp.Entity, cfg *packet.Config) (openpgp.Key, error) {
	sub, err := e.EncryptionKeyWithError(cfg.Now(), cfg)
	if err != nil {
		return openpgp.Key{}, &KeyError{why(e, err, cfg.Now()), fingerprint(e.PrimaryKey)}
	}
	return sub, sealable(sub, cfg)
}

// sealable tries sub, since some faults show only in use, such as a point of low order. Found later they would be a fault
// of the message, and keep the recipient's other keys and the next Choice from it.
func sealable(sub openpgp.Key, cfg *packet.Config) error {
	if packet.SerializeEncryptedKeyAEAD(io.Discard, sub.PublicKey, packet.CipherAES256, false, make([]byte, 32), cfg) != nil {
		return &KeyError{WhyMalformed, fingerprint(sub.Entity.PrimaryKey)}
	}
	return nil
}

// why finds the reason behind go-crypto's error. At the zero time nothing is expired.
func why(e *openpgp.Entity, err error, now time.Time) Why {
	cause := err
	if sel, ok := errors.AsType[*pgperrors.ErrEncryptionKeySelection](err); ok {
		cause = errors.Join(sel.PrimaryKeyErr, sel.EncSelectionErr)
	} else if sel, ok := errors.AsType[pgperrors.ErrEncryptionKeySelection](err); ok {
		cause = errors.Join(sel.PrimaryKeyErr, sel.EncSelectionErr)
	}
	future := !now.IsZero() && e.PrimaryKey.CreationTime.After(now)
	_, isWeak := errors.AsType[pgperrors.WeakAlgorithmError](cause)
	switch {
	case future:
		return WhyFuture
	case errors.Is(cause, pgperrors.ErrKeyExpired):
		return WhyExpired
	case errors.Is(cause, pgperrors.ErrKeyRevoked):
		return WhyRevoked
	case isWeak:
		return WhyWeak
	}
	return whyUnbound(e, now)
}

// whyUnbound looks at the self-signatures where go-crypto found none that it takes, or no encryption key.
func whyUnbound(e *openpgp.Entity, now time.Time) Why {
	if _, err := e.PrimarySelfSignature(now, config(nil)); err != nil {
		var all []*packet.VerifiableSignature
		for _, id := range e.Identities {
			all = append(all, id.SelfCertifications...)
		}
		return whySignatures(append(all, e.DirectSignatures...), now)
	}
	for _, s := range e.Subkeys {
		if w := whySignatures(s.Bindings, now); w != WhyUnbound {
			return w
		}
	}
	return WhyNoEncryption
}

func whySignatures(sigs []*packet.VerifiableSignature, now time.Time) Why {
	w := WhyUnbound
	for _, s := range sigs {
		switch {
		case s.Packet.Hash == crypto.SHA1 || s.Packet.Hash == crypto.MD5:
			w = WhyWeak
		case !now.IsZero() && s.Packet.SigExpired(now) && w == WhyUnbound:
			w = WhyExpired
		}
	}
	return w
}

func fingerprint(pk *packet.PublicKey) string { return hex.EncodeToString(pk.Fingerprint) }

// expiry is when sig lets pk end; zero: never (RFC 9580 section 5.2.3.13).
func expiry(pk *packet.PublicKey, sig *packet.Signature) time.Time {
	if sig == nil || sig.KeyLifetimeSecs == nil || *sig.KeyLifetimeSecs == 0 {
		return time.Time{}
	}
	return pk.CreationTime.Add(time.Duration(*sig.KeyLifetimeSecs) * time.Second).UTC()
}

// latestSubkey is when the last of the encryption keys ends.
func latestSubkey(e *openpgp.Entity, chosen openpgp.Key, cfg *packet.Config) time.Time {
	if chosen.PublicKey == e.PrimaryKey {
		return time.Time{}
	}
	last := expiry(chosen.PublicKey, chosen.SelfSignature)
	for _, s := range e.Subkeys {
		sig, err := s.Verify(time.Time{}, cfg)
		if err != nil || !s.PublicKey.PubKeyAlgo.CanEncrypt() || !sig.FlagEncryptCommunications && !sig.FlagEncryptStorage {
			continue
		}
		end := expiry(s.PublicKey, sig)
		if last.IsZero() || end.IsZero() {
			return time.Time{}
		}
		if end.After(last) {
			last = end
		}
	}
	return last
}

// earlier is the earlier of two ends, where zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
