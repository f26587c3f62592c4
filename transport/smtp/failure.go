package smtp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/postseal/postseal/securemail"
)

// The stages of securemail.DeliveryError that SMTP knows.
const (
	stageResolve  = "resolve"
	stageConnect  = "connect"
	stageGreeting = "greeting"
	stageEHLO     = "ehlo"
	stageTLS      = "starttls"
	stageAuth     = "auth"
	stageMail     = "mail"
	stageRcpt     = "rcpt"
	stageData     = "data"
	stageDot      = "dot"
)

// Errors a caller may branch on; they are the Err of a *securemail.DeliveryError.
var (
	// ErrInjected says that octets arrived in the clear behind the reply to STARTTLS: somebody tried to speak inside the
	// session (RFC 3207 section 6). It ends the delivery for now; nothing left.
	ErrInjected = errors.New("smtp: octets injected before the TLS handshake")
	// ErrNullMX says that the domain takes no mail (RFC 7505).
	ErrNullMX = errors.New("smtp: domain accepts no mail (RFC 7505)")
	// ErrNotFound says that a name surely does not exist.
	ErrNotFound = errors.New("smtp: name does not exist")
	// ErrClosed says that the Transport was closed.
	ErrClosed = errors.New("smtp: transport closed")
	// ErrUnproved says that credentials were not given to a peer that proved no name.
	ErrUnproved = errors.New("smtp: peer not proved, credentials withheld")
)

var (
	errRefused     = errors.New("smtp: refused by the far end")
	errGone        = errors.New("smtp: connection closed by the far end")
	errTimeout     = errors.New("smtp: far end did not answer in time")
	errNetwork     = errors.New("smtp: network error")
	errNoMessage   = errors.New("smtp: shipment without message or recipient")
	errSource      = errors.New("smtp: message can't be read")
	errNoRoute     = errors.New("smtp: no mail host has an address")
	errSpecial     = errors.New("smtp: mail host has no public address")
	errPolicy      = errors.New("smtp: what the recipient's domain asks of TLS is not known now")
	errLookup      = errors.New("smtp: name look-up failed")
	errTooBig      = errors.New("smtp: message over the far end's limit (RFC 1870)")
	errNo8Bit      = errors.New("smtp: far end takes no 8-bit content (RFC 6152)")
	errNoUTF8      = errors.New("smtp: far end takes no internationalised mail (RFC 6531)")
	errNoMechanism = errors.New("smtp: far end offers no SASL mechanism of ours (RFC 4954)")
	errNoAnswer    = errors.New("smtp: no clear answer to the final dot")
	errIdentity    = errors.New("smtp: identity has no valid EHLO name")
	errNoSource    = errors.New("smtp: identity has no source address of the host's family")
	errDSN         = errors.New("smtp: NotifyNever stands alone (RFC 3461)")
	errHandshake   = errors.New("smtp: TLS handshake failed")
	errLess        = errors.New("smtp: a connection that was good enough was lost, and a fresh one is not")
)

// failure is one thing that went wrong, and how to go on. It becomes a *securemail.DeliveryError, or, if miss is set, part
// of a *securemail.ChannelError.
type failure struct {
	securemail.DeliveryError
	// miss: the wire did not give the floor; Wire.Reasons say why. temporary: it may next time.
	miss, temporary bool
	// handshake: TLS could not be had, so that ChannelAny may try in the clear.
	handshake bool
	// deaf: the far end answered nothing to the ClientHello, so that a smaller one may do.
	deaf bool
	// sts: an MTA-STS policy asked for what was missed.
	sts bool
	// next: another host may do better.
	next bool
	// sent: the wire met the floor, and octets of the envelope or more went out.
	sent bool
	// stale: a connection that was used before died before the final dot, so that a fresh one may do.
	stale bool
}

func fail(stage string, cause error) *failure {
	return &failure{DeliveryError: securemail.DeliveryError{Stage: stage, Err: cause}}
}

// hostFail is a failure of this host: the next may do better.
func hostFail(stage string, cause error) *failure {
	f := fail(stage, cause)
	f.next = true
	return f
}

// miss is a wire below the floor.
func miss(w securemail.Wire, rule, text string) *failure {
	f := hostFail(stageTLS, securemail.ErrChannel)
	f.miss, f.Wire = true, w
	f.Wire.Reasons = note(w.Reasons, rule, text)
	return f
}

