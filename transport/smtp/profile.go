package smtp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"slices"
)

// Profile is what a TLS session must be made of where a floor or a published policy asks for TLS. It is checked when the
// handshake ends, before any mail data, since a client can't leave out of its offer all that it will not have. A session
// that misses it is no TLS. Under ChannelAny, with no policy that binds, any TLS 1.2 or later that crypto/tls itself holds
// to be secure is better than clear text; the Receipt says what it was.
//
// securemail.Wire.Meets is the minimum that all transports share; the Profile is this transport's own, and stricter.
type Profile uint8

const (
	// NIST80052r2 is NIST SP 800-52 revision 2: TLS 1.2 or 1.3; AES in GCM, or in CBC with HMAC-SHA-1 under TLS 1.2, with
	// ephemeral keys of P-256, P-384, P-521, or one of them or X25519 together with ML-KEM (FIPS 203, SP 800-56C). Keys of
	// RSA 2048, P-224 or Ed25519 (FIPS 186-5) and up, and signatures with SHA-2. ChaCha20, plain X25519 and SHA-1
	// signatures are refused.
	//
	// A far end that prefers ChaCha20 to all else of TLS 1.3 is refused: crypto/tls offers it always. On a machine without AES
	// instructions it is even offered first; do not use such a one.
	NIST80052r2 Profile = iota
	// Strict is NIST80052r2 with authenticated encryption only: no CBC.
	Strict
)

// String is "nist-800-52r2" or "nist-strict".
func (p Profile) String() string {
	if p == Strict {
		return "nist-strict"
	}
	return "nist-800-52r2"
}

// ProfileError says which rule of a Profile a session broke: profile-version, profile-suite, profile-group, profile-key or
// profile-signature. It holds no text of the far end's.
type ProfileError struct{ Rule string }

// Error implements error.
func (e *ProfileError) Error() string { return "smtp: TLS outside the profile: " + e.Rule }

// The groups: those that a hello of classical size leaves out come first.
var (
	hybrids    = []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024}
	nistCurves = []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.CurveP521}
	gcmSuites  = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	}
	cbcSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
		tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	}
	suites13  = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384}
	allSuites = slices.Concat(gcmSuites, cbcSuites)
)

// suites are those of TLS 1.2 that the profile offers.
func (p Profile) suites() []uint16 {
	if p == Strict {
		return gcmSuites
	}
	return allSuites
}

// Verify holds a finished handshake against p: version, suite, group, and the keys and signatures of all certificates that
// the peer showed. The error is a *ProfileError.
func (p Profile) Verify(cs *tls.ConnectionState) error { return p.verify(cs, false) }

// verify looks at the peer's own key alone where bare says that the certificate is proved by a record or a pin of that key
// or certificate: then no signature is relied on (RFC 7671 section 5.1).
func (p Profile) verify(cs *tls.ConnectionState, bare bool) error {
	switch cs.Version {
	case tls.VersionTLS12:
		if !slices.Contains(p.suites(), cs.CipherSuite) {
			return &ProfileError{"profile-suite"}
		}
	case tls.VersionTLS13:
		if !slices.Contains(suites13, cs.CipherSuite) {
			return &ProfileError{"profile-suite"}
		}
	default:
		return &ProfileError{"profile-version"}
	}
	if !slices.Contains(hybrids, cs.CurveID) && !slices.Contains(nistCurves, cs.CurveID) {
		return &ProfileError{"profile-group"}
	}
	if len(cs.PeerCertificates) == 0 {
		return &ProfileError{"profile-key"}
	}
	for i, c := range cs.PeerCertificates {
		if bare && i > 0 {
			break
		}
		if !strongKey(c.PublicKey) {
			return &ProfileError{"profile-key"}
		}
		// What a certificate says of itself proves nothing, whatever the algorithm.
		own := bytes.Equal(c.RawIssuer, c.RawSubject)
		if !bare && !own && !strongSignature(c.SignatureAlgorithm) {
			return &ProfileError{"profile-signature"}
		}
	}
	return nil
}

// strongKey is SP 800-52 revision 2 section 3.2.1, SP 800-131A, and FIPS 186-5 for Ed25519.
func strongKey(key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= 2048
	case *ecdsa.PublicKey:
		return k.Curve.Params().BitSize >= 224
	case ed25519.PublicKey:
		return true
	}
	return false
}

func strongSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
		return true
	}
	return false
}

// offer sets what a hello offers. lax leaves the choice to crypto/tls; classical leaves the large groups out.
func (p Profile) offer(c *tls.Config, lax, classical bool) {
	switch {
	case lax && classical:
		c.CurvePreferences = append([]tls.CurveID{tls.X25519}, nistCurves...)
	case lax:
	case classical:
		c.CipherSuites, c.CurvePreferences = p.suites(), nistCurves
	default:
		c.CipherSuites, c.CurvePreferences = p.suites(), slices.Concat(hybrids, nistCurves)
	}
}
