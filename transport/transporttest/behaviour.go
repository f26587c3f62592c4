package transporttest

import "github.com/postseal/postseal/securemail"

// Behaviour is how the far end of a rig behaves. Accept, BadCert, TempFail, PermFail, Stall and DropAfterBody are
// required: a harness that refuses one of them fails. Any other that the protocol can't express is skipped aloud.
type Behaviour string

// The wires. Each takes what it is sent; they differ in what they prove. Where no other wire is named, the far end
// gives the same as under Accept.
const (
	// Accept is the best wire that the transport knows: TLS 1.2+, a trusted certificate of the right name.
	Accept Behaviour = "Accept"
	// NoTLS offers no TLS.
	NoTLS Behaviour = "NoTLS"
	// BadCert has a certificate of a trusted authority for another name.
	BadCert Behaviour = "BadCert"
	// SelfSigned has a certificate of the right name that nobody vouches for.
	SelfSigned Behaviour = "SelfSigned"
	// Expired has a certificate of a trusted authority for the right name whose time is over.
	Expired Behaviour = "Expired"
	// OldTLS speaks TLS 1.0 and 1.1 only.
	OldTLS Behaviour = "OldTLS"
	// StripTLS is Accept behind somebody who removes the offer of TLS (in SMTP: the STARTTLS line of the EHLO answer).
	StripTLS Behaviour = "StripTLS"
	// NoRequireTLS is Accept without a promise to keep RFC 8689's REQUIRETLS beyond itself.
	NoRequireTLS Behaviour = "NoRequireTLS"
	// Relay is Accept's wire to an intermediary that nobody vouches for.
	Relay Behaviour = "Relay"
	// LapsedRelay is a relay whose operator's agreement has ended.
	LapsedRelay Behaviour = "LapsedRelay"
	// VouchedRelay is a relay whose operator vouches for the road beyond.
	VouchedRelay Behaviour = "VouchedRelay"
)

// The answers and faults.
const (
	// RejectRecipient refuses the recipient for good before it can see the message.
	RejectRecipient Behaviour = "RejectRecipient"
	// DeferRecipient refuses the recipient for now before it can see the message.
	DeferRecipient Behaviour = "DeferRecipient"
	// TempFail reads the whole message and answers that it did not take it, try later.
	TempFail Behaviour = "TempFail"
	// PermFail reads the whole message and answers that it never will take it.
	PermFail Behaviour = "PermFail"
	// Busy answers "try later" at the door.
	Busy Behaviour = "Busy"
	// Refuse does not listen.
	Refuse Behaviour = "Refuse"
	// Stall takes the connection and says nothing at all.
	Stall Behaviour = "Stall"
	// DropBeforeBody closes the connection before it has seen the message.
	DropBeforeBody Behaviour = "DropBeforeBody"
	// DropAfterBody takes the message, keeps it, and closes the connection without an answer.
	DropAfterBody Behaviour = "DropAfterBody"
	// SilentAfterBody takes the message, keeps it, and answers nothing; the connection stays open.
	SilentAfterBody Behaviour = "SilentAfterBody"
	// Garbage answers at the first chance with octets that are no answer.
	Garbage Behaviour = "Garbage"
	// GarbageAfterBody takes the message, keeps it, and answers with octets that are no answer.
	GarbageAfterBody Behaviour = "GarbageAfterBody"
	// HugeReply gives one answer of [HugeSize] octets, in lines or in one, where the protocol allows the longest.
	HugeReply Behaviour = "HugeReply"
)

// HugeSize is the length of HugeReply's answer in octets. The far end stops when it can't write any more.
const HugeSize = 64 << 20

func required(b Behaviour) bool {
	switch b {
	case Accept, BadCert, TempFail, PermFail, Stall, DropAfterBody:
		return true
	}
	return false
}

// strictest is the truth about b's wire: the strictest floor that a receipt may claim to meet.
func (h Harness) strictest(b Behaviour) securemail.Channel {
	switch b {
	case BadCert, SelfSigned, Expired:
		return max(securemail.ChannelEncrypted, h.Best)
	case NoTLS, OldTLS, StripTLS, Relay, LapsedRelay:
		return securemail.ChannelAny
	case VouchedRelay: // a relay is a configured host, whatever the transport finds elsewhere
		return securemail.ChannelVerified
	}
	return h.Best
}

func channelName(c securemail.Channel) string {
	switch c {
	case securemail.ChannelVerified:
		return "Verified"
	case securemail.ChannelNamed:
		return "Named"
	case securemail.ChannelEncrypted:
		return "Encrypted"
	}
	return "Any"
}
