// Package dkim signs messages with DomainKeys Identified Mail (RFC 6376), with RSA and Ed25519 keys (RFC 8463) that
// change by date, and prints and checks the DNS records that receivers need. It stands alone: a mail program of any kind
// can use it.
//
// [New] takes the keys of all domains; [Signer.Sign] reads a message once, streaming, and gives the header fields to put
// before it. Where a domain has several keys that are valid now, each makes a signature: so an RSA key and an Ed25519 key
// sign side by side, and two keys overlap while one takes over from the other. transport.DKIM makes a securemail.Signer
// of a Signer.
//
// # Rotation
//
// Publish the new key's record ([Key.RecordName], [Record]), check it ([CheckPublished]), give the key a NotBefore some
// days ahead and the old one a NotAfter some days behind that. Leave the old record in DNS for a week more: mail under
// way is still verified.
//
// # Security properties
//
// Signatures are relaxed/relaxed with SHA-256 and cover the whole body: there is no l=. From, Reply-To, Subject, To and
// Cc are signed once more often than they are there, so that none can be added; so is every other signed field that is
// there. List-Unsubscribe and List-Unsubscribe-Post are signed, as RFC 8058 section 4 asks. RSA keys under 2,048 bits are
// refused. Errors hold no addresses and no content.
//
// A signature proves a domain to the receiver. It does not encrypt, and a mail that is not signed is no less
// confidential, only less likely to arrive.
//
// # What it does not do
//
// It does not fetch keys from anywhere, judge DMARC, or sign ARC. Canonical forms and signatures are go-msgauth's.
package dkim
