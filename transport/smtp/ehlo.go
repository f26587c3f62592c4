package smtp

import (
	"bytes"
	"strconv"
	"strings"
)

// extensions is what a peer offers; the zero value is a peer that offers nothing (RFC 5321 section 4.1.1.1).
type extensions struct {
	startTLS, pipelining, eightBit, utf8, requireTLS, chunking, dsn bool
	// size is the greatest message in octets, 0 if there is no fixed limit (RFC 1870 section 4).
	size    int64
	hasSize bool
	// mailMax is how many MAIL commands the peer takes in one session, and domainMax how many domains of recipients; 0 if it
	// does not say (RFC 9422 section 4). RCPTMAX can't be broken: a transaction of ours has one recipient.
	mailMax, domainMax int
	// auth are the SASL mechanisms in upper case (RFC 4954 section 3).
	auth []string
}

// maxMechanisms bounds what a peer can make us keep.
const maxMechanisms = 32

// line reads one ehlo-line. The first line of the reply is the peer's name and no keyword. Keywords compare without case
// (RFC 5321 section 2.4).
func (x *extensions) line(n int, text []byte) {
	if n == 0 {
		return
	}
	word, params, _ := bytes.Cut(bytes.TrimSpace(text), []byte{' '})
	switch string(bytes.ToUpper(word)) {
	case "STARTTLS":
		x.startTLS = true
	case "PIPELINING":
		x.pipelining = true
	case "8BITMIME":
		x.eightBit = true
	case "SMTPUTF8":
		x.utf8 = true
	case "REQUIRETLS":
		x.requireTLS = true
	case "CHUNKING":
		x.chunking = true
	case "DSN":
		x.dsn = true
	case "LIMITS":
		x.setLimits(params)
	case "SIZE":
		x.setSize(string(bytes.TrimSpace(params)))
	case "AUTH":
		x.addAuth(params)
	default:
		// Old servers say AUTH=LOGIN.
		if len(word) > 5 && bytes.EqualFold(word[:5], []byte("AUTH=")) {
			x.addAuth(text[5:])
		}
	}
}

func (x *extensions) setSize(s string) {
	x.hasSize = true
	// RFC 1870 section 4: up to 20 digits; what we can't count is no limit for us.
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n > 0 {
		x.size = n
	}
}

func (x *extensions) addAuth(params []byte) {
	for _, m := range bytes.Fields(params) {
		if len(x.auth) < maxMechanisms && len(m) <= 20 {
			x.auth = append(x.auth, strings.ToUpper(string(m)))
		}
	}
}

// setLimits reads the limits that bind us. RFC 9422 section 3: names compare without case, and a value that breaks the
// syntax is as if it were not there.
func (x *extensions) setLimits(params []byte) {
	for _, p := range bytes.Fields(params) {
		name, value, _ := bytes.Cut(p, []byte{'='})
		n, ok := limitValue(value)
		if !ok {
			continue
		}
		switch string(bytes.ToUpper(name)) {
		case "MAILMAX":
			x.mailMax = n
		case "RCPTDOMAINMAX":
			x.domainMax = n
		}
	}
}

// limitValue is %x31-39 0*5DIGIT.
func limitValue(b []byte) (int, bool) {
	if len(b) < 1 || len(b) > 6 || b[0] == '0' {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if !digit(c) {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}
