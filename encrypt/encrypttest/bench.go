package encrypttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/internal/kit"
	"github.com/postseal/postseal/securemail"
)

// The rules, with where they are written.
const (
	ruleHarness    = "the harness must build what the kit asks for"
	ruleNoPanic    = "no input makes an implementation panic (securemail.Encryptor, KeySource)"
	ruleResult     = "nil error means a message and its evidence; an error means neither (securemail.Encryptor)"
	ruleWire       = "what leaves is a message fit for a wire (RFC 5322 section 2.1.1; securemail.NewMessage)"
	ruleMessageID  = "the Message-ID must stay (securemail.Encryptor)"
	ruleAlgorithm  = "Protection names the algorithm (securemail.Protection)"
	ruleKeys       = "Protection names the keys that it was sealed to, and no others (securemail.Protection)"
	ruleOuter      = "the header of sealed mail is encrypt.Outer's (RFC 9788 section 3.2.1; DESIGN 2)"
	ruleNotice     = "a notice shows no other recipient, no name and no field of its own (securemail: system mail; RFC 3834 section 5)"
	ruleHidden     = "subject, body, file names and Bcc are not visible in what leaves (45 CFR 164.312(e)(2)(ii))"
	ruleBcc        = "Bcc never shows (RFC 5322 section 3.6.3; RFC 9788 section 2.2.1)"
	ruleOpens      = "the recipient gets the original: subject, addresses and body octet by octet"
	ruleUnchanged  = "a method that seals nothing leaves the message as it is"
	ruleNoKey      = "no usable key is ErrNoKey, so that the next Choice is tried (securemail.Encryptor)"
	ruleNotNoKey   = "what is not about keys is never ErrNoKey, which would weaken the protection (securemail.Encryptor)"
	ruleJob        = "the Job, its keys and its message belong to the caller and are never written (securemail.Parcel)"
	ruleSilent     = "errors, logs and evidence carry no content and no address (securemail.Encryptor)"
	ruleMethod     = "Method is constant and that of the keys it takes (securemail.Encryptor)"
	ruleConcurrent = "it is called from many goroutines (securemail.Encryptor)"
	ruleRepeat     = "Encrypt may be called again for a parcel and leaves nothing twice (securemail.Encryptor)"
	ruleUndo       = "Undo destroys what was left for that parcel alone; a repeat and an unknown id are nil (securemail.Encryptor)"
	ruleCancel     = "an ended ctx ends the work with ctx's error (securemail.Encryptor)"
	ruleSource     = "a message that can't be read to its end is an error (securemail.Source)"
	ruleClosed     = "every reader that was opened is closed (io.Closer; a Source may be a file)"
	ruleSame       = "each Open of what leaves gives the same octets (securemail.Source), since a retry reads it again"
	ruleOnlyHe     = "nobody but the recipient opens it (45 CFR 164.312(e)(2)(ii))"
	ruleLength     = "the length tells nothing about the content: what is compressed does (RFC 8551 section 6; CRIME)"
	ruleDerived    = "nothing that shows is derived from content or address: a hash of a subject is soon guessed (DESIGN 4)"
	ruleFactor     = "an access code is in no error, log, evidence or mail (securemail.Factor)"
	ruleFresh      = "two parcels of one message have nothing in common but their plaintext"
	ruleIntegrity  = "what was changed on the way is not opened as something else (RFC 9580 section 13.7, EFAIL)"
)

// bench is one rig and the canaries of its mail.
type bench struct {
	*Rig
	c         *checker
	words     canaries
	logs      *kit.Capture
	from, to  securemail.Contact
	recipient string
}

// bench asks the harness for a fresh rig; the case ends here if there is none.
func (c *checker) bench(h Harness) *bench {
	words := newCanaries()
	b := &bench{c: c, words: words, logs: kit.NewCapture(), recipient: words[placeRecipient].word + "@recipient.example"}
	b.from = securemail.Mailbox(words[placeSender].word + "@sender.example")
	b.to = securemail.Mailbox("\"" + words[placeName].word + "\" <" + b.recipient + ">")
	if h.New == nil {
		c.Stopf(ruleHarness, "Harness.New is nil")
	}
	r, err := h.New(c.Ctx, Setup{Tenant: "tenant-1", Sender: b.from, Recipient: b.to, Logger: slog.New(b.logs)})
	switch {
	case err != nil:
		c.Stopf(ruleHarness, "the harness can't build a rig: %v", err)
	case r == nil || r.Encryptor == nil || r.Open == nil && !r.Plain:
		c.Stopf(ruleHarness, "the rig has no Encryptor or no Open")
	}
	if r.Close != nil {
		c.Closes(r.Close)
	}
	b.Rig = r
	return b
}

// message makes a shape.
func (b *bench) message(s shape) *securemail.Message {
	m, err := securemail.NewMessage(securemail.Bytes([]byte(s.raw(b.words, b.recipient, b.from.Address.Reveal()))))
	if err != nil {
		b.c.Stopf(ruleHarness, "the kit's own message %q: %v", s.name, err)
	}
	return m
}

