// Package keyring keeps keys at rest: it wraps the data key of each message under all the scopes of the message at once
// (tenant, submission, patient, cohort), so that destroying any one scope destroys every copy of the message, back-ups
// included. [File] is the ring on files, for one machine and any number of its processes.
//
// # Files
//
//	PATH          the root key, as text. Made once by OpenFile, mode 0600; refused where group or others can read it.
//	PATH.epoch    the epoch key, sealed under the root key. Replaced whenever a scope key is destroyed.
//	PATH.scopes   the key ledger: the scope keys, sealed under the epoch key. It names scopes by a keyed hash only.
//	PATH.lock     the lock between processes; it holds nothing.
//
// No ciphertext of mail lies in any of them, and none of them opens mail alone.
//
// # If a file is lost
//
// Without PATH, PATH.epoch or PATH.scopes all mail stored under this ring is unreadable for good; nobody can help.
// OpenFile never makes a new file in place of a lost one. Keep copies so:
//
//   - PATH changes only by [File.RotateRoot]. Keep two copies apart from the mail, offline or in a vault.
//   - PATH.scopes grows with each new scope. Back it up as often as the database, since mail whose scope key is younger
//     than the copy can't be read from it.
//   - PATH.epoch: keep exactly one copy, replaced within the window after each Destroy or RotateEpoch, and never archived.
//     An old copy of PATH.epoch together with an equally old copy of PATH.scopes brings back what was destroyed since;
//     without it an old PATH.scopes opens nothing. A certificate of destruction is as true as this habit.
//
// # Destroying
//
// [File.Destroy] replaces the epoch key: it seals the surviving scope keys under a new one and overwrites the old one.
// When it returns, the key is gone from the files and from this process's memory; another process that shares the files
// forgets it at its next call. With [Options].Window it writes a tombstone at once and replaces the epoch key later, for
// hosts that destroy many scopes a second: from the tombstone on this package refuses the key, and
// securemail.Destruction.EpochRetires says when the files can't give it any more. Overwriting reaches the file system, not
// the spare blocks of a disk: NIST SP 800-88r2 calls this cryptographic erase, and asks that the medium itself be
// encrypted or sanitised at its end.
//
// # Security properties
//
// Every changed, cut, reordered, or exchanged octet of the files is [ErrCorrupt]; only a tail that a crash can have torn,
// and that no caller was told to be durable, is dropped. A ledger older than its epoch key is [ErrCorrupt]. One that was
// cut back or replaced by an older one under the same epoch, or with its epoch file, is [ErrCorrupt] to a process that has
// the ring open (unless Options.Remember is set); to one that opens it later it shows as [ErrUnknown] for each key that
// needs a lost scope. A whole older set of files can't be told from a current one then: keep the audit log.
//
// Wrapped keys don't show their scopes, nor whether two of them share one.
//
// # What it does not do
//
// It is no KMS: who reads the memory of the process or has all files reads the mail. It asks no Authorizer; the host does,
// before Destroy.
package keyring
