package securemail

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The errors a caller branches on. Everything else is wrapped context around them or a struct type below.
var (
	// ErrNoKey says that there surely is no usable key: the next Choice is tried.
	ErrNoKey = errors.New("securemail: no usable key")
	// ErrPending says that a recipient's key changed and waits for approval.
	ErrPending = errors.New("securemail: changed key waits for approval")
	// ErrChannel says that the wire did not give the floor and no byte of the message left: the next Choice is tried.
	ErrChannel = errors.New("securemail: channel floor not met")
	// ErrHold says that the parcel must wait for a person.
	ErrHold = errors.New("securemail: held")
	// ErrRefused is a Gate's no, and Send's answer where every recipient was refused.
	ErrRefused = errors.New("securemail: refused")
	// ErrDenied says that the Actor may not do this.
	ErrDenied = errors.New("securemail: not authorised")
	// ErrConflict says that the idempotency key was used with other content or other recipients.
	ErrConflict = errors.New("securemail: key used with other content")
	// ErrTenant says that the tenant is unknown or not the caller's, or that he may not write as this From.
	ErrTenant = errors.New("securemail: tenant unknown or not the caller's")
	// ErrLease says that another worker took the parcel over; what this one did must not be recorded.
	ErrLease = errors.New("securemail: lease lost")
	// ErrFinal says that the parcel already ended.
	ErrFinal = errors.New("securemail: already final")
	// ErrTx says that a part can't join the host's transaction.
	ErrTx = errors.New("securemail: this part can't join a transaction")
)

// Fault is one thing wrong with a Draft or a Config. It names places and rules, never a value.
type Fault struct {
	// Field is the place, such as "To[1]" or "Header".
	Field string
	// Rule is what was broken, such as "address" or "crlf".
	Rule string
}

// DraftError lists every fault of a Draft at once.
type DraftError struct{ Faults []Fault }

// Error names the places and rules.
func (e *DraftError) Error() string {
	parts := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		parts[i] = f.Field + " (" + f.Rule + ")"
	}
	return "securemail: draft: " + strings.Join(parts, ", ")
}

// NotYet is a Gate's answer "not before Until": the parcel is deferred and the Gate asked again then.
type NotYet struct{ Until time.Time }

// Error says until when.
func (e *NotYet) Error() string {
	return "securemail: not before " + e.Until.UTC().Format(time.RFC3339)
}

// StepUpError is an Authorizer's answer "not with this sign-in": the caller must authenticate as Need says. It Is
// ErrDenied.
type StepUpError struct{ Need Auth }

// Error says that a stronger sign-in is needed.
func (e *StepUpError) Error() string { return "securemail: stronger authentication needed" }

// Is makes errors.Is(err, ErrDenied) true.
func (e *StepUpError) Is(target error) bool { return target == ErrDenied }

// Fate says what a failed delivery means for the parcel.
type Fate uint8

const (
	// FateRetry: nothing was accepted, a later attempt may succeed.
	FateRetry Fate = iota
	// FatePermanent: the far end refused for good.
	FatePermanent
	// FateUncertain: the far end may or may not have accepted.
	FateUncertain
)

// DeliveryError is how a Transport says what went wrong. Any other error means FateRetry before Shipment.Intend and
// FateUncertain after it.
type DeliveryError struct {
	// Stage is where: "resolve", "connect", "greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "dot", "http".
	Stage string
	// Code is the far end's basic reply or HTTP status, 0 without one; Enhanced is RFC 3463's, "" without one.
	Code     int
	Enhanced string
	Fate     Fate
	// RetryAfter is the far end's wish, 0 without one.
	RetryAfter time.Duration
	// Remote is text from the far end, bounded by the Transport. It may hold PHI, so Error never shows it.
	Remote string
	// Wire is what had been proved by then.
	Wire Wire
	Err  error
}

// Error names stage, codes and the cause's own text; never Remote.
func (e *DeliveryError) Error() string {
	s := "securemail: delivery: " + e.Stage
	if e.Code != 0 {
		s += fmt.Sprintf(" %d", e.Code)
	}
	if e.Enhanced != "" {
		s += " " + e.Enhanced
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *DeliveryError) Unwrap() error { return e.Err }

// ChannelError is how a Transport says that the floor was not met. It Is ErrChannel.
type ChannelError struct {
	// Temporary: a later attempt may find a better wire, so the parcel is worth keeping.
	Temporary bool
	// Wire is what was found; its Reasons say why it was not enough.
	Wire Wire
}

// Error gives the rules that were broken, not the texts.
func (e *ChannelError) Error() string {
	if len(e.Wire.Reasons) == 0 {
		return ErrChannel.Error()
	}
	rules := make([]string, len(e.Wire.Reasons))
	for i, r := range e.Wire.Reasons {
		rules[i] = r.Rule
	}
	return ErrChannel.Error() + ": " + strings.Join(rules, ", ")
}

// Is makes errors.Is(err, ErrChannel) true.
func (e *ChannelError) Is(target error) bool { return target == ErrChannel }