// job makes a Job with copies of the rig's keys.
func (b *bench) job(m *securemail.Message) *securemail.Job {
	j := &securemail.Job{
		Parcel: &securemail.Parcel{
			Slip: securemail.Slip{
				ID: securemail.ParcelID(strings.ToLower(rand.Text())), Submission: strings.ToLower(rand.Text()),
				Actor: securemail.Actor{Tenant: "tenant-1", ID: "kit", Kind: "service"},
				From:  b.from, Recipient: b.to, Subjects: []securemail.Subject{securemail.Subject(b.words[placePatient].word)},
				Size: m.Size(), Labels: map[string]string{"k": "v"},
			},
			Factors: slices.Clone(b.Factors), Message: m,
		},
		Choice: securemail.Choice{Method: b.Encryptor.Method(), Profile: b.Profile},
	}
	for _, k := range b.Keys {
		j.Keys = append(j.Keys, copyKey(k))
	}
	return j
}

func copyKey(k securemail.Key) securemail.Key {
	k.Public = slices.Clone(k.Public)
	for i := range k.Public {
		k.Public[i] = bytes.Clone(k.Public[i])
	}
	k.Capabilities = slices.Clone(k.Capabilities)
	return k
}

// snapshot is all of a Job that an Encryptor could write to.
func snapshot(j *securemail.Job) (parcel securemail.Parcel, choice securemail.Choice, keys []securemail.Key) {
	parcel = *j.Parcel
	parcel.Labels = map[string]string{}
	for k, v := range j.Labels {
		parcel.Labels[k] = v
	}
	parcel.Subjects, parcel.Factors = slices.Clone(j.Subjects), slices.Clone(j.Factors)
	for _, k := range j.Keys {
		keys = append(keys, copyKey(k))
	}
	return parcel, j.Choice, keys
}

// encrypt calls the Encryptor and checks what holds for every call.
func (b *bench) encrypt(ctx context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	parcel, choice, keys := snapshot(j)
	original := j.Parcel
	s, err := b.guarded(ctx, j)
	if j.Parcel != original || !reflect.DeepEqual(parcel, *j.Parcel) || choice != j.Choice || !reflect.DeepEqual(keys, j.Keys) {
		b.c.Failf(ruleJob, "the Job was changed")
	}
	b.silent(err)
	if err != nil {
		if s != nil {
			b.c.Failf(ruleResult, "an error and a result")
		}
		return nil, err
	}
	if s == nil || s.Message == nil {
		b.c.Stopf(ruleResult, "no error and no message")
	}
	b.evidence(s, j)
	return s, nil
}

var errPanic = errors.New("panic")

func (b *bench) guarded(ctx context.Context, j *securemail.Job) (s *securemail.Sealed, err error) {
	defer func() {
		if p := recover(); p != nil {
			b.c.Failf(ruleNoPanic, "Encrypt: panic: %s", kit.PanicText(p))
			s, err = nil, errPanic
		}
	}()
	return b.Encryptor.Encrypt(ctx, j)
}

// silent looks for canaries where none may be.
func (b *bench) silent(err error) {
	text := errorText(err) + b.logs.Text()
	if b.c.Fallback != nil {
		text += b.c.Fallback.Text()
	}
	if found := b.words.found(text); len(found) > 0 {
		b.c.Failf(ruleSilent, "in an error or log: %s", strings.Join(found, ", "))
	}
	b.noFactor(text, "an error or log")
}

// evidence checks Protection.
func (b *bench) evidence(s *securemail.Sealed, j *securemail.Job) {
	text := s.Algorithm + " " + strings.Join(s.Keys, " ")
	for k, v := range s.Detail {
		text += " " + k + " " + v
	}
	if found := b.words.found(text); len(found) > 0 {
		b.c.Failf(ruleSilent, "in Protection: %s", strings.Join(found, ", "))
	}
	b.noFactor(text, "Protection")
	b.notDerived(j.Message, text, "Protection")
	if s.Algorithm == "" {
		b.c.Failf(ruleAlgorithm, "Protection.Algorithm is empty")
	}
	if b.Rig.Keys == nil {
		return
	}
	if len(s.Keys) == 0 {
		b.c.Failf(ruleKeys, "Protection.Keys is empty")
	}
	for _, fp := range s.Keys {
		if !slices.ContainsFunc(j.Keys, func(k securemail.Key) bool { return k.Fingerprint == fp }) {
			b.c.Failf(ruleKeys, "Protection.Keys has a fingerprint that is none of the Job's")
		}
	}
}

// seal encrypts m for a Job of its own and checks the whole way to the recipient.
func (b *bench) seal(m *securemail.Message) *securemail.Sealed {
	j := b.job(m)
	s, err := b.encrypt(b.c.Ctx, j)
	if err != nil {
		b.c.Stopf(ruleResult, "Encrypt: %v", err)
	}
	b.judge(j, s)
	return s
}

