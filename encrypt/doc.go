// Package encrypt holds what every message encryptor shares: the outer message that a sealed body travels in, the
// protected payload that is sealed, and [TLSOnly], the encryptor that leaves the message as it is.
//
// An encryptor for a sealing method (encrypt/pgp, encrypt/smime, encrypt/escrow) works in three steps: [Payload] gives
// the bytes to seal, the encryptor seals them, and [Outer] makes the message that leaves. [Restore] is Payload's
// inverse, for readers and tests.
//
// # Security properties
//
// Outer alone chooses the header of sealed mail, by a list of what may be seen, so that no contributor can leak a field
// by forgetting it. The subject becomes "[...]" in every language (RFC 9788 section 3.2.1, hcp_baseline). Bcc is in
// neither the outer header nor the payload; a recipient whom the visible header does not name sees himself alone on the
// outside. Errors hold no content and no address.
//
// # What it does not do
//
// It encrypts nothing. From, To, Cc, Date and Message-ID of sealed mail stay readable on the way, as hcp_baseline has
// it; hcp_shy, hcp_no_confidentiality and Legacy Display elements (RFC 9788 section 3) are not made yet.
package encrypt
