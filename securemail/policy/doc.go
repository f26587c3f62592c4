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
// A preset is a pure function of its Facts, asks for no look-up, and is safe for concurrent use. Its name carries a
// version and, where Options are set, a fingerprint of them, so that a recorded decision names the rules that made it.
//
// # What it does not do
//
// It reads no content and no subject line: a subject tag becomes Draft.Escalate, and keywords become a Class, before a
// policy is asked.
package policy
