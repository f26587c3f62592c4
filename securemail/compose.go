package securemail

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// composeContext is what a message needs besides its Draft.
type composeContext struct {
	domain    string        // right side of Message-IDs; empty: From's domain
	now       time.Time     // the Date
	messageID func() string // left side of a Message-ID, fresh on each call; nil: 160 random bits
	maxSize   int64         // octets of one message; 0: unbounded
}

// compose makes the messages of a Draft that validate found no fault with. shared goes to To, Cc and Bcc, and is nil
// where all three are empty; each[i] goes to d.Each[i]. The copies share one Body value. Faults are those that only
// reading the content shows; an error is a Source that can't be read.
// d is not changed: of a Raw without Draft.From, rawAuthor of any of the messages is the author.
func compose(d *Draft, c composeContext) (shared *Message, each []*Message, faults []Fault, err error) {
	if d.Raw != nil {
		return composeRaw(d, c)
	}
	base, faults, err := composeBody(d, c.maxSize)
	if base == nil {
		return nil, nil, faults, err
	}
	if len(d.To)+len(d.Cc)+len(d.Bcc) > 0 {
		if shared, faults, err = withFields(base, d, c, d.To, d.Cc); shared == nil {
			return nil, nil, faults, err
		}
	}
	for i := range d.Each {
		m, faults, err := withFields(base, d, c, d.Each[i:i+1], nil)
		if m == nil {
			return nil, nil, faults, err
		}
		each = append(each, m)
	}
	return shared, each, nil, nil
}

// withFields puts the fields of RFC 5322 section 3.6 in front of base's MIME fields. Bcc is never among them.
func withFields(base *Message, d *Draft, c composeContext, to, cc []Recipient) (*Message, []Fault, error) {
	var head bytes.Buffer
	add := func(name, value string) {
		if value != "" {
			head.Write(foldField(name, value))
		}
	}
	add("Date", c.now.Format(dateLayout))
	add("From", formatContact(d.From))
	if d.ReplyTo.Address != (Address{}) {
		add("Reply-To", formatContact(d.ReplyTo))
	}
	if len(to)+len(cc) == 0 {
		add("To", "undisclosed-recipients:;")
	}
	add("To", formatList(to))
	add("Cc", formatList(cc))
	add("Subject", encodeText(d.Subject))
	add("Message-ID", c.newMessageID(d.From.Address))
	for _, name := range sortedNames(d.Header) {
		for _, value := range d.Header[name] {
			head.Write(foldField(name, encodeUnstructured(value)))
		}
	}
	head.Write(base.head)
	return finish(base, head.Bytes(), c.maxSize)
}

// dateLayout is RFC 5322 section 3.3.
const dateLayout = "Mon, 02 Jan 2006 15:04:05 -0700"

func finish(base *Message, head []byte, maxSize int64) (*Message, []Fault, error) {
	m, err := base.WithHead(head)
	if err != nil {
		return nil, []Fault{faultOf("Header", err)}, nil
	}
	if maxSize > 0 && m.Size() > maxSize {
		return nil, []Fault{{"Message", ruleSize}}, nil
	}
	return m, nil, nil
}

func (c composeContext) newMessageID(from Address) string {
	left := ""
	if c.messageID != nil {
		left = c.messageID()
	} else {
		var b [20]byte
		_, _ = rand.Read(b[:]) // never fails: crypto/rand
		left = strings.ToLower(idEncoding.EncodeToString(b[:]))
	}
	return "<" + left + "@" + cmp.Or(c.domain, from.domain) + ">"
}

// faultOf names the rule that an error of NewMessage or WithHead stands for.
func faultOf(field string, err error) Fault {
	switch {
	case errors.Is(err, errBareCR), errors.Is(err, errBareLF):
		return Fault{field, ruleCRLF}
	case errors.Is(err, errNUL):
		return Fault{field, ruleNUL}
	case errors.Is(err, errLine):
		return Fault{field, ruleLine}
	case errors.Is(err, errHeadSize):
		return Fault{field, ruleSize}
	case errors.Is(err, errHeader):
		return Fault{field, ruleHeader}
	}
	return Fault{}
}

