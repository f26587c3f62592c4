package securemail

import (
	"fmt"
	"maps"
	"math"
	"mime"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The words that [Fault].Rule holds.
const (
	ruleRequired  = "required"   // missing
	ruleAddress   = "address"    // malformed mailbox
	ruleDuplicate = "duplicate"  // the same address, or ContentID, a second time
	ruleVisible   = "visible"    // To and Cc together over Config.MaxVisible
	ruleCRLF      = "crlf"       // CR or LF where a line end would start a new field; in Raw: one without the other
	ruleControl   = "control"    // another control character
	ruleNUL       = "nul"        // a NUL octet
	ruleUTF8      = "utf8"       // not UTF-8
	ruleOwned     = "owned"      // a field that the library writes itself
	ruleName      = "name"       // no field name of RFC 5322 section 3.6.8
	ruleLine      = "line"       // over 998 octets and nowhere to fold
	ruleHeader    = "header"     // a broken header in Raw
	ruleFrom      = "from"       // Raw's author is unclear or another than Draft.From
	ruleType      = "type"       // no media type, or one that an attachment can't have
	ruleContentID = "content-id" // no Content-ID
	ruleBoth      = "both"       // given beside Raw
	ruleSize      = "size"       // too large
	ruleLabel     = "label"      // beyond what Labels allows
	ruleTime      = "time"       // ends before it begins, or outside of the years 1970 to 9999
	ruleUnknown   = "unknown"    // a value that this version does not know
)

// Bounds of single values, in octets.
const (
	maxKey       = 255
	maxLabels    = 10
	maxLabel     = 64
	maxFieldName = 70
	maxWord      = 900
	maxFileName  = 1024
	maxType      = 255
	maxContentID = 200
)

// ownedField tells which fields are written by the library, or by those who carry, sign or check the message, so that a
// host can't set them: the ones below, and all of Content-*, ARC-* and Resent-*. TLS-Required (RFC 8689 section 5) is
// among them since it would ask relays to go below a floor; HP-Outer belongs to header protection (RFC 9788). List-*,
// In-Reply-To, References and everything else is the host's.
func ownedField(name string) bool {
	switch canonicalName(name) {
	case "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Subject", "Date", "Message-Id", "Mime-Version",
		"Return-Path", "Received", "Received-Spf", "Delivered-To", "Dkim-Signature", "Domainkey-Signature",
		"Authentication-Results", "Tls-Required", "Hp-Outer":
		return true
	}
	lower := strings.ToLower(name)
	return strings.HasPrefix(lower, "content-") || strings.HasPrefix(lower, "arc-") || strings.HasPrefix(lower, "resent-")
}

// limits are the parts of a Config that bound a Draft.
type limits struct {
	maxVisible int   // To and Cc together
	maxSize    int64 // octets of the message
}

// validate names every fault of d that can be seen without reading a Source. Order: as the fields of Draft.
func (d *Draft) validate(l limits) []Fault {
	v := &validator{seen: make(map[Address]bool)}
	v.key(d.Key)
	v.authors(d)
	v.recipients(d, l)
	if d.Raw == nil {
		v.content(d)
	} else {
		v.raw(d)
	}
	v.size(d, l)
	v.values(d)
	v.labels(d.Labels)
	return v.faults
}

type validator struct {
	faults []Fault
	seen   map[Address]bool
}

func (v *validator) add(field, rule string) { v.faults = append(v.faults, Fault{field, rule}) }

func (v *validator) addIf(is bool, field, rule string) {
	if is {
		v.add(field, rule)
	}
}

func (v *validator) key(key string) {
	v.addIf(len(key) > maxKey, "Key", ruleSize)
	v.line("Key", key)
}

// line checks text that must stay on one line of a header.
func (v *validator) line(field, s string) {
	if rule := lineFault(s); rule != "" {
		v.add(field, rule)
	}
}

func lineFault(s string) string {
	switch {
	case strings.ContainsAny(s, "\r\n"):
		return ruleCRLF
	case strings.IndexByte(s, 0) >= 0:
		return ruleNUL
	case !utf8.ValidString(s):
		return ruleUTF8
	case strings.ContainsFunc(s, unicode.IsControl):
		return ruleControl
	}
	return ""
}

// text checks content that may have line ends.
func (v *validator) text(field, s string) {
	switch {
	case strings.IndexByte(s, 0) >= 0:
		v.add(field, ruleNUL)
	case !utf8.ValidString(s):
		v.add(field, ruleUTF8)
	}
}

func (v *validator) authors(d *Draft) {
	switch {
	case d.From.fault != nil:
		v.add("From", ruleAddress)
	case d.From.Address == (Address{}):
		// Of Raw the author is taken; a name without an address is a slip either way.
		v.addIf(d.Raw == nil || d.From.Name != "", "From", ruleRequired)
	}
	v.contact("From", d.From)
	v.addIf(d.ReplyTo.fault != nil || d.ReplyTo.Address == (Address{}) && d.ReplyTo.Name != "", "ReplyTo", ruleAddress)
	v.contact("ReplyTo", d.ReplyTo)
}

// contact checks what a store, a page or a header may be made of.
func (v *validator) contact(field string, c Contact) {
	v.line(field, c.Name)
	rest := append([]string{c.Ref, c.Language, c.TimeZone}, slices.Sorted(maps.Keys(c.Attrs))...)
	for _, s := range append(rest, slices.Sorted(maps.Values(c.Attrs))...) {
		if rule := lineFault(s); rule != "" {
			v.add(field, rule)
			return
		}
	}
}

func (v *validator) recipients(d *Draft, l limits) {
	v.addIf(len(d.To)+len(d.Cc)+len(d.Bcc)+len(d.Each) == 0, "To", ruleRequired)
	v.addIf(l.maxVisible > 0 && len(d.To)+len(d.Cc) > l.maxVisible, "To", ruleVisible)
	v.list("To", d.To)
	v.list("Cc", d.Cc)
	v.list("Bcc", d.Bcc)
	v.list("Each", d.Each)
}

func (v *validator) list(field string, rs []Recipient) {
	for i, r := range rs {
		place := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case r.fault != nil || r.Address == (Address{}):
			v.add(place, ruleAddress)
		case v.seen[r.Address]:
			v.add(place, ruleDuplicate)
		}
		v.seen[r.Address] = true
		v.contact(place, r.Contact)
		for _, f := range r.Factors {
			v.line(place, f.Kind)
			v.text(place, f.Hint)
		}
	}
}

