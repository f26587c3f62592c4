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
// # Events that nobody asked for
//
// Beside the states of parcels, the Mailer adds to the Outbox, and so to the Ledger:
//
//	kind    when                                              Detail
//	denied  a call was denied: by the Authorizer, for its     action, resource, id, why: "caller", "tenant", "author",
//	        tenant, or because it had no Actor                "purpose", "authorizer" or "step-up"
//	access  Find or Wait read statuses                        action, resource, and id where one mail was asked for
//	policy  Run or RunDue begins, and the Policy's name is    policy, was
//	        another than was recorded last
//	fault   a part broke its contract                         rule
//
// By is the Actor, with his sign-in facts. A call has its event before it has its answer; what one Actor repeats within a
// minute is counted and told as one more event with "repeats", and of more than 1,024 Actors and actions a minute only the
// number is kept, so that who hammers fills no database. Under SendTx a denial is written outside of the host's transaction
// and soon after. An Outbox that fails does not change an answer; the events wait in memory. Reads are recorded since a
// status names its recipient; those of a service, which may ask about each mail that it sends, are one event a minute,
// and those of the library's own parts none. A Policy says its name by Version() string or Name() string.
//
// # Uncertain
//
// Where the far end may have accepted a message and its answer was lost, the parcel is uncertain: always an event,
// whatever the rule. Decision.Uncertain says what then:
//
//	OutcomeHold   (zero) nothing happens by itself. A person orders Retry (deliver again the same way: a second copy may
//	              arrive) or Cancel (take it as done). securemail/notice tells whoever can, by report
//	OutcomeRetry  it is delivered again by itself, by the same Method and with the same Message-ID, for as long as the
//	              Decision's Patience; then it waits for a person as above
//
// Every other Outcome there is taken for OutcomeHold: what may have arrived is neither bounced nor dropped. An order is an
// event of the state entered, with Detail "order". The presets of securemail/policy say what they do for each purpose.
//
// # What it does not do
//
// It speaks no protocol, opens no database, and starts no goroutine that outlives the call. A part that panics over one
// parcel, look-up or event ends that alone: it is logged without the panic's value, and the parcel is tried again, is
// uncertain where it may have left, or is held in the end.
package securemail
