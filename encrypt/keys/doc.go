// Package keys finds the keys of recipients: each source is a [securemail.KeySource], and [Chain] asks several in order.
//
// The sources of this release are pinned ones, which the tenant's own people fill: [File] reads a folder of keys with an
// index; [SQL] keeps keys in the host's database, sealed, and lets the host pin, list and remove them.
//
// # None, not known, pending
//
// [securemail.ErrNoKey] says that there surely is no key, or that the method is not the source's. A store that can't be
// read, a key that is damaged, an index with a fault: all that is another error, "not known right now", since a recipient
// whose key can't be read must not get weaker protection for it. Chain keeps to the same rule between its sources.
//
// # Security properties
//
// Keys from both sources are [securemail.TrustPinned]: that a key is somebody's is said by who pins it. The user ids in an
// OpenPGP certificate are not compared with the address, since keys of role addresses and of alias domains have others. A
// pinned key never waits for approval, [securemail.ErrPending]: pinning is the approval. Addresses compare without regard to
// case. Neither source tells which
// people it knows: file names are the operator's choice and the index is his to keep at mode 0600; in the database an
// address is a keyed hash, and everything about a key is sealed under the key ring's scope "tenant/<id>", so that destroying
// the scope destroys them. Errors hold no address, no path and no key.
//
// # What it does not do
//
// It fetches nothing from a network (todo(RFC 7929, RFC 8162): DNS; WKD, VKS and LDAP), and it does not judge whether a key
// is expired or weak: the Encryptor does.
package keys