// composeRaw takes a whole message. Every octet of it stays but for the Bcc and TLS-Required fields, which are cut out,
// and a Date and a Message-ID at the top where it has none (RFC 6409 section 8).
func composeRaw(d *Draft, c composeContext) (shared *Message, each []*Message, faults []Fault, err error) {
	if c.maxSize > 0 && d.Raw.Size() > c.maxSize {
		return nil, nil, []Fault{{"Message", ruleSize}}, nil
	}
	m, err := NewMessage(d.Raw)
	if err != nil {
		if f := faultOf("Raw", err); f != (Fault{}) {
			return nil, nil, []Fault{f}, nil
		}
		return nil, nil, nil, err
	}
	if len(m.Header("Message-ID")) > 1 {
		return nil, nil, []Fault{{"Raw", ruleDuplicate}}, nil // neither replies nor evidence could name it
	}
	author, fault := rawAuthor(m)
	switch {
	case fault != "" && d.From.Address == (Address{}):
		return nil, nil, []Fault{{"From", fault}}, nil
	case fault != "":
		return nil, nil, []Fault{{"Raw", ruleFrom}}, nil
	case d.From.Address != (Address{}) && d.From.Address != author.Address:
		return nil, nil, []Fault{{"From", ruleFrom}}, nil
	}
	m, faults, err = finish(m, rawHead(m, author.Address, c), c.maxSize)
	if m == nil {
		return nil, nil, faults, err
	}
	if len(d.To)+len(d.Cc)+len(d.Bcc) > 0 {
		shared = m
	}
	return shared, slices.Repeat([]*Message{m}, len(d.Each)), nil, nil
}

// rawAuthor returns the mailbox that answers for m: the one in From or, where From has several, the one in Sender
// (RFC 5322 section 3.6.2). A second From or Sender field could show a reader another author than the one that was
// checked, and so could one that can't be read, so they are refused. The fault is "" or a rule.
func rawAuthor(m *Message) (author Contact, fault string) {
	from, sender := m.Header("From"), m.Header("Sender")
	switch {
	case len(from) == 0:
		return Contact{}, ruleRequired
	case len(from) > 1 || len(sender) > 1:
		return Contact{}, ruleFrom
	}
	authors := mailboxes(from[0])
	var senders []Contact
	if len(sender) == 1 {
		if senders = mailboxes(sender[0]); len(senders) != 1 {
			return Contact{}, ruleFrom
		}
	}
	switch {
	case len(authors) == 1:
		return authors[0], ""
	case len(authors) > 1 && len(senders) == 1:
		return senders[0], ""
	}
	return Contact{}, ruleFrom
}

// rawClaims are all the mailboxes that m shows as its origin. Readers show From, Sender, or both, so m's tenant must be
// allowed to write as each.
func rawClaims(m *Message) []Address {
	var as []Address
	for _, name := range []string{"From", "Sender"} {
		for _, field := range m.Header(name) {
			for _, c := range mailboxes(field) {
				as = append(as, c.Address)
			}
		}
	}
	return as
}

// mailboxes reads field; none: some of it can't be read. Raw 8-bit names of old clients are no UTF-8; such an octet in an
// address itself makes it malformed. A name that would break a header is left out: others write it into fields of theirs.
func mailboxes(field string) []Contact {
	list, err := mailboxParser().ParseList(strings.ToValidUTF8(field, "\ufffd"))
	if err != nil {
		return nil
	}
	cs := make([]Contact, len(list))
	for i, l := range list {
		a, err := ParseAddress(l.Address)
		if err != nil || strings.ContainsRune(a.local, utf8.RuneError) {
			return nil
		}
		if cs[i].Address = a; lineFault(l.Name) == "" {
			cs[i].Name = readableName(l.Name)
		}
	}
	return cs
}

// rawHead cuts Bcc and Resent-Bcc (RFC 5322 sections 3.6.3 and 3.6.6), and TLS-Required, out of m's header and adds what
// is missing.
func rawHead(m *Message, author Address, c composeContext) []byte {
	var head bytes.Buffer
	if len(m.Header("Date")) == 0 {
		head.Write(foldField("Date", c.now.Format(dateLayout)))
	}
	if len(m.Header("Message-ID")) == 0 {
		head.Write(foldField("Message-ID", c.newMessageID(author)))
	}
	for field := range headFields(m.head) {
		name, _, _ := strings.Cut(field, ":")
		switch canonicalName(strings.TrimRight(name, " \t")) {
		case "Bcc", "Resent-Bcc", "Tls-Required":
		default:
			head.WriteString(field)
		}
	}
	head.WriteString("\r\n")
	return head.Bytes()
}