func (v *validator) raw(d *Draft) {
	v.addIf(d.ReplyTo.Address != (Address{}), "ReplyTo", ruleBoth)
	v.addIf(d.Subject != "", "Subject", ruleBoth)
	v.addIf(d.Text != "", "Text", ruleBoth)
	v.addIf(d.HTML != "", "HTML", ruleBoth)
	v.addIf(len(d.Attachments) > 0, "Attachments", ruleBoth)
	v.addIf(len(d.Header) > 0, "Header", ruleBoth)
}

func (v *validator) content(d *Draft) {
	v.addIf(d.Text == "" && d.HTML == "" && len(d.Attachments) == 0, "Text", ruleRequired)
	v.line("Subject", d.Subject)
	v.text("Text", d.Text)
	v.text("HTML", d.HTML)
	ids := make(map[string]bool)
	for i, a := range d.Attachments {
		place := fmt.Sprintf("Attachments[%d]", i)
		v.attachment(place, a)
		v.addIf(a.ContentID != "" && ids[a.ContentID], place, ruleDuplicate)
		ids[a.ContentID] = true
	}
	v.header(d.Header)
}

func (v *validator) attachment(place string, a Attachment) {
	v.addIf(a.Content == nil, place, ruleRequired)
	v.line(place, a.Name)
	v.addIf(len(a.Name) > maxFileName, place, ruleName)
	if rule := lineFault(a.Type); rule != "" {
		v.add(place, rule)
	} else if _, ok := mediaType(a.Type); !ok {
		v.add(place, ruleType)
	}
	v.addIf(a.ContentID != "" && !validContentID(a.ContentID), place, ruleContentID)
}

