package pgp

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/postseal/postseal/securemail"
)

// defaultMaxSize bounds an opened payload, in octets.
const defaultMaxSize = 64 << 20

// The errors of Open that a caller can branch on.
var (
	// ErrNotPGP says that the message is no OpenPGP/MIME encrypted message (RFC 3156 section 4).
	ErrNotPGP = errors.New("pgp: not an OpenPGP/MIME encrypted message")
	// ErrOpen says that it could not be opened: no private key fits, it was changed on the way, has no integrity
	// protection, or asks for too much work. It is one error on purpose: an answer that tells these apart helps who changes messages.
	ErrOpen = errors.New("pgp: message can't be opened")
)

// Authenticity says what a signature proves.
type Authenticity uint8

const (
	// Unsigned: there is no signature.
	Unsigned Authenticity = iota
	// SignerUnknown: it is signed by none of OpenOptions.Signers.
	SignerUnknown
	// SignatureBad: a signature by a known signer does not hold, or names other recipients.
	SignatureBad
	// SignatureGood: the whole payload is what Opened.Signer signed.
	SignatureGood
)

// OpenOptions are what [Open] opens with.
type OpenOptions struct {
	// Keys are private keys, armored or binary, under no passphrase.
	Keys []securemail.Secret
	// Signers are the certificates whose signatures count, in Public[0], which may be armored here; they need not be able to
	// encrypt. Whether one belongs to the From is the caller's to judge.
	Signers []securemail.Key
	// MaxSize bounds the payload, in octets; 0: 64 MiB.
	MaxSize int64
	// Now nil: time.Now. A key or signature that has expired by then still opens and verifies what was made before.
	Now func() time.Time
}

// Opened is what was inside. Only Payload is covered by integrity and signature; the outer header is not.
type Opened struct {
	// Payload is the MIME entity: its header, with the protected fields, and its body. See encrypt.Restore.
	Payload securemail.Source
	// Authenticity says what is proved about it; Signer is the fingerprint of the signer's certificate, only with
	// SignatureGood; SignedAt is what he states.
	Authenticity Authenticity
	Signer       string
	SignedAt     time.Time
	// Key is the fingerprint of the certificate that it was opened with; Algorithm is the cipher, such as "AES-256".
	Key, Algorithm string
}

// Open decrypts an OpenPGP/MIME message (RFC 3156 section 4) in memory and verifies the signature inside. It takes the whole
// message only, never an encrypted part among others, and gives nothing out before all of it is proved unchanged (EFAIL; RFC
// 9580 section 13.7). A bad signature is no error: Authenticity says so. A message of more than 100 session keys and
// signatures is [ErrOpen].
//
// Errors: those of ctx, [ErrNotPGP], [ErrOpen], a [*KeyError] for o, and encrypt.ErrUnavailable. None holds content.
func Open(ctx context.Context, m *securemail.Message, o *OpenOptions) (*Opened, error) {
	if err := errors.Join(ctx.Err(), available()); err != nil {
		return nil, err
	}
	opt := OpenOptions{}
	if o != nil {
		opt = *o
	}
	if opt.MaxSize <= 0 {
		opt.MaxSize = defaultMaxSize
	}
	ring, err := keyring(&opt)
	if err != nil {
		return nil, err
	}
	sealed, err := encryptedPart(m)
	if err != nil {
		return nil, err
	}
	cfg := config(opt.Now)
	cfg.MaxDecompressedMessageSize = &opt.MaxSize
	md, plain, err := read(&ctxReader{ctx, sealed}, ring, cfg)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return opened(md, plain, ring.signers), nil
}

// read decrypts and verifies. Its one error is ErrOpen.
func read(sealed io.Reader, r *ring, cfg *packet.Config) (md *openpgp.MessageDetails, plain []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			if p != errLookups {
				panic(p)
			}
			md, plain, err = nil, nil, ErrOpen
		}
	}()
	limit := *cfg.MaxDecompressedMessageSize
	md, err = openpgp.ReadMessage(sealed, r, nil, cfg)
	if err != nil || !md.IsEncrypted || md.IsSymmetricallyEncrypted {
		return nil, nil, ErrOpen
	}
	plain, err = io.ReadAll(io.LimitReader(md.UnverifiedBody, limit+1))
	if err != nil || int64(len(plain)) > limit {
		return nil, nil, ErrOpen
	}
	return md, plain, nil
}

