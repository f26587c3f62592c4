// Package backup makes one consistent, sealed copy of all that a postseal keeps: the rows of its database, the blobs that
// they name, the audit log and the wrapped keys; and puts it back. Package preset wires it (System.Backup,
// preset.Restore), and so does the command: postseal backup, postseal restore.
//
// # What an operator does
//
//  1. Once: postseal backup -store FILE -custodians 3/5 -shares DIR, and give each custodian a share of the root key. Any 3 of
//     the 5 open every backup and the store; 2 open nothing.
//  2. Daily, or more often: postseal backup -store FILE -out COPY. It stops no mail. Keep copies away from the machine, and
//     destroy those that are older than what certificates of destruction promise.
//  3. After each: postseal backup -verify COPY. It reads all of it and proves it.
//  4. Monthly: postseal restore -drill -store FILE: a backup, a restore beside it, and a look at everything in it.
//  5. After a loss: postseal restore -store NEW -from COPY, with -root KEYFILE or -share, and with -log FOLDER where the audit
//     log survived. Then postseal restore -declare -store NEW -reason TEXT. Only then does mail leave.
//
// # What is in a backup
//
// Every row of every table that a package of ours made, by one snapshot of the database: no writer waits. How the tables
// were made is in it too, in words of no dialect, so that a backup of SQLite restores into PostgreSQL and back, and into
// a later release, which migrates it. Blobs, log and key ring are read after the snapshot, so they hold whatever a row needs;
// but for the blob of a parcel that ended while the backup was made: its body was removed, the Report counts it in Gone, and what
// became of it the surviving log tells.
//
// # Security properties
//
// In clear are the form's name, a random id, the time, and the log's signed checkpoint, which names no person. All else is
// sealed by internal/seal under a fresh key that the key ring's root wraps, and bound to what is in clear: each changed, cut,
// moved or exchanged octet is [ErrCorrupt]. Keys in it are wrapped once more as the ring wraps them: a backup opens with the root key
// only, and what was sealed at rest stays sealed inside. A backup keeps no promise of destruction by itself: it holds the ring
// as it was, so what was destroyed since is destroyed again when the restore is declared with a log that survived.
//
// # What must be true after a restore
//
// A restored database is marked, and [Pending] says so until [Declare]; preset's Run refuses meanwhile. Before that,
// queue.Reconcile settles what the surviving log tells, and calls uncertain what nobody can tell.
//
// # What it does not do
//
// It keeps no schedule and no copies. Tables of the host's own are the host's to back up; a restore of one without the other
// is his to reconcile. Snapshot and blobs need two connections. It does not notice that a backup is an old one: its time is in it.
package backup
