package securemail

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

// ParcelID names one message to one recipient: unguessable (80 random bits), sorting by time of acceptance, and safe
// in logs and URLs: 26 characters of [0-9a-v].
type ParcelID string

var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// newID is 48 bits of milliseconds and 80 random bits.
func newID(now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	_, _ = rand.Read(b[6:]) // never fails: crypto/rand
	out := make([]byte, idEncoding.EncodedLen(len(b)))
	idEncoding.Encode(out, b[:])
	for i, c := range out {
		if c >= 'A' && c <= 'Z' {
			out[i] = c + 'a' - 'A'
		}
	}
	return string(out)
}

// Slip is what is written on a parcel: all that a rule, a status or an event may know.
type Slip struct {
	ID         ParcelID
	Submission string
	// Actor is who sent it; Actor.Tenant is the parcel's tenant.
	Actor Actor
	// From and Recipient are the author and the one recipient of this parcel.
	From, Recipient Contact
	ReturnPath      Address
	Subjects        []Subject
	Class           Class
	// Size is the message's, in octets, before any protection.
	Size     int64
	Purpose  Purpose
	Escalate Escalation
	Track    Tracking
	Priority int8
	Labels   map[string]string

	Submitted, NotBefore, UsefulUntil, AccessUntil time.Time
}

// Parcel is one message to one recipient. It is shared between goroutines and never changed.
type Parcel struct {
	Slip
	// Factors are the recipient's, for Encryptors only.
	Factors []Factor
	Message *Message
}

// With returns a copy of p that carries m.
func (p *Parcel) With(m *Message) *Parcel {
	q := *p
	q.Message = m
	return &q
}