// mediaType returns t as a Content-Type value. The file name has its own place, so a name parameter goes. A multipart
// can't be an attachment: its parts could not be encoded (RFC 2045 section 6.4).
func mediaType(t string) (string, bool) {
	if t == "" {
		return "application/octet-stream", true
	}
	name, params, err := mime.ParseMediaType(t)
	if err != nil || len(t) > maxType || !strings.Contains(name, "/") || strings.HasPrefix(name, "multipart/") {
		return "", false
	}
	delete(params, "name")
	s := mime.FormatMediaType(name, params)
	return s, s != ""
}

// validContentID accepts what can stand between the angle brackets of RFC 2045 section 7 and behind cid: (RFC 2392).
func validContentID(s string) bool {
	return len(s) <= maxContentID && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`<>()"\,;:[]`, r)
	})
}

// header checks in the order of names, so that equal drafts give equal faults.
func (v *validator) header(h map[string][]string) {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		switch {
		case lineFault(name) != "":
			v.add("Header", lineFault(name))
		case !validFieldName(name) || len(name) > maxFieldName:
			v.add("Header", ruleName)
		case ownedField(name):
			v.add("Header", ruleOwned)
		}
		for _, value := range h[name] {
			v.line("Header", value)
			v.addIf(longWord(value), "Header", ruleLine)
		}
	}
}

// longWord says that s can't be folded under 998 octets.
func longWord(s string) bool {
	for word := range words(s) {
		if len(word) > maxWord {
			return true
		}
	}
	return false
}

// size adds up what the Sources say, before any is opened; what encoding adds is checked by compose.
func (v *validator) size(d *Draft, l limits) {
	if l.maxSize <= 0 {
		return
	}
	total := int64(len(d.Subject)) + int64(len(d.Text)) + int64(len(d.HTML))
	for _, a := range d.Attachments {
		if a.Content != nil {
			total = addSize(total, a.Content.Size())
		}
	}
	if d.Raw != nil {
		total = addSize(total, d.Raw.Size())
	}
	v.addIf(total > l.maxSize, "Message", ruleSize)
}

// addSize stops at the largest number; a negative size counts as none.
func addSize(total, n int64) int64 {
	if sum := total + max(n, 0); sum >= total {
		return sum
	}
	return math.MaxInt64
}

func (v *validator) values(d *Draft) {
	switch d.Purpose {
	case "", PurposeTreatment, PurposePayment, PurposeOperations, PurposeMarketing, PurposeSystem:
	default:
		v.add("Purpose", ruleUnknown)
	}
	v.addIf(d.Escalate > EscalateEscrow, "Escalate", ruleUnknown)
	v.addIf(d.Track&^(TrackOpens|TrackClicks) != 0, "Track", ruleUnknown)
	v.addIf(badTime(d.NotBefore), "NotBefore", ruleTime)
	v.ends("UsefulUntil", d.UsefulUntil, d.NotBefore)
	v.ends("AccessUntil", d.AccessUntil, d.NotBefore)
}

func (v *validator) ends(field string, t, begins time.Time) {
	v.addIf(badTime(t) || !t.IsZero() && !t.After(begins), field, ruleTime)
}

// lastYear is the last that RFC 3339, and so JSON, can write.
const lastYear = 9999

// badTime says that t is none that a store can hold; zero is fine.
func badTime(t time.Time) bool {
	y := t.UTC().Year()
	return !t.IsZero() && (y < 1970 || y > lastYear)
}

func (v *validator) labels(m map[string]string) {
	bad := len(m) > maxLabels
	for k, value := range m {
		bad = bad || !validLabel(k) || !validLabel(value)
	}
	v.addIf(bad, "Labels", ruleLabel)
}

func validLabel(s string) bool {
	return s != "" && len(s) <= maxLabel && !strings.ContainsFunc(s, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("._:/-", r)
	})
}