// judge compares what left with the original.
func (b *bench) judge(j *securemail.Job, s *securemail.Sealed) {
	if b.Plain {
		if !bytes.Equal(octets(b.c, s.Message), octets(b.c, j.Message)) {
			b.c.Failf(ruleUnchanged, "the message was changed")
		}
		return
	}
	wire := octets(b.c, s.Message)
	if !bytes.Equal(wire, octets(b.c, s.Message)) {
		b.c.Failf(ruleSame, "the second Open gives others")
	}
	b.noFactor(string(wire), "what leaves")
	b.notDerived(j.Message, string(wire), "what leaves")
	if _, err := securemail.NewMessage(securemail.Bytes(wire)); err != nil {
		b.c.Failf(ruleWire, "%v", err)
	}
	if !slices.Equal(s.Message.Header("Message-ID"), j.Message.Header("Message-ID")) {
		b.c.Failf(ruleMessageID, "the Message-ID is another")
	}
	if b.Notice {
		b.notice(s.Message)
	} else {
		b.outer(j, s.Message)
	}
	if found := b.words.found(string(wire), placeSubject, placeBody, placeFile, placeBcc, placeHeader, placePatient); len(found) > 0 {
		b.c.Failf(ruleHidden, "visible: %s", strings.Join(found, ", "))
	}
	back, err := b.Open(b.c.Ctx, s.Message)
	if err != nil || back == nil {
		b.c.Failf(ruleOpens, "the recipient can't open it: %v", err)
		return
	}
	b.same(j.Message, back)
}

// outer compares the header field by field, those of the content left out.
func (b *bench) outer(j *securemail.Job, m *securemail.Message) {
	want, err := encrypt.Outer(j.Parcel, encrypt.Content{Type: "text/plain", Body: securemail.Bytes([]byte("x\r\n"))})
	if err != nil {
		b.c.Stopf(ruleHarness, "the kit's own message: %v", err)
	}
	have, foreign := envelope(m)
	should, _ := envelope(want)
	if !slices.Equal(have, should) {
		b.c.Failf(ruleOuter, "the header has fields that encrypt.Outer does not write, or others")
	}
	for _, name := range foreign {
		switch name {
		case "content-type", "content-transfer-encoding", "content-disposition":
		default:
			b.c.Failf(ruleOuter, "the header has the field %s", name)
		}
	}
}

// notice looks at the header of a mail that stands for the message.
func (b *bench) notice(m *securemail.Message) {
	fields, content := envelope(m)
	for _, f := range fields {
		switch name, _, _ := strings.Cut(strings.ToLower(f), ":"); name {
		case "date", "from", "to", "subject", "message-id", "auto-submitted", "mime-version":
		default:
			b.c.Failf(ruleNotice, "the header has the field %s", name)
		}
	}
	for _, name := range content {
		if name != "content-type" && name != "content-transfer-encoding" {
			b.c.Failf(ruleNotice, "the header has the field %s", name)
		}
	}
	if to := m.Header("To"); len(to) != 1 || strings.Trim(to[0], "<>") != b.recipient {
		b.c.Failf(ruleNotice, "To is not the recipient's address alone")
	}
	if found := b.words.found(string(octets(b.c, m)), placeName); len(found) > 0 {
		b.c.Failf(ruleNotice, "visible: %s", strings.Join(found, ", "))
	}
}

// envelope splits the header into fields that are not about content, whole, and the names of those that are.
func envelope(m *securemail.Message) (fields, content []string) {
	head := strings.ReplaceAll(string(m.Head()), "\r\n ", "\r\r ")
	head = strings.ReplaceAll(head, "\r\n\t", "\r\r\t")
	for f := range strings.SplitSeq(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n") {
		name, _, _ := strings.Cut(strings.ToLower(f), ":")
		if strings.HasPrefix(name, "content-") {
			content = append(content, name)
			continue
		}
		fields = append(fields, f)
	}
	return fields, content
}

// same compares what the recipient reads with the original.
func (b *bench) same(original, back *securemail.Message) {
	for _, name := range []string{"Subject", "From", "To", "Cc", "Date", "Message-ID", "Reply-To", "In-Reply-To"} {
		if !slices.Equal(original.Header(name), back.Header(name)) {
			b.c.Failf(ruleOpens, "the field %s is another", name)
		}
	}
	if !bytes.Equal(octets(b.c, original.Body()), octets(b.c, back.Body())) {
		b.c.Failf(ruleOpens, "the body is another")
	}
	if len(back.Header("Bcc")) > 0 || b.words[placeBcc].in(string(back.Head())) {
		b.c.Failf(ruleBcc, "the recipient sees Bcc")
	}
}

func octets(c *checker, s securemail.Source) []byte {
	r, err := s.Open()
	if err != nil {
		c.Stopf(ruleWire, "can't be read: %v", err)
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil {
		c.Stopf(ruleWire, "can't be read: %v", err)
	}
	if int64(len(all)) != s.Size() {
		c.Failf(ruleWire, "Size is not the number of octets")
	}
	return all
}
