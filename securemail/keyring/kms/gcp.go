package kms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/crc32"
	"net/http"
	"regexp"

	"github.com/postseal/postseal/securemail/keyring"
)

// GCPOptions configure a GCP.
type GCPOptions struct {
	// AssociatedData is bound to what is sealed; nil: "postseal key ring". It must stay the same as long as the ring.
	AssociatedData []byte
	Options
}

// GCP is a symmetric key of Google Cloud KMS (cloud.google.com/kms/docs/reference/rest). Wrap seals under the key's primary
// version; after a rotation, and keyring's RotateRoot, older versions may be disabled. Both ways every field is checked by
// CRC32C, as Google asks (cloud.google.com/kms/docs/data-integrity-guidelines).
type GCP struct {
	c     *client
	key   string
	token Token
	aad   []byte
}

var _ keyring.Root = (*GCP)(nil)

var gcpKey = regexp.MustCompile(`^projects/[a-zA-Z0-9._:-]+/locations/[a-zA-Z0-9-]+/keyRings/[a-zA-Z0-9_-]+/cryptoKeys/[a-zA-Z0-9_-]+$`)

// NewGCP returns the key "projects/P/locations/L/keyRings/R/cryptoKeys/K". The token, with the scope cloudkms, needs
// cloudkms.cryptoKeyVersions.useToEncrypt and useToDecrypt. A nil o is the zero GCPOptions.
func NewGCP(key string, token Token, o *GCPOptions) (*GCP, error) {
	if o == nil {
		o = &GCPOptions{}
	}
	g := &GCP{key: key, token: token, aad: bytes.Clone(o.AssociatedData)}
	if g.aad == nil {
		g.aad = []byte("postseal key ring")
	}
	var errs []error
	if !gcpKey.MatchString(key) {
		errs = append(errs, errors.New("kms: gcp: the key must be projects/P/locations/L/keyRings/R/cryptoKeys/K"))
	}
	if token == nil {
		errs = append(errs, errors.New("kms: gcp: a token function is required"))
	}
	c, err := newClient("gcp", "https://cloudkms.googleapis.com", &o.Options)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	c.judge = judgeGCP
	g.c = c
	return g, nil
}

// checksum is CRC32C as the service writes it: an int64, so in JSON a text.
type checksum int64

func crc32c(b []byte) checksum { return checksum(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))) }

type gcpRequest struct {
	Plaintext     []byte    `json:"plaintext,omitempty"`
	Ciphertext    []byte    `json:"ciphertext,omitempty"`
	AAD           []byte    `json:"additionalAuthenticatedData,omitempty"`
	PlaintextCRC  *checksum `json:"plaintextCrc32c,omitempty,string"`
	CiphertextCRC *checksum `json:"ciphertextCrc32c,omitempty,string"`
	AADCRC        *checksum `json:"additionalAuthenticatedDataCrc32c,omitempty,string"`
}

type gcpAnswer struct {
	Name          string    `json:"name"`
	Plaintext     []byte    `json:"plaintext"`
	Ciphertext    []byte    `json:"ciphertext"`
	PlaintextCRC  *checksum `json:"plaintextCrc32c,string"`
	CiphertextCRC *checksum `json:"ciphertextCrc32c,string"`
	PlaintextOK   bool      `json:"verifiedPlaintextCrc32c"`
	AADOK         bool      `json:"verifiedAdditionalAuthenticatedDataCrc32c"`
}

// errChecksum counts as damage on the way, so that the request is sent again.
var errChecksum = errors.New("checksums of request and answer don't agree")

// Wrap implements [keyring.Root].
func (g *GCP) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	var sealed []byte
	sum := crc32c(key)
	err := g.ask(ctx, "encrypt", gcpRequest{Plaintext: key, PlaintextCRC: &sum}, func(a *gcpAnswer) error {
		switch {
		case len(a.Ciphertext) == 0 || a.CiphertextCRC == nil:
			return errAnswer
		case !a.PlaintextOK || !a.AADOK || *a.CiphertextCRC != crc32c(a.Ciphertext):
			return errChecksum
		}
		sealed = a.Ciphertext
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sealed, nil
}

// Unwrap implements [keyring.Root].
func (g *GCP) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	var key []byte
	sum := crc32c(wrapped)
	err := g.ask(ctx, "decrypt", gcpRequest{Ciphertext: wrapped, CiphertextCRC: &sum}, func(a *gcpAnswer) error {
		switch {
		case len(a.Plaintext) == 0 || a.PlaintextCRC == nil:
			return errAnswer
		case *a.PlaintextCRC != crc32c(a.Plaintext):
			return errChecksum
		}
		key = a.Plaintext
		return nil
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

func (g *GCP) ask(ctx context.Context, op string, q gcpRequest, take func(*gcpAnswer) error) error {
	sum := crc32c(g.aad)
	q.AAD, q.AADCRC = g.aad, &sum
	return g.c.do(ctx, call{
		op: op, path: "/v1/" + g.key + ":" + op, body: q,
		prepare: func(ctx context.Context, r *http.Request, _ []byte) error {
			t, err := tokenOf(ctx, g.token)
			if err != nil {
				return err
			}
			r.Header.Set("Authorization", "Bearer "+t)
			return nil
		},
		accept: func(b []byte) error {
			var a gcpAnswer
			if json.Unmarshal(b, &a) != nil {
				return errAnswer
			}
			return take(&a)
		},
	})
}

// judgeGCP reads {"error": {"status": ...}}, whose status is a google.rpc.Code (cloud.google.com/apis/design/errors).
func judgeGCP(op string, status int, _ http.Header, body []byte) (string, error) {
	var e struct {
		Error struct {
			Status string `json:"status"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &e) // not JSON: judged by its HTTP status
	switch code := e.Error.Status; code {
	case "FAILED_PRECONDITION", "NOT_FOUND":
		return code, keyring.ErrLost // the version is disabled, scheduled for destruction, or destroyed
	case "PERMISSION_DENIED", "UNAUTHENTICATED":
		return code, keyring.ErrDenied
	case "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED", "UNKNOWN", "CANCELLED":
		return code, keyring.ErrUnavailable
	case "INVALID_ARGUMENT":
		if op == "decrypt" {
			return code, keyring.ErrCorrupt
		}
		return code, nil
	default:
		return code, byStatus(status)
	}
}
