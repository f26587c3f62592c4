package transporttest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
)

// The rules, each with the place where it is written. "Transport" and the like are the doc comments of securemail.
const (
	ruleHarness  = "a harness builds every required behaviour (transporttest.Behaviour)"
	ruleReturn   = "Deliver gives a receipt or an error (Transport)"
	rulePanic    = "Deliver does not panic (Transport)"
	ruleCtx      = "ctx bounds a delivery (Transport)"
	ruleParcel   = "a parcel is shared and never changed (Parcel)"
	ruleSame     = "the far end gets exactly the message's octets, for exactly the recipient (RFC 5321 section 4.5.2)"
	ruleSender   = "the envelope's sender is the parcel's ReturnPath, not the author (RFC 5321 section 4.5.5)"
	ruleCloses   = "what Deliver opens it closes (Source)"
	ruleOnce     = "one delivery puts one message into the mailbox (Transport: each call is one delivery)"
	ruleIntend   = "a Receipt without Intend is a fault of the transport (Shipment.Intend)"
	ruleEarly    = "Intend comes before the octet that can make the far end accept (Shipment.Intend)"
	ruleRcpt     = "Intend comes after the recipient was accepted (Shipment.Intend)"
	ruleStop     = "an error of Intend stops the delivery with nothing accepted (Shipment.Intend)"
	ruleFloor    = "nothing leaves below the floor (Channel; Wire.Meets)"
	ruleRequire  = "RequireTLS goes no way that can't pass it on (Shipment.RequireTLS; RFC 8689 section 4.2.1)"
	ruleNoByte   = "ErrChannel says that no byte of the message left, so Intend was not called (ErrChannel)"
	ruleOutage   = "not known right now is never 'there is no TLS': ErrChannel moves to the next Choice (ErrChannel; Prober)"
	ruleTrue     = "what the far end took or may have taken is FateUncertain, else it is lost or comes twice (DeliveryError)"
	ruleBefore   = "nothing is uncertain before Intend (DeliveryError; Transport)"
	ruleFate     = "a far end's clear answer is a *DeliveryError with its fate, stage and code (DeliveryError; RFC 5321 section 4.2.1)"
	ruleReceipt  = "a receipt is complete: Time, Peer, TLS facts, Proof where the floor needs one (Receipt)"
	ruleEvidence = "a receipt says what was, and claims no more than the wire gave (Wire; Channel)"
	ruleHop      = "a relay proves only the hop to itself; HopAsserted needs its Operator, HopFinal is no relay (Hop)"
	rulePHI      = "errors, logs, reasons and receipts carry no content and no address (Transport)"
	ruleReuse    = "one delivery leaves nothing behind for the next (Transport: called from many goroutines)"
	ruleMemory   = "what a far end says is bounded in memory (DeliveryError.Remote)"
	ruleProbe    = "a Prober finds the wire without sending mail; not known is not 'no TLS' (Prober)"
)

// judge checks every rule that holds for each delivery.
func (b *bench) judge(r *result) {
	if r.hung {
		b.c.Failf(ruleCtx, "Deliver had not returned %v after its ctx ended (%s)", b.c.h.grace(), b.behaviour)
		return
	}
	if r.panicked != "" {
		b.c.Failf(rulePanic, "panic: %s", r.panicked)
		return
	}
	if r.changed != "" {
		b.c.Failf(ruleParcel, "Deliver changed %s", r.changed)
	}
	b.silent(r)
	if r.early.Load() > 0 {
		b.c.Failf(ruleEarly, "the far end had the whole message when Intend was called")
	}
	if !waitUntil(settle, func() bool { return r.open.Load() == 0 }) {
		b.c.Failf(ruleCloses, "%d readers of the message are open when Deliver has returned", r.open.Load())
	}
	if n := len(b.accepted(r.rcpt)); n > 1 {
		b.c.Failf(ruleOnce, "the far end took %d messages in one delivery", n)
	}
	switch {
	case r.err == nil && r.receipt == nil:
		b.c.Failf(ruleReturn, "Deliver returned neither")
		b.truthful(r)
	case r.err == nil:
		b.delivered(r)
	case errors.Is(r.err, securemail.ErrChannel):
		b.nothingLeft(r)
	default:
		b.truthful(r)
	}
}

