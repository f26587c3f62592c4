package mtasts

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

var errName = errors.New("mtasts: not a domain name")

const (
	// maxName is the greatest length of a name as text (RFC 1035 section 2.3.4).
	maxName = 253
	// maxDomain leaves room for the label that is put in front of a domain.
	maxDomain = maxName - len("_mta-sts.")
)

// domainName is the canonical form of a mail domain.
func domainName(domain string) (string, error) {
	name, err := canonical(domain)
	if err != nil || len(name) > maxDomain {
		return "", errName
	}
	return name, nil
}

// canonical is the one form of a domain or host name: A-labels, lower case, no final dot. It does not allocate for a name
// that has this form already.
func canonical(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 0x80:
			ascii, err := idna.Lookup.ToASCII(name)
			if err != nil {
				return "", errName
			}
			return ascii, checkName(ascii)
		case 'A' <= c && c <= 'Z':
			name = strings.ToLower(name)
		}
	}
	return name, checkName(name)
}

// checkName accepts letters, digits, hyphens and, as they do occur in mail domains, underscores.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return errName
	}
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return errName
			}
			label = 0
			continue
		case !letterDigit(c) && c != '-' && c != '_':
			return errName
		}
		if label++; label > 63 {
			return errName
		}
	}
	if label == 0 {
		return errName
	}
	return nil
}

// literal says whether a mail domain is an address, bare or in brackets (RFC 5321 section 4.1.3).
func literal(domain string) bool {
	if strings.HasPrefix(domain, "[") {
		return true
	}
	if domain == "" || domain[len(domain)-1] < '0' || domain[len(domain)-1] > '9' {
		return false
	}
	_, err := netip.ParseAddr(domain)
	return err == nil
}

// hostName says whether s is a Domain of RFC 5321 section 4.1.2: labels of letters, digits and inner hyphens. One that is
// an IPv4 address in disguise is none.
func hostName(s string) bool {
	if checkName(s) != nil || strings.Contains(s, "_") || literal(s) {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

func letterDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
