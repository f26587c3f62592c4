// Package pgp protects mail by OpenPGP/MIME: one message, signed and encrypted, to the keys of one recipient (RFC 3156,
// RFC 9580).
//
// [New] makes the [Encryptor] for a Mailer. [ParseKey] reads a recipient's certificate for a KeySource. [Open] decrypts
// and verifies, for replies and tests. [GenerateKey] makes a key pair that every OpenPGP program can read.
//
// # Security properties
//
// Subject and every other field that hcp_baseline does not need outside travel inside (see package encrypt). The cipher is
// AES-256 wherever the recipient's key names it, and AES-128 otherwise, never an older one; integrity protection is always
// on (SEIPD version 1, version 2 where each key says that it can), nothing is compressed, the literal packet has no file name
// and no date, and a signature names the intended recipient, so that it can't be passed on under another envelope (RFC 9580
// section 5.2.3.36).
// Certificates that are expired, revoked, bound by SHA-1 or MD5 only, DSA, ElGamal, secp256k1, or RSA outside 2,048 to 16,384
// bits are refused by a [*KeyError], which is [securemail.ErrNoKey]. Errors hold no address, no user id and no content.
//
// Open gives out nothing before the integrity of everything is proved (EFAIL), reads no message without integrity
// protection, and has one error for all that can go wrong in decrypting.
//
// Under GODEBUG=fips140=only every call answers [encrypt.ErrUnavailable]: OpenPGP needs SHA-1 for its fingerprints.
//
// # What it does not do
//
// It looks up no key and judges no user id: that is the KeySource's part. It unlocks no key by a passphrase, and Open
// reads the combined form only, no multipart/signed inside (todo(RFC 3156 section 6.1)). Bodies with 8-bit text are signed as
// they are; a program that takes the combined form apart (RFC 3156 section 6.2) needs an encoding of its own for them.
package pgp
