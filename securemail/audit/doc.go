// Package audit is the tamper-evident log: a transparency log on files that implements securemail.Ledger. Each event of
// the library becomes one entry; [Log.Prove] gives a proof that anyone can check offline with [Verify] and the log's
// public key.
//
// # The folder
//
//	checkpoint               signed tree head: https://c2sp.org/tlog-checkpoint in https://c2sp.org/signed-note form, Ed25519
//	tile/LEVEL/N             hashes of the Merkle tree of RFC 6962, 256 wide: https://c2sp.org/tlog-tiles
//	tile/entries/N           the entries, 256 to a bundle, each behind its length (2 octets, big-endian)
//	tile/.../N.p/W           the same, not yet full
//	journal-N                entries, from number N on, that no checkpoint covers yet
//	index                    where each event id is; made anew where it is missing or damaged
//	catalog/N                which bundles a search may skip; made by searches, anew where it is missing or damaged
//	cosigned                 the newest checkpoint that a quorum of witnesses has signed too
//	stamp/DAY                the time stamp on the first checkpoint of a day, stamp/DAY.checkpoint
//	lock                     held by the one process that writes
//
// Beside it, by default, lie FOLDER.key (signing key and pseudonym key, mode 0600, made once) and FOLDER.key.seen (the
// newest checkpoint; keep it where the folder's back-ups are not). A web server may serve checkpoint and tile as they are.
//
// # Durability
//
// [Log.Emit] returns once its entry is synced in the journal; concurrent calls share one sync. A checkpoint is signed at
// most [Options].Interval later ([Log.Run], the next Emit, Prove or Close), after every tile and bundle that it covers was
// synced. So a checkpoint never covers an entry that a crash could lose, and what was signed is never signed differently:
// after kill -9 at any instruction Open takes up the journal in its order and goes on.
//
// # What an entry holds
//
// Canonical JSON ([Entry]): no address, name, subject or reference of a person is in it but as a pseudonym, an HMAC under
// the log's pseudonym key and bound to the tenant ([Log.Pseudonym]). Texts should name nobody; where one holds an address, or
// a name, reference, subject or label of its event, a pseudonym stands in its place. Facts are an HMAC over their canonical octets
// ([Log.FactsHash]). Text from the far end is left out; its name and queue id are pseudonyms. Destroying the pseudonym key
// unlinks every entry from its people, and breaks no proof.
//
// # What outsiders get
//
// [Log.Evidence] makes one file of all that the log holds of a parcel: its entries, their proofs, and what they say in
// sentences. [VerifyEvidence] checks it offline by the log's public key; any changed octet is [ErrEvidence]. The checkpoint in
// it is a cosigned one where there is one (Options.Witnesses, package audit/witness), and with it goes the first
// stamp that covers the entries (Options.Stamper, package audit/timestamp). [Log.Search] finds entries, package
// audit/export makes reports of them.
//
// # Security properties
//
// [Log.Check] reads everything again and finds each changed, cut, moved or missing octet. Open and Check refuse a folder
// that is older than the checkpoint kept beside it ([ErrRollback]). [Log.Extends] tells whether a checkpoint that somebody
// kept is still part of the log. Entries younger than the newest checkpoint are guarded by a MAC; who can write the folder
// can cut the youngest of them off, unseen, within one Interval. Who has the signing key can write another history: only
// checkpoints that others kept show that, such as witnesses: one that has signed more, or another history, is told to
// Options.Trouble. [Log.Admits] refuses a database that is older than the log ([ErrOldDatabase]).
//
// # Limits
//
// Memory: 12 octets an entry for the index (120 MB for 10,000,000), and the entries of up to one Interval. An entry is at
// most 65,535 octets; longer texts are cut, and the entry says so. 2^32 entries.
package audit