// note appends a Reason to a copy of rs, since a Wire's Reasons may be shared.
func note(rs []securemail.Reason, rule, text string) []securemail.Reason {
	return append(rs[:len(rs):len(rs)], securemail.Reason{Rule: rule, Text: text})
}

// ioFailure is a connection that broke at stage before the final dot went out.
func ioFailure(ctx context.Context, stage string, err error) *failure {
	f := hostFail(stage, bare(ctx, err))
	f.stale, f.next = ctx.Err() == nil, ctx.Err() == nil
	return f
}

// refusal is a reply that was not wanted.
func refusal(stage string, r reply) *failure {
	f := fail(stage, errRefused)
	f.Code, f.Enhanced, f.Remote = r.code, r.enhanced(), r.remote()
	f.Fate = fate(stage, r.code)
	if r.class() < 4 {
		f.Err = &ReplyError{Rule: "unexpected"}
	}
	// RFC 5321 section 3.8: 421 says that the host closes, whatever was asked.
	f.stale = r.code == 421
	f.next = r.code == 421 || early(stage) || stage == stageMail && r.class() == 4
	return f
}

// early says that nothing of this mail was told yet, so that a refusal speaks of us or of the host.
func early(stage string) bool {
	switch stage {
	case stageGreeting, stageEHLO, stageTLS, stageAuth:
		return true
	}
	return false
}

// fate maps a reply; the package comment gives the reasons.
func fate(stage string, code int) securemail.Fate {
	switch {
	case code/100 != 5:
		return securemail.FateRetry
	case code == 521 || code == 556:
		// RFC 7504 sections 2 and 3: the host, or the domain, never takes mail.
		return securemail.FatePermanent
	case early(stage), code == 503, code == 530:
		return securemail.FateRetry
	case stage == stageRcpt && code == 552:
		return securemail.FateRetry
	}
	return securemail.FatePermanent
}

// bare returns an error whose text holds nothing of the far end or the mail: network errors name addresses, and TLS
// errors quote certificates.
func bare(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if re, ok := errors.AsType[*ReplyError](err); ok {
		return re
	}
	if no, ok := errors.AsType[syscall.Errno](err); ok && !no.Timeout() {
		return no
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) {
		return errTimeout
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return errGone
	}
	return errNetwork
}

// tally gathers the failures of all hosts of one delivery.
type tally struct {
	reasons []securemail.Reason
	// worst is the failure to report if no wire missed the floor.
	worst *failure
	// wire is the last one that missed the floor.
	wire              securemail.Wire
	missed, temporary bool
	// sent: a wire met the floor, and something of the mail went out.
	sent bool
	// sts: an MTA-STS policy kept a host from the mail.
	sts      bool
	attempts int
}

// add records f and says whether the delivery ends with it.
func (t *tally) add(f *failure) bool {
	t.reasons = append(t.reasons, f.Wire.Reasons...)
	t.sts, t.sent = t.sts || f.sts, t.sent || f.sent
	if f.miss {
		t.missed, t.wire = true, f.Wire
		t.temporary = t.temporary || f.temporary
		return false
	}
	// A host that may do better later outweighs one that never will.
	if t.worst == nil || f.Fate != securemail.FatePermanent || t.worst.Fate == securemail.FatePermanent {
		t.worst = f
	}
	return !f.next
}

// verdict is the error of a delivery that no host took. Where a wire missed the floor it is a *securemail.ChannelError,
// so that another Choice gets its turn; a host that failed otherwise makes it temporary, since it was not judged. But one
// that met the floor and failed later is a reason to come again, and ErrChannel would say that nothing left.
func (t *tally) verdict() error {
	if t.missed && !t.sent {
		t.wire.Reasons = t.reasons
		unjudged := t.worst != nil && t.worst.Fate != securemail.FatePermanent
		return &securemail.ChannelError{Temporary: t.temporary || unjudged, Wire: t.wire}
	}
	switch {
	case t.missed && (t.worst == nil || t.worst.Fate == securemail.FatePermanent):
		t.worst = hostFail(stageTLS, errLess)
	case t.worst != nil:
	default:
		f := hostFail(stageResolve, errNoRoute)
		f.Enhanced = "4.4.4"
		t.worst = f
	}
	d := t.worst.DeliveryError
	d.Wire.Reasons = t.reasons
	return &d
}
