package securemail

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Purpose is why a message is sent (45 CFR 164.506, 164.508). The zero value is "not stated": a Gate that needs one
// refuses it.
type Purpose string

const (
	PurposeTreatment  Purpose = "treatment"
	PurposePayment    Purpose = "payment"
	PurposeOperations Purpose = "operations"
	PurposeMarketing  Purpose = "marketing"
	// PurposeSystem is for the library's own mail (notices, codes, reports); only an Actor of kind "part" may state it.
	PurposeSystem Purpose = "system"
)

// Escalation is the sender's wish for more than the rule would give. It never lowers anything.
type Escalation uint8

const (
	// EscalateNone leaves the choice to the Policy.
	EscalateNone Escalation = iota
	// EscalateSealed allows no Choice without message encryption or escrow.
	EscalateSealed
	// EscalateEscrow allows escrow alone.
	EscalateEscrow
)

// Tracking is a set of bits; zero tracks nothing.
type Tracking uint8

const (
	TrackOpens Tracking = 1 << iota
	TrackClicks
)

// Attachment is one file in a Draft.
type Attachment struct {
	// Name is the file name shown to the recipient; Type its media type, empty: application/octet-stream.
	Name, Type string
	// ContentID, without angle brackets, makes it an inline image that the HTML names as cid:ContentID.
	ContentID string
	Content   Source
}

// Format implements [fmt.Formatter]; it redacts, since a file name may name a person.
func (a Attachment) Format(f fmt.State, _ rune) { writeRedacted(f) }

// LogValue implements [slog.LogValuer]; it redacts.
func (a Attachment) LogValue() slog.Value { return slog.StringValue(redacted) }

// Draft is what a host hands in. The tenant is the Actor's. Send names every fault of it at once as a *DraftError.
// Formatting redacts it.
type Draft struct {
	// Key is the idempotency key within the tenant, at most 255 octets, kept 24 h or longer. The same key with the same
	// content and recipients gives the first Submission; with others it is ErrConflict. Empty: each Send is new.
	Key string
	// From is required (with Raw: where empty, taken from the message).
	From, ReplyTo Contact
	// To, Cc and Bcc get one shared message, Bcc unseen. Each of Each gets a copy of his own, alone in its To.
	// To and Cc together over Config.MaxVisible is a fault, and so is an address that occurs twice.
	To, Cc, Bcc, Each []Recipient
	// Subject, Text and HTML are UTF-8. At least one of Text and HTML is required unless there are Attachments or Raw.
	Subject, Text, HTML string
	Attachments         []Attachment
	// Header holds further fields by name, such as List-Unsubscribe or References; none with CR or LF in it, and none that
	// the library, its signers or the carriers own: From, Sender, Reply-To, To, Cc, Bcc, Subject, Date, Message-ID,
	// MIME-Version, Content-*, Resent-*, Return-Path, Received, Received-SPF, Delivered-To, Authentication-Results,
	// DKIM-Signature, DomainKey-Signature, ARC-*, TLS-Required, HP-Outer.
	Header map[string][]string
	// Raw is a whole message instead of Subject, Text, HTML, Attachments and Header. To, Cc, Bcc and Each are then its
	// envelope only; Bcc fields in it are removed, and TLS-Required (RFC 8689 section 5), which asks relays to go below a
	// floor; a Date and a Message-ID are added where missing, and nothing else changed. Its author, From or where that names
	// several Sender, must be Draft.From where both are given, and every mailbox in both one of Tenant.From.
	Raw Source
	// ReturnPath is the envelope sender, one of Tenant.From as From is: bounces go there, and quote the message. Zero:
	// Config.ReturnPath, else From.
	ReturnPath Address
	Purpose    Purpose
	// Subjects are the people whose data the message holds.
	Subjects []Subject
	Escalate Escalation
	// Track asks for tracking and is the host's word that consent exists; the Choice must allow it too.
	Track Tracking
	// Priority orders the queue: higher leaves first.
	Priority int8
	// Labels are the host's references, in every Status and Event, never in the mail: at most 10, keys and values of
	// [A-Za-z0-9._:/-]{1,64}.
	Labels map[string]string
	// NotBefore is when it is due; UsefulUntil when it expires undelivered (the sender is told); AccessUntil when
	// pick-up from escrow ends. Zero: now, never, the portal's default.
	NotBefore, UsefulUntil, AccessUntil time.Time
}

// Format implements [fmt.Formatter]; it redacts for every verb.
func (d Draft) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "draft"+redacted) }
