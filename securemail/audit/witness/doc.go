// Package witness asks witnesses to cosign an audit log's checkpoints, and checks their cosignatures.
//
// The holder of a log's signing key could show one history to an auditor and another to everybody else. A witness is
// somebody else's machine that remembers the newest checkpoint it saw of a log, signs only what continues that one, and
// never two that contradict each other. A checkpoint with the cosignatures of enough witnesses is therefore the same for
// everybody, and a log that was rolled back or forked finds no witness any more.
//
//   - [New] makes a [Client] of one witness, for audit.Options.Witnesses: https://c2sp.org/tlog-witness.
//   - [NewVerifier] makes a note.Verifier of a witness's key: https://c2sp.org/tlog-cosignature.
//   - [ParsePolicy] reads which logs and how many of which witnesses are trusted: https://c2sp.org/tlog-policy. Its Verify
//     is what an outsider calls with a checkpoint, offline.
//
// # Security properties
//
// A witness is trusted with nothing but its signature: what it answers counts only where its key signed the very
// checkpoint that was sent, with a time that is not in the future. Answers are bounded (64 KiB, 10 s), redirects are not
// followed, and only https is spoken, but to a loopback address where [Options].InsecureLoopbackHTTP says so. What a
// witness writes never gets into an error. It is sent checkpoints and hashes: no entry, no name of a person.
//
// A witness that says that it knows more than the log has ([ConflictError] which Is audit.ErrRollback), or other entries
// ([ErrFork]), is the alarm that this is all for. It may be wrong; it can't be ignored.
//
// # What it does not do
//
// It is no witness itself: whoever runs the log should not run its witnesses. Keys of the ML-DSA-44 form (type 0x06) are
// refused with an error, since Go 1.26 has no ML-DSA; a witness that signs in both forms is asked by its Ed25519 key, and
// signatures of unknown keys are ignored, as the specification wants. The subtree calls are not used.
package witness
