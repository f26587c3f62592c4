// Package kms holds a key ring's root key in a key management service: [NewVault] (HashiCorp Vault or OpenBao, transit
// engine), [NewAWS] (AWS KMS), [NewGCP] (Google Cloud KMS). Each is a keyring.Root, over plain HTTPS and the standard library.
//
//	root, err := kms.NewAWS("eu-central-1", "alias/postseal", credentials, nil)
//	ring, err := keyring.OpenFile("ring", &keyring.Options{Root: root})
//
// The service seals one key of 32 octets, over the ring's epoch key. No key of a message or a scope ever reaches it, it is
// asked when the ring is opened and when its root is rotated, and an outage leaves an open ring at work. When the service's
// key was rotated, keyring's File.RotateRoot puts the epoch key under the newest version, and the old one may go.
//
// # Errors
//
// Every error is an *[Error], and by errors.Is one of
//
//	keyring.ErrUnavailable   no answer, an overloaded service, an answer damaged on the way: tried again, later it may work
//	keyring.ErrDenied        credentials that are wrong, expired or without the right
//	keyring.ErrLost          the key, or the version that sealed ours, is disabled, scheduled for deletion or destroyed: enable
//	                         it again, or keyring.Recover with the custodians' shares
//	keyring.ErrCorrupt       the ring's epoch file is damaged, or sealed under another key or context
//
// or none of them where the service calls the request wrong. None counts as destroyed: mail waits.
//
// # Security properties
//
// HTTPS only, but for loopback when asked; redirects are not followed, as they would carry the token elsewhere. Answers
// over 64 KiB are refused. Errors hold no secret, no ciphertext and no text of the service but its code. What is sealed is
// bound to a purpose (AWS encryption context, Google additional authenticated data), so that a right on other ciphertexts
// of the key opens nothing here; in Vault use a key of its own, or a derived one.
//
// # What it does not do
//
// It finds no credentials: the host's function gives them, fresh, at each call. It makes no keys and rotates none.
package kms
