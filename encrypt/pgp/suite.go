package pgp

import (
	"slices"
	"strconv"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// suite names what go-crypto will use for these recipients: it follows the preferences of RFC 9580 section 5.2.3.14 and
// 5.2.3.15 as openpgp/v2's encrypt does. A test compares it with what the message then says.
func suite(to []openpgp.Key) string {
	aead := seipd2(to)
	aes256 := true
	suites := [][2]uint8{
		{uint8(packet.CipherAES256), uint8(packet.AEADModeGCM)}, {uint8(packet.CipherAES256), uint8(packet.AEADModeEAX)},
		{uint8(packet.CipherAES256), uint8(packet.AEADModeOCB)}, {uint8(packet.CipherAES128), uint8(packet.AEADModeGCM)},
		{uint8(packet.CipherAES128), uint8(packet.AEADModeEAX)}, {uint8(packet.CipherAES128), uint8(packet.AEADModeOCB)},
	}
	pq := true
	for _, k := range to {
		sig := k.PrimarySelfSignature
		aes256 = aes256 && slices.Contains(sig.PreferredSymmetric, uint8(packet.CipherAES256))
		suites = slices.DeleteFunc(suites, func(s [2]uint8) bool { return !slices.Contains(sig.PreferredCipherSuites, s) })
		pq = pq && k.PublicKey.IsPQ()
	}
	switch {
	case aead && len(suites) > 0:
		return "SEIPDv2 " + cipherName(packet.CipherFunction(suites[0][0])) + "-" + modeName(packet.AEADMode(suites[0][1]))
	case aead && pq:
		return "SEIPDv2 AES-256-OCB"
	case aead:
		return "SEIPDv2 AES-128-OCB"
	case aes256:
		return "SEIPDv1 AES-256"
	}
	return "SEIPDv1 AES-128"
}

// seipd2 says that every key takes SEIPD version 2.
func seipd2(to []openpgp.Key) bool {
	return !slices.ContainsFunc(to, func(k openpgp.Key) bool { return !k.PrimarySelfSignature.SEIPDv2 })
}

func cipherName(c packet.CipherFunction) string {
	switch c {
	case packet.CipherAES256:
		return "AES-256"
	case packet.CipherAES192:
		return "AES-192"
	case packet.CipherAES128:
		return "AES-128"
	}
	return "legacy" // CAST5 or 3DES, in messages of others
}

func modeName(m packet.AEADMode) string {
	switch m {
	case packet.AEADModeGCM:
		return "GCM"
	case packet.AEADModeEAX:
		return "EAX"
	}
	return "OCB"
}

// keyName names the public-key algorithm, such as "ECDH-Curve25519" or "RSA-3072".
func keyName(pk *packet.PublicKey) string {
	switch pk.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSAEncryptOnly:
		n, _ := pk.BitLength() // can't fail for RSA
		return "RSA-" + strconv.Itoa(int(n))
	case packet.PubKeyAlgoECDH:
		c, _ := pk.Curve() // checked when it was chosen
		return "ECDH-" + string(c)
	case packet.PubKeyAlgoX25519:
		return "X25519"
	case packet.PubKeyAlgoX448:
		return "X448"
	case packet.PubKeyAlgoMlkem768X25519:
		return "ML-KEM-768+X25519"
	case packet.PubKeyAlgoMlkem1024X448:
		return "ML-KEM-1024+X448"
	}
	return "algorithm-" + strconv.Itoa(int(pk.PubKeyAlgo))
}
