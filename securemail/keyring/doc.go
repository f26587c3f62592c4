// Package keyring keeps keys at rest: it wraps the data key of each message under all the scopes of the message at once
// (tenant, submission, patient, cohort), so that destroying any one scope destroys every copy of the message, back-ups
// included. [File] is the ring on files, for one machine and any number of its processes.
//
// # Keys
//
//	root key     over the epoch key: in a file, in the environment (EnvRoot), or in a KMS (package kms)
//	epoch key    over the key ledger: replaced by Destroy, at once or within Options.Window
//	scope keys   in the ledger, one a scope; a data key is wrapped under all scopes of its message
//	data keys    one a message or submission; stored by others, beside what they seal
//
// Each is rotated alone: RotateRoot, RotateEpoch and a KMS key's own rotation never touch a wrapped data key or a body.
//
// # Files
//
//	PATH          the root key, as text, unless Options.Root has it. Made once by OpenFile, mode 0600; refused where group
//	              or others can read it.
//	PATH.epoch    the epoch key, sealed under the root key. Replaced whenever a scope key is destroyed.
//	PATH.scopes   the key ledger: the scope keys, sealed under the epoch key. It names scopes by a keyed hash only.
//	PATH.lock     the lock between processes; it holds nothing.
//
// No ciphertext of mail lies in any of them, and none of them opens mail alone.
//
// # If a key is lost
//
// Without the root key, PATH.epoch or PATH.scopes all mail stored under this ring is unreadable. OpenFile says [ErrLost], and
// never makes a new file in place of a lost one. Prepare so:
//
//   - The root: two copies of PATH apart from the mail, offline or in a vault; or shares among custodians ([File.Split]),
//     any m of whom have it back ([Join], [Recover]), also when a KMS lost its key. Renew them after RotateRoot.
//   - PATH.epoch and PATH.scopes: [File.Backup], as often as the database, since mail whose scope key is younger than the
//     copy can't be read from it; [Restore] puts it back. Keep one copy, the newest, and never archive it: together with
//     the root key an old one brings back what was destroyed since. A certificate of destruction is as true as this habit.
//
// After a restore open the ring with Options.Restored and give [File.Replay] the key events since the copy.
//
// # Destroying
//
// [File.Destroy] replaces the epoch key: it seals the surviving scope keys under a new one and overwrites the old one.
// When it returns, the key is gone from the files and from this process's memory; another process that shares the files
// forgets it at its next call. That takes time linear in the number of scopes, 0.2 to 0.5 s for 1,000,000. With
// [Options].Window it writes a tombstone at once and replaces the epoch key later, for hosts that destroy many scopes a day:
// from the tombstone on this package refuses the key, and securemail.Destruction.EpochRetires says when the files can't give
// it any more. [File.Run] retires in half the window, OpenFile at once what came due while nobody ran, and any change to
// the ring past the time does too. Overwriting reaches the file system, not the spare blocks of a disk: NIST SP 800-88r2
// calls this cryptographic erase, and asks that the medium itself be encrypted or sanitised at its end.
//
// # Record
//
// With Options.Outbox, or [File.RecordTo], each act on keys is two events of [EventKind]: the intent, committed before
// anything is done, and its end. What a crash leaves between them is taken up by Run, Upkeep, RecordTo or a repeat. The end
// carries the [State] of the ring, so that the log knows where the ring stood: see below.
//
// # Security properties
//
// Every changed, cut, reordered, or exchanged octet of the files is [ErrCorrupt]; only a tail that a crash can have torn,
// and that no caller was told to be durable, is dropped. A ledger older than its epoch key is [ErrCorrupt]. One that was
// cut back or replaced by an older one under the same epoch, or with its epoch file, is [ErrCorrupt] to a process that has
// the ring open (unless Options.Remember is set). To one that opens it later a whole older set of files is a current one,
// but for what was recorded outside: give the newest State of the log's key events to Options.Expect or [File.Check], and it
// is a [*RollbackError]. Scopes made since that event show, where they were rolled back, as [ErrUnknown].
//
// Wrapped keys don't show their scopes, nor whether two of them share one.
//
// A Root that is down stops neither Wrap nor Unwrap nor Destroy of an open ring; what needs it is [ErrUnavailable]. No error
// but [ErrDestroyed] says that anything was destroyed.
//
// # What it does not do
//
// It is no KMS: who reads the memory of the process or has all files and the root reads the mail. It asks no Authorizer;
// the host does, before Destroy.
package keyring
