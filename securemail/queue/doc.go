// Package queue is the durable queue on the host's *sql.DB, SQLite or PostgreSQL. [Queue] implements securemail.Queue,
// TxQueue, Outbox, Desk and Runner: what Put accepted survives kill -9 and power loss, each parcel is leased to one worker
// at a time, and every change of state is committed together with the events that tell of it.
//
// A host (or preset.Open) calls [New] once per process and database, hands the Queue to securemail.Config as both Queue
// and Outbox, and lets Mailer.Run run it. [Dir] is a folder for bodies too large for a row.
//
// # States
//
// Put makes a parcel accepted, or refused. Who may change a state, and into which:
//
//	from        by Mark, with a lease                                            by Order, without one
//	accepted    attempting deferred held uncertain, and every final state but    Cancel: cancelled   Hold: held
//	deferred    cancelled                                                        Retry: deferred, due now
//	attempting  attempting deferred held uncertain delivered bounced dropped     none: it is leaving right now
//	uncertain   attempting uncertain delivered                                   Cancel: cancelled   Hold: Next cleared
//	                                                                             Retry: due now
//	held        expired (held): it is leased only when UsefulUntil has passed    Cancel: cancelled   Release: accepted
//	                                                                             Retry: deferred, due now
//	final       none                                                             none
//
// Final are delivered, bounced, dropped, refused, cancelled and expired. An Order that changes nothing (Release of what
// is not held, Hold of what is) is nil and makes no event. Every Order answers ErrFinal for a parcel that is leased or
// attempting: it is leaving right now. An unknown id, and one of another tenant, are both ErrTenant.
//
// Take hands out what is accepted, deferred, or uncertain or held with Next set, once it is due, and what was leased by a worker
// that is gone. A parcel handed out with Last.State attempting has an intent without an outcome: the far end may have
// accepted it.
//
// # Leases
//
// Take counts the attempt durably before it hands a parcel out, so an attempt that crashed counts too. A lease lasts
// [Options].Lease, and is renewed by Mark with StateAttempting and, while Run works, by a heartbeat for up to half an hour.
// The token names the Queue's epoch and the attempt: once another worker has taken the parcel over, the old token is
// ErrLease, before its intent can be recorded. A process that starts with the Options.Owner of one that is dead takes that
// one's leases back at once; others' come back when their heartbeat stops. The clocks of processes on one database must agree
// within a few seconds; where they don't, leases may move early, which the tokens make harmless before the intent, and
// which is reported as uncertain after it.
//
// # Security properties
//
// Slips, headers, bodies, statuses, events and idempotency digests are sealed at rest, each bound to its place, under a
// data key per submission that the KeyRing wraps under the scope "tenant/" and the tenant. In clear are ids, tenants,
// states, due times, priorities, labels, counters and lease owners. Contact.Ref, idempotency keys and the recipient's
// domain are kept as keyed hashes; their key is wrapped under the scope "queue/index". Header, factors and body go when the parcel ends. Unwrapped
// keys stay in memory for up to ten minutes, so a destroyed scope is closed here that much later at most.
//
// # What it does not do
//
// It decides nothing: when to try again is the Mailer's. It does not hide how many parcels a tenant has, nor their sizes.
// It does not notice that somebody who can write to the database put back an older sealed status of the same parcel.
package queue