// delivered checks a success.
func (b *bench) delivered(r *result) {
	if r.intended.Load() == 0 {
		b.c.Failf(ruleIntend, "delivered without Intend")
	}
	waitUntil(settle, func() bool { return len(b.accepted(r.rcpt)) > 0 })
	all := b.accepted(r.rcpt)
	if len(all) == 0 {
		b.c.Failf(ruleOnce, "the far end took no message, the receipt is for one")
		return
	}
	b.identical(r, all[0])
	b.evidence(r, all[0])
}

func (b *bench) identical(r *result, d Delivery) {
	if len(d.Recipients) != 1 {
		b.c.Failf(ruleSame, "the envelope has %d recipients", len(d.Recipients))
	}
	if d.Sender != nil && *d.Sender != r.sender() {
		b.c.Failf(ruleSender, "the envelope has another sender")
	}
	if bytes.Equal(d.Message, r.raw) {
		return
	}
	// RFC 5321 section 4.1.1.4: DATA can't carry a message that does not end with CRLF.
	if !bytes.HasSuffix(r.raw, []byte("\r\n")) && bytes.Equal(d.Message, append(bytes.Clone(r.raw), "\r\n"...)) {
		return
	}
	at := 0
	for at < min(len(d.Message), len(r.raw)) && d.Message[at] == r.raw[at] {
		at++
	}
	b.c.Failf(ruleSame, "%d octets came of %d; the first that differs is at %d", len(d.Message), len(r.raw), at)
}

// evidence compares the receipt with what the far end knows.
func (b *bench) evidence(r *result, d Delivery) {
	w := r.receipt
	if w.Peer == "" {
		b.c.Failf(ruleReceipt, "Peer is empty")
	}
	if w.Time.Before(r.start.Add(-2*time.Second)) || w.Time.After(time.Now().Add(2*time.Second)) {
		b.c.Failf(ruleReceipt, "Time is not the time of the delivery")
	}
	if !w.Meets(r.floor) {
		b.c.Failf(ruleReceipt, "the receipt does not meet the floor %s", channelName(r.floor))
	}
	truth := b.c.h.strictest(b.behaviour)
	for c := range truth {
		if w.Meets(c) {
			b.c.Failf(ruleEvidence, "the receipt claims %s, but %s gives no more than %s", channelName(c), b.behaviour, channelName(truth))
		}
	}
	if (b.behaviour == BadCert || b.behaviour == SelfSigned || b.behaviour == Expired) && w.Proof != "" {
		b.c.Failf(ruleEvidence, "Proof is %q, but the name was not proved", w.Proof)
	}
	b.facts(w.TLS, d.TLS)
	b.hop(w)
}

func (b *bench) facts(got, want *securemail.TLSFacts) {
	switch {
	case got == nil && want == nil:
	case got == nil:
		b.c.Failf(ruleReceipt, "TLS facts are missing, the far end saw TLS")
	case want == nil:
		b.c.Failf(ruleEvidence, "the receipt has TLS facts, the far end was spoken to in clear")
	case got.Version != want.Version || got.Suite != want.Suite:
		b.c.Failf(ruleEvidence, "TLS facts are %04x/%04x, the far end saw %04x/%04x", got.Version, got.Suite, want.Version, want.Suite)
	case want.Chain != [32]byte{} && got.Chain != want.Chain:
		b.c.Failf(ruleEvidence, "the certificate chain is not the far end's")
	}
}

func (b *bench) hop(w *securemail.Receipt) {
	vouched := w.Operator != nil && w.Operator.Name != ""
	switch {
	case w.Hop > securemail.HopFinal:
		b.c.Failf(ruleHop, "Hop %d is none of the constants", w.Hop)
	case w.Hop == securemail.HopAsserted && !vouched:
		b.c.Failf(ruleHop, "HopAsserted without a named Operator")
	case (b.behaviour == Relay || b.behaviour == LapsedRelay) && w.Hop != securemail.HopRelay:
		b.c.Failf(ruleHop, "%s gives HopRelay, the receipt says Hop %d", b.behaviour, w.Hop)
	case b.behaviour == VouchedRelay && w.Hop != securemail.HopAsserted:
		b.c.Failf(ruleHop, "VouchedRelay gives HopAsserted, the receipt says Hop %d", w.Hop)
	}
}

