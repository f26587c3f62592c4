package securemail

import (
	"context"
	"time"
)

// Level says whether content may hold PHI. The zero value, not classified, is PHI.
type Level uint8

const (
	LevelPHI Level = iota
	LevelCleared
)

// Finding is what a Classifier saw, without the text: which rule, in which part, how often.
type Finding struct {
	Rule, Part string
	Count      int
}

// Class is what a message contains. Special names content under stricter law ("part2" for 42 CFR part 2,
// "psychotherapy" for 45 CFR 164.508(a)(2)); Kinds are those of the attachments.
type Class struct {
	Level          Level
	Special, Kinds []string
	Findings       []Finding
}

// Classifier says what a Draft contains; it is asked once a Draft. An error leaves the zero Class, which is PHI.
// ErrRefused refuses the Draft. It must not keep or log content. Under SendTx it must use [TxOf].
type Classifier interface {
	Classify(ctx context.Context, d *Draft, m *Message) (Class, error)
}

// Gate may stop a parcel: at acceptance and again before each attempt. ErrRefused is no; a *NotYet is later; any other
// error is "not known now": the parcel is accepted, or its attempt deferred, and the Gate is asked again.
type Gate interface {
	Allow(ctx context.Context, p *Parcel) error
}

// GateFunc makes a Gate of a function.
type GateFunc func(ctx context.Context, p *Parcel) error

// Allow calls f.
func (f GateFunc) Allow(ctx context.Context, p *Parcel) error { return f(ctx, p) }

// Method is a way to protect a message. The set is open: a Method is known when Config.Encryptors has it.
type Method string

const (
	MethodTLS    Method = "tls"
	MethodPGP    Method = "pgp"
	MethodSMIME  Method = "smime"
	MethodEscrow Method = "escrow"
)

// Trust is how far a key's link to its address goes.
type Trust uint8

const (
	// TrustFound: somebody published it.
	TrustFound Trust = iota
	// TrustDomain: the address's domain, or an authority it chose, vouches.
	TrustDomain
	// TrustPinned: the tenant's own people put it there.
	TrustPinned
)

// Key is one recipient key.
type Key struct {
	Method Method
	// Fingerprint is lower-case hex; Origin says where it comes from ("file", "wkd", ...).
	Fingerprint, Origin string
	Trust               Trust
	NotAfter            time.Time
	// Public is, for S/MIME, the certificates in DER with the leaf first, for PGP one binary certificate. It is recorded.
	Public       [][]byte
	Capabilities []string
	// Secret is a shared secret where a method has one. It is never recorded.
	Secret Secret `cbor:"-"`
}

// Lookup asks for the keys of Address, to be used by Sender of Tenant, for Method.
type Lookup struct {
	Tenant          string
	Sender, Address Address
	Method          Method
}

// KeySource finds keys. ErrNoKey says that there surely are none, or that the method is not the source's; ErrPending
// that a changed key waits for approval; any other error, and nil with no keys, that it is not known right now. Called
// from many goroutines.
type KeySource interface {
	Keys(ctx context.Context, l Lookup) ([]Key, error)
}

// KeySourceFunc makes a KeySource of a function.
type KeySourceFunc func(ctx context.Context, l Lookup) ([]Key, error)

// Keys calls f.
func (f KeySourceFunc) Keys(ctx context.Context, l Lookup) ([]Key, error) { return f(ctx, l) }

// KeyState is what a look-up said. "Not known right now" is never "there is none".
type KeyState uint8

const (
	KeyUnknown KeyState = iota
	KeyNone
	KeyFound
	KeyPending
)

// KeyFact is the answer of one look-up.
type KeyFact struct {
	State KeyState
	Keys  []Key
	Why   Reason
}

// Facts is all that a Policy may know. Keys and Route hold what its Need asked for.
type Facts struct {
	Slip    `cbor:"slip"`
	Keys    map[Method]KeyFact
	Route   *Route
	Attempt int
	Now     time.Time
}

// Choice is one way to protect the parcel. The zero Channel is the strictest.
type Choice struct {
	Method  Method
	Channel Channel
	// Profile is the encryptor's own word, such as "class-b", "code" or "passkey".
	Profile string
	// RequireTLS asks for RFC 8689 REQUIRETLS beyond the first hop.
	RequireTLS bool
	// Track is what may be tracked under this Choice: for tls what the Draft asks, never for sealed methods.
	Track Tracking
}

// Outcome is what becomes of a parcel whose Choices are exhausted, or whose delivery is uncertain.
type Outcome uint8

const (
	// OutcomeHold: nothing leaves and nothing is lost; a person decides.
	OutcomeHold Outcome = iota
	// OutcomeRetry is for Decision.Uncertain only: deliver again the same way.
	OutcomeRetry
	// OutcomeBounce returns it to the sender.
	OutcomeBounce
	// OutcomeDrop ends it, recorded.
	OutcomeDrop
)

// Reason is one step of an explanation: the rule's id, and a text without PHI.
type Reason struct{ Rule, Text string }

// Decision is what a Policy says. The zero Decision holds the parcel.
type Decision struct {
	// Need, where not empty, asks for look-ups ("tls" is the Route); the Policy is then asked again.
	Need []Method
	// Choices are tried in order.
	Choices []Choice
	// Patience is how long temporary causes are retried, from when the parcel was due; 0: Config.GiveUp.
	Patience time.Duration
	// Else is for when the Choices are exhausted; Uncertain for when the far end may have accepted.
	Else, Uncertain Outcome
	// Policy names the rule set and its version.
	Policy  string
	Reasons []Reason
}

// Policy decides. It must be a pure function of its Facts: equal Facts, equal Decision, so that a decision can be
// replayed. An error holds the parcel. A Policy may also have Methods() []Method, all that its rules can name; New then
// checks that each has an Encryptor.
type Policy interface {
	Decide(ctx context.Context, f Facts) (Decision, error)
}

// PolicyFunc makes a Policy of a function.
type PolicyFunc func(ctx context.Context, f Facts) (Decision, error)

// Decide calls f.
func (f PolicyFunc) Decide(ctx context.Context, fs Facts) (Decision, error) { return f(ctx, fs) }