func sortedNames(h map[string][]string) []string {
	return slices.SortedFunc(maps.Keys(h), func(a, b string) int {
		return cmp.Or(cmp.Compare(canonicalName(a), canonicalName(b)), cmp.Compare(a, b))
	})
}

// digest is a SHA-256 over everything in d that changes what is sent, to whom, when and how: all but Key. Each value
// is preceded by its length and each list by its count, so that no two drafts share an encoding. It reads every
// Source, by content and not by size alone.
func (d *Draft) digest() ([32]byte, error) {
	w := digestWriter{h: sha256.New()}
	w.text("postseal draft 1")
	w.contact(d.From)
	w.contact(d.ReplyTo)
	for _, list := range [][]Recipient{d.To, d.Cc, d.Bcc, d.Each} {
		w.recipients(list)
	}
	w.texts(d.Subject, d.Text, d.HTML)
	w.number(int64(len(d.Attachments)))
	for _, a := range d.Attachments {
		w.texts(a.Name, a.Type, a.ContentID)
		w.source(a.Content)
	}
	w.number(int64(len(d.Header)))
	for _, name := range sortedNames(d.Header) {
		w.text(name)
		w.number(int64(len(d.Header[name])))
		w.texts(d.Header[name]...)
	}
	w.source(d.Raw)
	w.texts(d.ReturnPath.Reveal(), string(d.Purpose))
	w.number(int64(len(d.Subjects)))
	for _, s := range d.Subjects {
		w.text(string(s))
	}
	w.number(int64(d.Escalate))
	w.number(int64(d.Track))
	w.number(int64(d.Priority))
	w.pairs(d.Labels)
	w.times(d.NotBefore, d.UsefulUntil, d.AccessUntil)
	if w.err != nil {
		return [32]byte{}, w.err
	}
	return [32]byte(w.h.Sum(nil)), nil
}

// digestWriter keeps the first error.
type digestWriter struct {
	h   hash.Hash
	err error
}

func (w *digestWriter) number(n int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	w.h.Write(b[:])
}

func (w *digestWriter) text(s string) {
	w.number(int64(len(s)))
	_, _ = io.WriteString(w.h, s)
}

func (w *digestWriter) texts(ss ...string) {
	for _, s := range ss {
		w.text(s)
	}
}

func (w *digestWriter) pairs(m map[string]string) {
	w.number(int64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		w.texts(k, m[k])
	}
}

func (w *digestWriter) contact(c Contact) {
	w.texts(c.Name, c.Address.local, c.Address.domain, c.Ref, c.Language, c.TimeZone)
	w.pairs(c.Attrs)
}

func (w *digestWriter) recipients(rs []Recipient) {
	w.number(int64(len(rs)))
	for _, r := range rs {
		w.contact(r.Contact)
		w.number(int64(len(r.Factors)))
		for _, f := range r.Factors {
			w.texts(f.Kind, f.Hint, f.Value.Reveal())
		}
	}
}

// times writes instants; equal instants in two time zones are equal.
func (w *digestWriter) times(ts ...time.Time) {
	for _, t := range ts {
		if t.IsZero() {
			w.text("")
			continue
		}
		w.text(t.UTC().Format(time.RFC3339Nano))
	}
}

func (w *digestWriter) source(s Source) {
	if s == nil || w.err != nil {
		w.text("")
		return
	}
	w.text("source")
	w.number(s.Size())
	w.err = copySource(w.h, s)
}

// copySource writes exactly what s promised.
func copySource(w io.Writer, s Source) error {
	r, err := s.Open()
	if err != nil {
		return fmt.Errorf("securemail: open source: %w", err)
	}
	defer r.Close()
	if _, err = io.Copy(w, &exactly{r: r, left: s.Size()}); err != nil {
		return fmt.Errorf("securemail: read source: %w", err)
	}
	return nil
}
