// Package notice tells people what became of mail that was not delivered: who is told of what, by rules of tenant and
// purpose, in reports that hold no PHI.
//
// [New] makes a [Notices]. It is a [github.com/postseal/postseal/securemail.Sink], so that it reads events by a cursor of
// its own, and a Runner, which mails the reports: a host puts it into Config.Sinks, and the Mailer runs it.
//
// # Who is told of what
//
// A [Rule] names tenants, purposes and states, and whom to tell. The first that fits decides; Options.Rules come before
// these defaults:
//
//	purpose                  of what                                                            told
//	treatment, not stated    bounced expired dropped held uncertain refused cancelled           the sender
//	treatment, not stated    still on its way four hours after it was due                       the sender
//	payment, operations      bounced expired dropped held uncertain, and late as above          the sender
//	payment, operations      refused, cancelled                                                 nobody
//	marketing                anything                                                           nobody
//	system                   the library's own mail that failed                                 the role
//
// Whatever the rule, the state is an event; "nobody" means that the event is all. Mail for treatment never ends in silence:
// a set of rules under which it could is refused by New with a [*SilenceError]. Where the sender can't be told (his report
// is refused, bounces, is held or uncertain) the role is, and where that fails too, an event "notice" with outcome
// "failed" and to "role" says so: an alert should stand on it. A tenant that sends for treatment should have a
// [Tenant.Role].
//
// Events are added to the Outbox: Kind "delayed" (Detail: rule, about) when mail is late, and Kind "notice" (Detail: rule,
// to, about, what, outcome "mailed" or "failed") for each thing told. "Mailed" means that the report is durable in the
// queue; where it fails later, "failed" follows.
//
// # Once
//
// Each state that a parcel enters is told each addressee once, although events come at least once and programs stop at any
// instant: what to tell is kept in a table by event id, becomes part of one report in one commit, and that report is sent
// under its id as the Draft's Key. Uncertain is told for each delivery that became uncertain, and when it comes to wait
// for a person, not for each further attempt that settles nothing. A late parcel is told at each age of its rule; ages
// that passed while nobody ran are one.
//
// # Digests
//
// One addressee gets one report at most each Options.Every (10 minutes), about all that happened meanwhile, or one as soon
// as 10,000 entries wait: a burst of 10,000 bounces of one sender makes two or three reports. The delivery status lists
// each; the text shows the first 50, what is uncertain or held of mail for treatment first, and counts of all. Nothing is
// left out. A program that starts again, or another that takes over, may mail one report sooner.
//
// # The report
//
// It is a multipart/report (RFC 6522) with a text and a message/delivery-status (RFC 3464), without the third part: no
// header and nothing of the message, no subject, no name, no address of a recipient. The text is a template, that of the
// tenant or the English one. It is mail of PurposeSystem with the null return path, Auto-Submitted: auto-generated (RFC
// 3834), and is never reported about to the sender, so that nothing can loop.
//
//	Original-Envelope-Id   the parcel's id, in a report of one entry (RFC 3464 section 2.2.1)
//	Reporting-MTA          Options.ReportingMTA
//	Final-Recipient        x-postseal-ref; REF, or x-postseal-parcel; ID where the host gave no Ref
//	Action                 failed, or delayed for what is late, held or uncertain
//	Status                 4.4.1 late, 4.7.0 held, 4.4.2 uncertain, 5.4.7 expired, 5.7.1 dropped or refused, else 5.0.0
//	X-Postseal-...         Parcel, State, Reason (a rule's id), Submitted, Entered, Next, Label (one each)
//
// RFC 3464 section 2.3.2 requires Final-Recipient. An address there would say who is treated, on every way and in every
// mailbox that the report passes; section 2.1.2 allows other types of address, so it holds what means something to the
// host alone. It is xtext (RFC 3461 section 4), hence ASCII, so that message/global-delivery-status (RFC 6533) is not
// needed, whoever the recipient is. A Ref and Labels must hold no PHI; that is the host's part.
//
// # What it does not do
//
// It shows no page, reads no reports of others (that is what comes back as mail), and can't tell a sender whose mailbox
// has no encrypted channel: then the role is told.
package notice
