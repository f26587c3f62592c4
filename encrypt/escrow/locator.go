package escrow

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Locator finds a deposit: 160 bits as 32 characters of [0-9a-v]. It is derived from the deposit's random data key, so
// that it can be made again, and is stored as a hash only. It is no credential.
type Locator string

const locatorSize = 20 // octets: over the 128 bits of OWASP ASVS 5.0 item 7.2.3

var (
	base32Hex  = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)
	errLocator = errors.New("escrow: malformed locator")
)

// ParseLocator reads a locator as it stands in a link: exactly 32 characters of [0-9a-v]. The error does not hold s.
func ParseLocator(s string) (Locator, error) {
	if len(s) != base32Hex.EncodedLen(locatorSize) {
		return "", errLocator
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'v') {
			return "", errLocator
		}
	}
	return Locator(s), nil
}

// Hash is what stores may keep of a locator.
func (l Locator) Hash() []byte {
	h := sha256.Sum256([]byte("postseal/escrow/locator/v1\x00" + l))
	return h[:]
}

func locatorOf(key []byte) (Locator, error) {
	b, err := hkdf.Expand(sha256.New, key, "postseal/escrow/v1/locator", locatorSize)
	if err != nil {
		return "", fmt.Errorf("escrow: derive locator: %w", err)
	}
	return Locator(base32Hex.EncodeToString(b)), nil
}

// fingerprintOf names a data key in the evidence without telling anything about it.
func fingerprintOf(key []byte) (string, error) {
	b, err := hkdf.Expand(sha256.New, key, "postseal/escrow/v1/fingerprint", sha256.Size)
	if err != nil {
		return "", fmt.Errorf("escrow: derive fingerprint: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// newID is 48 bits of milliseconds and 80 random bits, as a ParcelID is.
func newID(now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	_, _ = rand.Read(b[6:]) // never fails: crypto/rand
	return base32Hex.EncodeToString(b[:])
}

const (
	pepperScope = "escrow/pepper"
	decoyScope  = "escrow/decoy"
)

// TenantScope is the KeyRing scope that all deposits of a tenant share.
func TenantScope(tenant string) string { return "tenant/" + tenant }

// DepositScope is the KeyRing scope of one deposit.
func DepositScope(id string) string { return "deposit/" + id }

// SubjectScope is the KeyRing scope that all of a tenant's deposits about one person share. It names him to the KeyRing,
// which guards it like a key; it stands nowhere else. In a program of one tenant it is "subject/" and the subject, else
// "subject/", the tenant, "/" and the subject: two organisations may number their patients alike. A slash or percent
// sign in the tenant is escaped as in a URL's path, so that no tenant's subject is another's.
func SubjectScope(tenant string, s securemail.Subject) string {
	if tenant == "" {
		return "subject/" + string(s)
	}
	return "subject/" + strings.NewReplacer("%", "%25", "/", "%2F").Replace(tenant) + "/" + string(s)
}

func scopesOf(id string, s *securemail.Slip) []string {
	scopes := []string{TenantScope(s.Actor.Tenant), DepositScope(id)}
	for _, sub := range s.Subjects {
		if strings.TrimSpace(string(sub)) != "" {
			scopes = append(scopes, SubjectScope(s.Actor.Tenant, sub))
		}
	}
	return scopes
}
