package smtp

import (
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/dane"
)

// Knowledge is what is known of one mail host, and asked of it, before it is spoken to. Equal knowledge makes equal terms.
type Knowledge struct {
	// Host is the mail host, for the texts of reasons.
	Host string
	// Floor is what the shipment asks for.
	Floor securemail.Channel
	// Ratchet is what the domain gave before and must give again; ChannelAny remembers nothing. RatchetUnknown says that the
	// memory could not be read.
	Ratchet        securemail.Channel
	RatchetUnknown bool
	// DANE is the state of the host's TLSA records.
	DANE dane.State
	// STS is the state of the domain's MTA-STS policy, STSMatch that it names this host; STSCached says that the policy could
	// not be confirmed now, and is the one from before.
	STS       STSState
	STSMatch  bool
	STSCached bool
	// Signed says that DNSSEC proved the answer that named the host.
	Signed bool
	// Pinned says that the domain's hosts, or the relay's key, are pinned; Configured that the host is a relay.
	Pinned, Configured bool
	// Hop says whom the host is.
	Hop securemail.Hop
	// RequireTLS says that the sender asked for REQUIRETLS (RFC 8689); Mode is how far that goes.
	RequireTLS bool
	Mode       RequireTLSMode
	// TLSOptional says that the sender wrote "TLS-Required: No" and that this is honoured, see Options.HonourTLSRequiredNo.
	TLSOptional bool
}

// STSState is what is known of a domain's MTA-STS policy (RFC 8461).
type STSState uint8

const (
	// STSUnknown: not known now, and nothing is cached.
	STSUnknown STSState = iota
	// STSNone: there surely is no policy, or its mode is none.
	STSNone
	// STSTesting and STSEnforce are the modes of a valid policy, live or cached.
	STSTesting
	STSEnforce
)

// RequireTLSMode says what a sender's RequireTLS demands. The relaxed modes are for a time when few hosts offer the
// extension; they break RFC 8689's promise, and a Receipt's reasons say so.
type RequireTLSMode uint8

const (
	// RequireTLSStrict is RFC 8689 section 4.2.1: the host offers REQUIRETLS; its name is proved by DNSSEC, MTA-STS or
	// configuration; its certificate by DANE or PKIX.
	RequireTLSStrict RequireTLSMode = iota
	// RequireTLSEncrypted needs TLS, at least ChannelEncrypted, and says REQUIRETLS where it is offered.
	RequireTLSEncrypted
	// RequireTLSOffered leaves all to the Channel, and says REQUIRETLS where it is offered.
	RequireTLSOffered
)

// Verdict is the outcome of [Decide].
type Verdict uint8

const (
	// VerdictDefer: something is not known now; nothing may go to this host until it is.
	VerdictDefer Verdict = iota
	// VerdictRefuse: whatever the host shows can't be enough.
	VerdictRefuse
	// VerdictDeliver: deliver if the session meets the Terms.
	VerdictDeliver
)

// Terms are what one mail host must give. The zero value gives nothing to anybody.
type Terms struct {
	Verdict Verdict
	// Temporary says that a refusal, or a session that misses the terms, is no last word: a published policy or the ratchet
	// asked for it, and may change.
	Temporary bool
	// Least is what the session's wire must meet. ChannelAny lets a message go in the clear where TLS can't be had; anything
	// else makes TLS mandatory.
	Least securemail.Channel
	// Proof is the proof that the session must have: "" is none.
	Proof securemail.Proof
	// DANE: a TLSA record must match. STS: chain and name must pass PKIX, as an MTA-STS policy demands. Pin: what is pinned must
	// hold. All that are set must hold together.
	DANE, STS, Pin bool
	// RequireTLS: the host must offer REQUIRETLS.
	RequireTLS bool
	// Reasons is the chain that led here; it is never empty where the Verdict is not VerdictDeliver.
	Reasons []securemail.Reason
}

// Decide says what a mail host must give before a message goes to it. It is a pure function:
//
//   - A published policy binds whatever the floor: usable TLSA records must match, unusable ones make TLS mandatory, a policy
//     in mode enforce must name the host and its certificate must pass PKIX. Under ChannelAny too nothing goes in the clear
//     then, and a failure is temporary.
//   - DANE and MTA-STS do not excuse each other. RFC 8461 section 2 forbids that MTA-STS overrides failing DANE; its section
//     5 lets no mail go to a host that the policy does not name, and makes no exception for one that DANE proves.
//   - What is not known is never "there is none": VerdictDefer, also under ChannelAny. It becomes a temporary
//     *securemail.DeliveryError and no ChannelError, since the next Choice would go to the same host.
//   - A policy in mode testing changes nothing. It is reported.
//   - The ratchet and RequireTLS only ever raise the floor, the ratchet none but those that ask for TLS.
//   - TLSOptional switches policies and ratchet off, and counts only with ChannelAny and without RequireTLS (RFC 8689
//     section 5).
func Decide(k Knowledge) Terms {
	d := decision{k: k, Terms: Terms{Least: k.Floor}}
	if k.Floor > securemail.ChannelAny {
		d.Verdict, d.Least = VerdictRefuse, securemail.ChannelVerified
		d.say("channel-unknown", "the shipment asks for a channel that does not exist")
		return d.Terms
	}
	if k.TLSOptional && k.Floor == securemail.ChannelAny && !k.RequireTLS {
		d.say("tls-required-no", "the sender wrote TLS-Required: No, so no policy binds (RFC 8689 section 5)")
	} else {
		if d.unknown() {
			return d.Terms
		}
		d.ratchet()
		if d.sts(); d.Verdict == VerdictRefuse {
			return d.Terms
		}
		d.dane()
	}
	d.requireTLS()
	return d.close()
}

