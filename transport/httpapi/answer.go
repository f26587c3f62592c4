package httpapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postseal/postseal/securemail"
)

// Verdict is what a status code means for the message.
type Verdict uint8

const (
	// VerdictUncertain: it may or may not have been taken.
	VerdictUncertain Verdict = iota
	// VerdictAccept: it was taken.
	VerdictAccept
	// VerdictRetry: it was not taken, later it may be.
	VerdictRetry
	// VerdictPermanent: it was refused for good.
	VerdictPermanent
	// VerdictAuth: the credentials were refused. The message is kept and retried: it is not at fault.
	VerdictAuth
)

// DefaultVerdict is what a status code means where [Options.Codes] does not say (RFC 9110 section 15, RFC 6585).
//
// Taken: 200, 201, 202, 204. Not taken for now: 408, 425, 429, 503, 507; also 404, 405, 410 and every redirect, which say
// that the endpoint is configured wrong and are no reason to bounce mail. Credentials: 401, 403, 407. Refused: any other
// 4xx, 501, 505. Uncertain: everything else, among it 409 (a request with this idempotency key is under way), 500, 502
// and 504, behind which the message may have been taken.
func DefaultVerdict(status int) Verdict {
	switch status {
	case 200, 201, 202, 204:
		return VerdictAccept
	case 408, 425, 429, 503, 507, 404, 405, 410:
		return VerdictRetry
	case 401, 403, 407:
		return VerdictAuth
	case 501, 505:
		return VerdictPermanent
	case 409:
		return VerdictUncertain
	}
	switch status / 100 {
	case 3:
		return VerdictRetry
	case 4:
		return VerdictPermanent
	}
	return VerdictUncertain
}

func (t *Transport) verdict(status int) Verdict {
	if v, ok := t.opts.Codes[status]; ok {
		return v
	}
	return DefaultVerdict(status)
}

// answer is what the endpoint said; complete says that the connection can be used again.
type answer struct {
	status   int
	header   http.Header
	body     []byte
	complete bool
}

// remote bounds the far end's text for DeliveryError.Remote, and makes its control characters harmless.
func remote(body []byte) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(body[:min(len(body), maxRemote)]), "\uFFFD"))
}

// maxRetryAfter caps what an endpoint can ask for.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads RFC 9110 section 10.2.3: seconds or a date; 0 for anything else and for the past.
func retryAfter(v string, now time.Time) time.Duration {
	v = strings.TrimSpace(v)
	if v == "" || len(v) > 64 {
		return 0
	}
	if strings.Trim(v, "0123456789") == "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// maxID bounds a remote id in octets.
const maxID = 256

// remoteID finds the id, "" where there is none that is safe to record: ids are written into logs and evidence, so one
// with spaces, controls or the recipient's address or local part in it is dropped.
func (m *compiled) remoteID(a *answer, s *securemail.Shipment) string {
	id := ""
	if m.IDHeader != "" {
		id = a.header.Get(m.IDHeader)
	}
	if id == "" && m.IDPointer != "" {
		id = pointed(a.body, m.IDPointer)
	}
	if !safeID(id) || quotes(id, s.Recipient.Address) {
		return ""
	}
	return id
}

// minQuote is what a local part must have so that its octets are no chance in an id.
const minQuote = 4

func quotes(id string, a securemail.Address) bool {
	id, whole := strings.ToLower(id), strings.ToLower(a.Reveal())
	local := whole[:max(strings.LastIndexByte(whole, '@'), 0)]
	return strings.Contains(id, whole) || len(local) >= minQuote && strings.Contains(id, local)
}

func safeID(id string) bool {
	return len(id) <= maxID && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
}

// pointed returns the string or number that pointer (RFC 6901) names in body, "" where there is none.
func pointed(body []byte, pointer string) string {
	if !utf8.Valid(body) {
		return ""
	}
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		next, ok := member(body, token)
		if !ok {
			return ""
		}
		body = next
	}
	var s string
	if json.Unmarshal(body, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(body, &n) == nil {
		return n.String()
	}
	return ""
}

// member is one step of RFC 6901 section 4: a member of an object or an element of an array.
func member(body []byte, token string) (json.RawMessage, bool) {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) == nil {
		v, ok := object[token]
		return v, ok
	}
	var array []json.RawMessage
	i, err := strconv.Atoi(token)
	if err != nil || i < 0 || json.Unmarshal(body, &array) != nil || i >= len(array) {
		return nil, false
	}
	return array[i], true
}