// nothingLeft checks ErrChannel.
func (b *bench) nothingLeft(r *result) {
	if r.intended.Load() > 0 {
		b.c.Failf(ruleNoByte, "Intend was called before ErrChannel")
	}
	waitUntil(settle, func() bool { return len(b.leaked(r)) > 0 })
	if places := b.leaked(r); len(places) > 0 {
		b.c.Failf(ruleNoByte, "ErrChannel, but the far end has the %s", strings.Join(places, ", "))
	}
}

// leaked says what of r reached the far end.
func (b *bench) leaked(r *result) []string {
	got := string(b.Far.Received())
	var places []string
	if strings.Contains(got, r.rcpt) {
		places = append(places, "recipient")
	}
	if len(b.seen(r.rcpt)) > 0 {
		places = append(places, "message")
	}
	if b.serial.Load() == 1 { // else an earlier message planted the same words
		places = append(places, b.words.found(got)...)
	}
	return places
}

// truthful checks that an error's fate agrees with what the far end did.
func (b *bench) truthful(r *result) {
	fate := r.fate()
	if de, ok := errors.AsType[*securemail.DeliveryError](r.err); ok && de.RetryAfter < 0 {
		b.c.Failf(ruleFate, "RetryAfter is %v", de.RetryAfter)
	}
	if fate > securemail.FateUncertain {
		b.c.Failf(ruleFate, "Fate %d is none of the constants", fate)
	}
	if fate == securemail.FateUncertain && r.err != nil {
		if r.intended.Load() == 0 {
			b.c.Failf(ruleBefore, "uncertain, but Intend was not called")
		}
		return
	}
	if waitUntil(settle, func() bool { return len(b.accepted(r.rcpt)) > 0 }) {
		b.c.Failf(ruleTrue, "the far end took the message, the answer is %s", fateName(fate))
	}
}

// silent looks for the canaries in everything that r and the logs say.
func (b *bench) silent(r *result) {
	b.look("error", errorTexts(r.err))
	if r.receipt != nil {
		b.look("receipt", []string{fmt.Sprintf("%q %q", r.receipt.Peer, r.receipt.RemoteID), fmt.Sprintf("%+v", r.receipt.Wire)})
	}
	if ce, ok := errors.AsType[*securemail.ChannelError](r.err); ok {
		b.look("reasons of the ChannelError", []string{fmt.Sprintf("%+v", ce.Wire)})
	}
	if de, ok := errors.AsType[*securemail.DeliveryError](r.err); ok {
		b.look("wire of the DeliveryError", []string{fmt.Sprintf("%+v", de.Wire), de.Stage, de.Enhanced})
		if len(de.Remote) > 64<<10 {
			b.c.Failf(ruleMemory, "Remote holds %d octets", len(de.Remote))
		}
	}
	b.look("log", []string{b.logs.Text()})
	if b.c.Fallback != nil {
		b.look("default log", []string{b.c.Fallback.Text()})
	}
}

func (b *bench) look(where string, texts []string) {
	for _, text := range texts {
		if places := b.words.found(text); len(places) > 0 {
			b.c.Failf(rulePHI, "the %s holds the canary of: %s", where, strings.Join(places, ", "))
			return
		}
	}
}

// errorTexts is every text that err and what it wraps can show.
func errorTexts(err error) []string {
	if err == nil {
		return nil
	}
	texts := []string{err.Error(), fmt.Sprintf("%+v", err)}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		texts = append(texts, errorTexts(u.Unwrap())...)
	case interface{ Unwrap() []error }:
		for _, e := range u.Unwrap() {
			texts = append(texts, errorTexts(e)...)
		}
	}
	return texts
}
