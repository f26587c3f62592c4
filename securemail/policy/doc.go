// Package policy holds rule sets that decide how a parcel is protected: presets as Go values, each a
// [github.com/postseal/postseal/securemail.Policy].
//
// [TryTLS], also called [HIPAA], is what most programs want. The others are for programs that know why:
//
//	preset         choices in order             when they are exhausted
//	TryTLS         tls/Named, then sealed        bounce
//	ForcedTLS      tls at the given floor        bounce
//	Exclusive      tls/Named                     drop, recorded; bulk mail only, never for care
//	Escalated      sealed                        bounce
//	EscrowOnly     escrow                        bounce
//	Double         sealed, but not escrow        bounce
//	Opportunistic  tls/Any, cleared content only bounce
//
// "Sealed" is [Options].Methods in its order: smime, pgp, escrow unless said otherwise. A sealed message may take any
// wire. Where escrow would be the last resort but is not among the Methods, the parcel is held instead of bounced, and
// the Decision says so.
//
// # What holds under every preset
//
//   - PHI, which is everything not cleared by a classifier, never gets a tls Choice below ChannelNamed, but for a domain
//     that a [Domain] rule names with reason, owner and review date.
//   - What the sender asks for only raises: EscalateSealed and content under stricter law (Class.Special) take tls away,
//     EscalateEscrow leaves escrow alone.
//   - Tracking goes with tls only, never with a sealed method.
//   - The library's own mail (PurposeSystem, of an Actor of kind "part") goes by tls/Encrypted or better, untracked,
//     never through escrow, for an hour at most. The purpose stated by anybody else holds the parcel.
//
// # A delivery that may have arrived
//
// Where the answer of the far end was lost, every preset, [HIPAA] included, does by purpose:
//
//	purpose                    default                            Options
//	treatment, or not stated   hold: a person is asked            Uncertain, UncertainFor
//	payment, operations        hold: a person is asked            Uncertain, UncertainFor
//	marketing                  hold: a person is asked            Uncertain, UncertainFor
//	system                     retry                              none: a code that comes twice does no harm
//
// Held so, nothing happens by itself; securemail/notice reports it to the sender with what can be ordered: Retry, which
// delivers it again by the same method and with the same Message-ID, or Cancel, which takes it as done. Retry does so by
// itself within the patience, and then asks a person all the same. There is no rule that bounces or drops it: a sender told
// "not delivered" of mail that arrived is told a falsehood, and would send it twice. The default is hold for treatment too:
// a second copy of PHI is a disclosure that nobody chose, and the sender, who is told, knows whether silence harms more.
//
// A preset is a pure function of its Facts, asks for no look-up, and is safe for concurrent use. Its name carries a
// version and, where Options are set, a fingerprint of them, so that a recorded decision names the rules that made it.
//
// # What it does not do
//
// It reads no content and no subject line: a subject tag becomes Draft.Escalate, and keywords become a Class, before a
// policy is asked.
package policy