// decision is one under way.
type decision struct {
	k Knowledge
	Terms
}

func (d *decision) say(rule, text string) {
	d.Reasons = append(d.Reasons, securemail.Reason{Rule: rule, Text: text})
}

// raise makes the terms at least as strict as c.
func (d *decision) raise(c securemail.Channel) { d.Least = min(d.Least, c) }

// unknown defers where a look-up did not end, and names each.
func (d *decision) unknown() bool {
	if d.k.Floor != securemail.ChannelAny && (d.k.RatchetUnknown || d.k.Ratchet > securemail.ChannelAny) {
		d.say("ratchet-unknown", "what the domain gave before is not known now")
	}
	if d.k.DANE == dane.Unknown || d.k.DANE > dane.Unusable {
		d.say("dane-unknown", "whether "+d.k.Host+" has TLSA records is not known now")
	}
	if d.k.STS == STSUnknown || d.k.STS > STSEnforce {
		d.say("sts-unknown", "whether the domain has an MTA-STS policy is not known now")
	}
	return len(d.Reasons) > 0
}

// ratchet leaves ChannelAny alone: what goes there is sealed or cleared, and is the way around a ratchet that somebody
// poisoned.
func (d *decision) ratchet() {
	if d.k.Floor != securemail.ChannelAny && d.k.Ratchet < d.Least {
		d.raise(d.k.Ratchet)
		d.Temporary = true
		d.say("ratchet", "the domain gave more before, and must again")
	}
}

func (d *decision) sts() {
	source := "confirmed"
	if d.k.STSCached {
		source = "from the cache"
	}
	switch {
	case d.k.STS == STSTesting && !d.k.STSMatch:
		d.say("sts-testing-mx-mismatch", d.k.Host+" is not in the domain's MTA-STS policy ("+source+"), which only tests")
	case d.k.STS == STSTesting:
		d.say("sts-testing", "the domain's MTA-STS policy ("+source+") only tests")
	case d.k.STS != STSEnforce:
	case !d.k.STSMatch:
		d.Verdict, d.Temporary = VerdictRefuse, true
		d.say("sts-mx-mismatch", d.k.Host+" is not in the domain's MTA-STS policy ("+source+")")
	default:
		d.STS, d.Temporary = true, true
		d.raise(securemail.ChannelVerified)
		d.say("sts-enforce", d.k.Host+" is in the domain's MTA-STS policy ("+source+"), which binds")
	}
}

func (d *decision) dane() {
	switch d.k.DANE {
	case dane.Usable:
		d.DANE, d.Temporary = true, true
		d.raise(securemail.ChannelVerified)
		d.say("dane", d.k.Host+" has TLSA records, which bind")
	case dane.Unusable:
		d.Temporary = true
		d.raise(securemail.ChannelEncrypted)
		d.say("dane-unusable", d.k.Host+" has TLSA records, none usable: TLS is mandatory (RFC 7672 section 2.2)")
	}
}

func (d *decision) requireTLS() {
	if !d.k.RequireTLS {
		return
	}
	switch d.k.Mode {
	case RequireTLSOffered:
		d.say("requiretls-offered", "REQUIRETLS is said only where it is offered")
	case RequireTLSEncrypted:
		d.raise(securemail.ChannelEncrypted)
		d.say("requiretls-encrypted", "REQUIRETLS is said only where it is offered, and TLS is mandatory")
	default:
		d.raise(securemail.ChannelVerified)
		d.RequireTLS = true
	}
}

// close says which proof there must be, or that none can be had.
func (d *decision) close() Terms {
	d.Pin = d.k.Pinned && d.Least != securemail.ChannelAny
	d.Verdict = VerdictDeliver
	switch {
	case d.Least == securemail.ChannelAny:
	case d.k.Hop != securemail.HopFinal && d.k.Hop != securemail.HopAsserted:
		d.Verdict = VerdictRefuse
		d.say("hop-unvouched", "nobody vouches now for the road beyond "+d.k.Host)
	case d.Least == securemail.ChannelEncrypted:
	case d.Pin, d.k.Configured:
		d.Proof = securemail.ProofConfigured
	case d.DANE:
		d.Proof = securemail.ProofDANE
	case d.STS:
		d.Proof = securemail.ProofSTS
	case d.k.Signed:
		d.Proof = securemail.ProofDNSSEC
	case d.Least == securemail.ChannelNamed:
		d.Proof = securemail.ProofPKIX
	default:
		d.Verdict = VerdictRefuse
		d.say("mx-unsigned", "the name of "+d.k.Host+" came from unsigned DNS, and no published policy proves it")
	}
	return d.Terms
}

// shown is what one session showed of its peer.
type shown struct {
	// dane, pkix and pin say that a TLSA record matched, that chain and name passed, that what is configured held.
	dane, pkix, pin bool
	requireTLS      bool
}

// missed holds a session against the terms and names the first that it misses, "" for none.
func (t *Terms) missed(w *securemail.Wire, s shown) string {
	switch {
	case t.Verdict != VerdictDeliver:
		return "terms"
	case t.Pin && w.TLS != nil && !s.pin:
		return "pin"
	case t.DANE && w.TLS != nil && !s.dane:
		return "dane-mismatch"
	case t.STS && w.TLS != nil && !s.pkix:
		return "sts-pkix"
	case t.Least != securemail.ChannelAny && !w.Meets(t.Least):
		return "least"
	case t.RequireTLS && !s.requireTLS:
		return "requiretls-not-offered"
	}
	return ""
}
