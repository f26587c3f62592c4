// Package timestamp gets time stamps of RFC 3161 from a time stamp authority (TSA), and verifies them offline, years later.
//
// A stamp is the signed word of somebody else that a digest existed at a time. The audit log has the first checkpoint of
// each day stamped (audit.Options.Stamper), so that neither who holds the log's key nor a wrong clock can date a history
// back: [New] makes the [Client] for that. [Verify] checks a stored stamp with nothing but the roots that are trusted; so does
// `openssl ts -verify -token_in`.
//
// # What is checked
//
// All of RFC 3161 and RFC 5816: one signer; the signed attributes content type, message digest and signing certificate
// (ESSCertID or ESSCertIDv2), each once; the digest, and in an answer its nonce and the policy that was asked for; the TSA's
// certificate: valid at the time of the stamp, up to a trusted root, its extended key usage critical and time stamping alone.
// Signatures: RSA of 2048 bits or more with PKCS #1 v1.5, or ECDSA on NIST's curves, with SHA-256, SHA-384 or SHA-512. Where only
// approved algorithms may run (GODEBUG=fips140=only) ESSCertID, which is over SHA-1, is refused.
//
// A token is DER, at most 64 KiB, and is read without recursion; another form is refused.
//
// # What it does not do
//
// Whether the TSA's certificate was revoked is not asked: a stamp is to be checked without a network. A TSA whose key was
// stolen can date back; ask two of them where that matters. Stamps are not renewed before their algorithms grow weak
// (todo(RFC 4998)). RSA-PSS and EdDSA signers are refused.
package timestamp
