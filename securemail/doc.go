// Package securemail holds the nouns, every central interface, and the Mailer: it accepts a message for several
// recipients and brings each of them a copy under the strongest protection that he can receive, or none at all.
//
// A host builds a [Config] (or lets preset.Open build it), calls [New] once, sends with [Mailer.Send] or, inside a
// transaction of its own, [Mailer.SendTx], and keeps [Mailer.Run] running, or calls [Mailer.RunDue] from a timer.
// Implementers meet one of the small interfaces: [Transport], [Encryptor], [KeySource], [Policy], [Gate], [Classifier],
// [Queue], [Ledger], [Sink].
//
// # Security properties
//
// Nothing leaves below the floor ([Choice].Channel) of the rule that chose it; the zero value of every demand is the
// strictest and of every evidence the weakest. "Not known right now" is never "there is none". Personal data does not
// reach errors, logs or metrics: [Address], [Secret], [Subject] and [Contact] have no String, redact when formatted or
// logged, and fail to encode as text.
//
// # Actions
//
// An [Authorizer] is asked by each exported call that reads content or changes policy, keys or state:
//
//	action         resource kind   asked by
//	send           submission      Mailer.Send, SendTx, SendBatch, Replace, Explain
//	read.status    parcel          Mailer.Find, Wait
//	order          parcel          Mailer.Order, Replace
//	prove          event           audit: Prove through the host
//	read.deposit   deposit         escrow: reading a deposit other than by its recipient
//	write.key      key             encrypt/keys: Pin, Remove, List
//	destroy        deposit         escrow: Revoke
//	destroy        scope           keyring: Destroy through the host
//	read.posture   domain          transport/posture: Check, History, Ratchet, Report
//	write.posture  domain          transport/posture: Watch, Unwatch, SetOverride, ClearOverride
//
// The built-in Authorizer allows the first three in the Actor's own tenant and asks the role "admin" for everything else.
//
// # What it does not do
//
// It speaks no protocol, opens no database, and starts no goroutine that outlives the call. A part that panics over one
// parcel, look-up or event ends that alone: it is logged without the panic's value, and the parcel is tried again, is
// uncertain where it may have left, or is held in the end.
package securemail
