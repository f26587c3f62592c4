package smtp

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/postseal/postseal/securemail"
)

// Notify is a case in which the far end is to report (RFC 3461 section 4.1).
type Notify uint8

// The cases of NOTIFY. They add up; NotifyNever stands alone. Zero leaves NOTIFY out, and the far end reports failures.
const (
	NotifySuccess Notify = 1 << iota
	NotifyFailure
	NotifyDelay
	NotifyNever
)

// DSN says how the far end is to report on the mail, where it offers the DSN extension (RFC 3461). Whatever it says, RET=HDRS
// asks that a report quotes no body, and ENVID names the parcel by [EnvelopeID].
type DSN struct {
	// Notify are the cases; zero leaves them to the far end.
	Notify Notify
	// OriginalRecipient adds ORCPT: reports name the recipient as we did, also after he was forwarded.
	OriginalRecipient bool
}

func (d DSN) valid() bool { return d.Notify <= NotifyNever }

// EnvelopeID is the ENVID of a parcel's envelope (RFC 3461 section 4.4), which reports carry in Original-Envelope-Id. It is
// the same for each attempt, and does not tell the parcel's own id.
func EnvelopeID(id securemail.ParcelID) string {
	sum := sha256.Sum256([]byte("postseal envelope " + id))
	return hex.EncodeToString(sum[:12])
}

// writeMailDSN is RET and ENVID.
func writeMailDSN(c *conn, j *job) {
	if !c.ext.dsn {
		return
	}
	sum := sha256.Sum256(append(append(c.bw.AvailableBuffer(), "postseal envelope "...), j.ID...))
	_, _ = c.bw.WriteString(" RET=HDRS ENVID=")
	_, _ = c.bw.Write(hex.AppendEncode(c.bw.AvailableBuffer(), sum[:12]))
}

// writeRcptDSN is NOTIFY and ORCPT.
func writeRcptDSN(c *conn, j *job) {
	if !c.ext.dsn {
		return
	}
	if n := j.dsn.Notify; n != 0 {
		var words []string
		for i, w := range [...]string{"SUCCESS", "FAILURE", "DELAY", "NEVER"} {
			if n&(1<<i) != 0 {
				words = append(words, w)
			}
		}
		_, _ = c.bw.WriteString(" NOTIFY=" + strings.Join(words, ","))
	}
	if j.dsn.OriginalRecipient {
		_, _ = c.bw.WriteString(" ORCPT=" + originalRecipient(j.to))
	}
}

// originalRecipient is the value of ORCPT: the address as xtext (RFC 3461 sections 4 and 4.2), or one with non-ASCII octets
// as utf-8-addr-xtext (RFC 6533 section 3).
func originalRecipient(addr string) string {
	var b strings.Builder
	if ascii([]byte(addr)) {
		b.WriteString("rfc822;")
		appendXtext(&b, addr)
		return b.String()
	}
	b.WriteString("utf-8;")
	for _, r := range addr {
		if r > '~' || r < '!' || r == '+' || r == '=' || r == '\\' {
			b.WriteString(`\x{` + strings.ToUpper(hexRune(r)) + "}")
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// hexRune writes a code point with at least two digits and no more than it needs.
func hexRune(r rune) string {
	s := hex.EncodeToString([]byte{byte(r >> 16), byte(r >> 8), byte(r)})
	s = strings.TrimLeft(s, "0")
	return strings.Repeat("0", max(0, 2-len(s))) + s
}

const upperHex = "0123456789ABCDEF"

func appendXtext(b *strings.Builder, s string) {
	for i := range len(s) {
		if c := s[i]; c < '!' || c > '~' || c == '+' || c == '=' {
			b.Write([]byte{'+', upperHex[c>>4], upperHex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
}