// ctxReader ends with ctx: what is read from it takes long, and go-crypto knows no ctx.
type ctxReader struct {
	ctx context.Context
	io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// opened reads the result, which is complete only now that the body was read to its end.
func opened(md *openpgp.MessageDetails, plain []byte, signers openpgp.EntityList) *Opened {
	r := &Opened{
		Payload:   securemail.Bytes(plain),
		Key:       fingerprint(md.DecryptedWith.Entity.PrimaryKey),
		Algorithm: cipherName(md.DecryptedWithAlgorithm),
	}
	switch {
	case !md.IsSigned:
		r.Authenticity = Unsigned
	case errors.Is(md.SignatureError, pgperrors.ErrUnknownIssuer):
		r.Authenticity = SignerUnknown
	case md.SignatureError != nil || md.SignedBy == nil || md.Signature == nil:
		r.Authenticity = SignatureBad
	case !slices.Contains(signers, md.SignedBy.Entity):
		r.Authenticity = SignerUnknown // by a key to open with, which says nothing about a sender
	default:
		r.Authenticity = SignatureGood
		r.Signer = fingerprint(md.SignedBy.Entity.PrimaryKey)
		r.SignedAt = md.Signature.CreationTime.UTC()
	}
	return r
}

// maxLookups bounds the session keys and the signatures of a message together: each session key costs a private operation,
// each signature a hash of everything, and go-crypto's work grows with the square of their number.
const maxLookups = 100

// errLookups is a ring's panic, which read recovers: go-crypto gives a key ring no other way to end a message.
var errLookups = errors.New("pgp: too many session keys or signatures")

// ring keeps private keys to open with apart from certificates to verify with: go-crypto asks one for both. It serves one
// message.
type ring struct {
	own, signers openpgp.EntityList
	lookups      int
}

//lint:ignore ST1003 the interface is go-crypto's
func (r *ring) KeysById(id uint64) []openpgp.Key { return r.own.KeysById(id) }

//lint:ignore ST1003 the interface is go-crypto's
func (r *ring) EntitiesById(id uint64) []*openpgp.Entity {
	if r.lookups++; r.lookups > maxLookups {
		panic(errLookups)
	}
	// the signers first: go-crypto verifies with the first one only
	return append(r.signers.EntitiesById(id), r.own.EntitiesById(id)...)
}

func keyring(o *OpenOptions) (*ring, error) {
	r := &ring{}
	for _, s := range o.Keys {
		e, err := privateKey(s)
		if err != nil {
			return nil, err
		}
		r.own = append(r.own, e)
	}
	for _, k := range o.Signers {
		if len(k.Public) == 0 {
			return nil, &KeyError{Why: WhyMalformed}
		}
		raw, err := dearmor(k.Public[0])
		if err != nil {
			return nil, err
		}
		e, err := readCert(raw)
		if err != nil {
			return nil, err
		}
		r.signers = append(r.signers, e)
	}
	return r, nil
}

// encryptedPart gives the second of exactly two parts, out of its armor.
func encryptedPart(m *securemail.Message) (io.Reader, error) {
	kind, params, err := mime.ParseMediaType(strings.Join(m.Header("Content-Type"), ","))
	if err != nil || kind != "multipart/encrypted" || !strings.EqualFold(params["protocol"], "application/pgp-encrypted") {
		return nil, ErrNotPGP
	}
	r, err := m.Body().Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	parts := multipart.NewReader(r, params["boundary"])
	if version, h, err := nextPart(parts); err != nil || !isType(h, "application/pgp-encrypted") || !isVersion1(version) {
		return nil, ErrNotPGP
	}
	data, h, err := nextPart(parts)
	if err != nil || !isType(h, "application/octet-stream") {
		return nil, ErrNotPGP
	}
	if _, _, err := nextPart(parts); err != io.EOF {
		return nil, ErrNotPGP
	}
	block, err := armor.Decode(bytes.NewReader(data))
	if err != nil || block.Type != openpgp.MessageType {
		return nil, ErrNotPGP
	}
	return block.Body, nil
}

// nextPart reads one part whole and takes its transfer encoding off. The message is bounded already.
func nextPart(r *multipart.Reader) ([]byte, textproto.MIMEHeader, error) {
	p, err := r.NextPart() // decodes quoted-printable
	if err != nil {
		return nil, nil, err
	}
	defer p.Close()
	var in io.Reader = p
	if strings.EqualFold(p.Header.Get("Content-Transfer-Encoding"), "base64") {
		in = base64.NewDecoder(base64.StdEncoding, p)
	}
	b, err := io.ReadAll(in)
	return b, p.Header, err
}

func isType(h textproto.MIMEHeader, want string) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && kind == want
}

// isVersion1 is RFC 3156 section 4: the part must contain the field Version with the value 1.
func isVersion1(part []byte) bool {
	for line := range bytes.Lines(part) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if bytes.EqualFold(bytes.TrimSpace(name), []byte("version")) {
			return string(bytes.TrimSpace(value)) == "1"
		}
	}
	return false
}
