package encrypttest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/encrypttest"
	"github.com/postseal/postseal/securemail"
)

const methodBox securemail.Method = "x-box"

// box is the reference: an Encryptor as small as can be, whose key is symmetric and stands in Public[0] behind its
// checksum. With leaves set it keeps a deposit a parcel, as escrow does. Faults are switched on by name.
type box struct {
	log    *slog.Logger
	fault  string
	leaves bool
	notice bool // the header of a notice in place of encrypt.Outer's

	mu       sync.Mutex // guards deposits, shared and kept
	deposits map[securemail.ParcelID]int
	shared   *securemail.Job                            // for the fault "job in a field"
	kept     map[securemail.ParcelID]*securemail.Sealed // for the fault "remembers the parcel"
}

func newBoxKey() securemail.Key {
	k := make([]byte, 32)
	_, _ = rand.Read(k)
	sum := sha256.Sum256(k)
	return securemail.Key{Method: methodBox, Fingerprint: hex.EncodeToString(sum[:20]), Public: [][]byte{append(sum[:], k...)}}
}

func (b *box) is(fault string) bool { return b.fault == fault }

func (b *box) Method() securemail.Method {
	if b.is("no method") {
		return ""
	}
	return methodBox
}

func (b *box) pick(keys []securemail.Key) (used []securemail.Key, err error) {
	for _, k := range keys {
		if k.Method != methodBox && !b.is("takes other methods") {
			continue
		}
		if b.is("panics on a short key") {
			_ = k.Public[0][63]
		}
		if len(k.Public) == 0 || len(k.Public[0]) != 64 {
			err = errors.New("box: malformed key")
			continue
		}
		sum := sha256.Sum256(k.Public[0][32:])
		if !bytes.Equal(sum[:], k.Public[0][:32]) || hex.EncodeToString(sum[:20]) != k.Fingerprint && !b.is("trusts the fingerprint") {
			err = errors.New("box: key does not fit")
			continue
		}
		used = append(used, k)
	}
	switch {
	case b.is("one bad key spoils all") && err != nil, len(used) == 0:
	default:
		return used[:1], nil
	}
	switch {
	case b.is("no key is a plain error"):
		return nil, errors.New("box: no key")
	case b.is("no key is a hold"):
		return nil, fmt.Errorf("box: no key: %w", securemail.ErrHold)
	case b.is("no key is everything"):
		return nil, errors.Join(securemail.ErrNoKey, securemail.ErrHold)
	}
	return nil, fmt.Errorf("box: no key: %w", securemail.ErrNoKey)
}

func (b *box) Encrypt(ctx context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	if err := ctx.Err(); err != nil && !b.is("ignores ctx") {
		if b.is("ctx is no key") {
			return nil, fmt.Errorf("%w: %w", securemail.ErrNoKey, err)
		}
		return nil, err
	}
	if b.is("nothing at all") {
		return nil, nil
	}
	if s := b.remembered(j.ID, nil); s != nil {
		return s, nil
	}
	b.misbehave(j)
	used, err := b.pick(j.Keys)
	if err != nil {
		return nil, err
	}
	if b.is("job in a field") {
		b.mu.Lock()
		b.shared = j
		b.mu.Unlock()
	}
	body, err := b.body(j, used[0].Public[0][32:])
	if err != nil {
		switch {
		case b.is("error with the subject"):
			return nil, fmt.Errorf("box: %s: %w", j.Message.Header("Subject"), err)
		case b.is("broken source is no key"):
			return nil, fmt.Errorf("%w: %w", securemail.ErrNoKey, err)
		case b.is("error and a result"):
			return &securemail.Sealed{Message: j.Message}, err
		}
		return nil, err
	}
	if b.is("job in a field") {
		b.mu.Lock()
		j = b.shared
		b.mu.Unlock()
	}
	m, err := b.outer(j.Parcel, b.source(body, func() []byte {
		again, _ := b.body(j, used[0].Public[0][32:])
		return again
	}))
	if err != nil {
		return nil, err
	}
	b.leave(j.ID)
	s := &securemail.Sealed{Message: m, Protection: b.protection(j, used)}
	b.remembered(j.ID, s)
	return s, nil
}

// remembered keeps s, if it is not nil, for the fault "remembers the parcel".
func (b *box) remembered(id securemail.ParcelID, s *securemail.Sealed) *securemail.Sealed {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.is("remembers the parcel") && s != nil {
		b.kept[id] = s
	}
	return b.kept[id]
}

// misbehave does what is wrong before anything is sealed.
func (b *box) misbehave(j *securemail.Job) {
	switch b.fault {
	case "writes into a key":
		for _, k := range j.Keys {
			if len(k.Public) > 0 && len(k.Public[0]) > 0 {
				k.Public[0][0] ^= 1
			}
		}
	case "changes the parcel":
		j.Parcel.Labels["sealed"] = "yes"
	case "sorts the keys":
		if len(j.Keys) > 1 {
			j.Keys[0], j.Keys[1] = j.Keys[1], j.Keys[0]
		}
	case "swaps the message":
		j.Parcel = j.With(j.Message)
	case "logs the subject":
		b.log.Debug("sealing", "subject", strings.Join(j.Message.Header("Subject"), " "))
	case "leaves a reader open":
		if r, err := j.Message.Open(); err == nil {
			_, _ = r.Read(make([]byte, 10))
		}
	case "logs the code":
		b.log.Info("sealing", "factor", j.Factors[0].Value.Reveal())
	case "logs the address":
		b.log.Info("sealing", "to", j.Recipient.Address.Reveal())
	}
}

// source is the body that leaves.
func (b *box) source(body []byte, again func() []byte) securemail.Source {
	if b.is("seals anew at each read") {
		return &lazy{len(body), again}
	}
	return securemail.Bytes(body)
}

// lazy seals when it is read.
type lazy struct {
	size int
	seal func() []byte
}

func (l *lazy) Size() int64                  { return int64(l.size) }
func (l *lazy) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l.seal())), nil }

func deflated(plain []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(plain)
	_ = w.Close()
	return out.Bytes()
}

func inflated(b []byte) (securemail.Source, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(r)
	return securemail.Bytes(plain), err
}

// body is the sealed payload in base64, behind a random name that the opener knows.
func (b *box) body(j *securemail.Job, key []byte) ([]byte, error) {
	p := j.Parcel
	if b.is("trims the body") || b.is("eight bits lost") || b.is("drops attachments") {
		p = b.spoiled(p)
	}
	s, err := encrypt.Payload(p)
	if err != nil {
		return nil, err
	}
	plain, err := b.read(s)
	if err != nil {
		return nil, err
	}
	if b.is("bcc inside") {
		plain = append([]byte("Bcc: "+strings.Join(p.Message.Header("Bcc"), "")+"\r\n"), plain...)
	}
	if b.is("subject lost") {
		plain = bytes.Replace(plain, []byte("\r\nSubject:"), []byte("\r\nX-Subject:"), 1)
	}
	switch b.fault {
	case "encodes only":
		return lines(plain), nil
	case "compresses only":
		return lines(deflated(plain)), nil
	case "compresses first":
		plain = deflated(plain)
	case "one key for all":
		key = make([]byte, 32)
	}
	return b.sealed(plain, key)
}

func (b *box) spoiled(p *securemail.Parcel) *securemail.Parcel {
	r, err := p.Message.Body().Open()
	if err != nil {
		return p
	}
	defer r.Close()
	body, _ := io.ReadAll(r)
	switch b.fault {
	case "trims the body":
		body = bytes.TrimSpace(body)
	case "eight bits lost":
		for i := range body {
			body[i] &= 0x7f
		}
	case "drops attachments":
		if i := bytes.Index(body, []byte("\r\n--b1\r\nContent-Type: application")); i >= 0 {
			body = append(body[:i:i], "\r\n--b1--\r\n"...)
		}
	}
	m, err := securemail.NewMessage(securemail.Bytes(append(p.Message.Head(), body...)))
	if err != nil {
		return p
	}
	return p.With(m)
}

func (b *box) read(s securemail.Source) ([]byte, error) {
	r, err := s.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var in io.Reader = r
	if b.is("cuts at 1 MiB") {
		in = io.LimitReader(r, 1<<20)
	}
	all, err := io.ReadAll(in)
	if b.is("half a message is enough") {
		err = nil
	}
	return all, err
}

func (b *box) sealed(plain, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, 16)
	if !b.is("same nonce") {
		_, _ = rand.Read(nonce)
	} else {
		// the boundary of Payload is random: take it out, as a caller with a fixed one would
		plain = bytes.ReplaceAll(plain, boundary(plain), bytes.Repeat([]byte("B"), len(boundary(plain))))
	}
	if b.is("no integrity") {
		out := bytes.Clone(plain)
		cipher.NewCTR(block, nonce).XORKeyStream(out, out)
		return lines(append(append([]byte{'c'}, nonce...), out...)), nil
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, 16)
	if err != nil {
		return nil, err
	}
	return lines(append(append([]byte{'g'}, nonce...), gcm.Seal(nil, nonce, plain, nil)...)), nil
}

func boundary(plain []byte) []byte {
	_, rest, _ := bytes.Cut(plain, []byte("=_wrap_"))
	return rest[:26]
}

func lines(b []byte) []byte {
	var out bytes.Buffer
	enc := base64.StdEncoding.EncodeToString(b)
	for len(enc) > 0 {
		n := min(76, len(enc))
		out.WriteString(enc[:n] + "\r\n")
		enc = enc[n:]
	}
	return out.Bytes()
}

func (b *box) outer(p *securemail.Parcel, body securemail.Source) (*securemail.Message, error) {
	c := encrypt.Content{Type: "application/octet-stream", Encoding: "base64", Body: body}
	switch b.fault {
	case "digest of the subject outside":
		sum := sha256.Sum256([]byte(strings.Join(p.Message.Header("Subject"), "")))
		c.Type += "; name=" + hex.EncodeToString(sum[:10])
	case "code outside":
		c.Type += "; name=" + p.Factors[0].Value.Reveal()
	}
	if b.is("To is not changed for Bcc") {
		q := *p
		q.Recipient.Address = securemail.Mailbox("second@recipient.example").Address
		p = &q
	}
	m, err := encrypt.Outer(p, c)
	if err != nil {
		return nil, err
	}
	head := string(m.Head())
	subject := "Subject: " + strings.Join(p.Message.Header("Subject"), "") + "\r\n"
	switch b.fault {
	case "subject outside":
		head = strings.Replace(head, "Subject: [...]\r\n", subject, 1)
	case "translated placeholder":
		head = strings.Replace(head, "[...]", "Verschl=C3=BCsselt", 1)
	case "subject in a comment":
		head = strings.Replace(head, "MIME-Version:", "X-"+subject+"MIME-Version:", 1)
	case "new Message-ID":
		head = strings.Replace(head, "<1.2.3@", "<"+rand.Text()+"@", 1)
	case "Bcc outside":
		head = strings.Replace(head, "MIME-Version:", "Bcc: "+strings.Join(p.Message.Header("Bcc"), "")+"\r\nMIME-Version:", 1)
	case "own header field":
		head = strings.Replace(head, "MIME-Version:", "X-Mailer: box\r\nMIME-Version:", 1)
	case "own content field":
		head = strings.Replace(head, "Content-Type:", "Content-Description: box\r\nContent-Type:", 1)
	case "file name outside":
		if i := strings.Index(readAll(p.Message), "filename=\""); i >= 0 {
			name, _, _ := strings.Cut(readAll(p.Message)[i+10:], "\"")
			head = strings.Replace(head, "Content-Type: application/octet-stream", "Content-Type: application/octet-stream; name=\""+name+".box\"", 1)
		}
	}
	if b.notice {
		head = b.noticeHead(p, head)
	}
	if b.is("passes on") {
		return p.Message, nil
	}
	return m.WithHead([]byte(head))
}

// noticeHead leaves out what names other recipients.
func (b *box) noticeHead(p *securemail.Parcel, head string) string {
	out := "Auto-Submitted: auto-generated\r\nTo: <" + p.Recipient.Address.Reveal() + ">\r\n"
	switch b.fault {
	case "notice names another":
		out = "To: <" + p.Recipient.Address.Reveal() + ">, second@recipient.example\r\n"
	case "notice with a name":
		out += "X-Name: " + p.Recipient.Name + "\r\n"
	case "notice with content fields":
		out += "Content-Description: x\r\n"
	}
	for line := range strings.SplitAfterSeq(head, "\r\n") {
		name, _, _ := strings.Cut(line, ":")
		switch name {
		case "To", "Cc", "Reply-To", "In-Reply-To", "References", "Content-Disposition":
		default:
			if !strings.HasPrefix(line, " ") {
				out += line
			}
		}
	}
	return out
}

func readAll(m *securemail.Message) string {
	r, err := m.Open()
	if err != nil {
		return ""
	}
	defer r.Close()
	b, _ := io.ReadAll(r)
	return string(b)
}

func (b *box) protection(j *securemail.Job, used []securemail.Key) securemail.Protection {
	p := securemail.Protection{Algorithm: "box AES-256-GCM", Keys: []string{used[0].Fingerprint}, Detail: map[string]string{}}
	switch b.fault {
	case "no algorithm":
		p.Algorithm = ""
	case "no keys named":
		p.Keys = nil
	case "names a key that it has not":
		p.Keys = append(p.Keys, "00")
	case "names every key":
		p.Keys = nil
		for _, k := range j.Keys {
			p.Keys = append(p.Keys, k.Fingerprint)
		}
	case "code in the evidence":
		p.Detail["code"] = j.Factors[0].Value.Reveal()
	case "digest of the body in the evidence":
		_, body, _ := strings.Cut(readAll(j.Message), "\r\n\r\n")
		sum := sha256.Sum256([]byte(body))
		p.Detail["sha256"] = base64.StdEncoding.EncodeToString(sum[:])
	case "address in the evidence":
		p.Detail["to"] = j.Recipient.Address.Reveal()
	}
	return p
}

func (b *box) leave(id securemail.ParcelID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.is("leaves twice"):
		b.deposits[id]++
	default:
		b.deposits[id] = 1
	}
}

func (b *box) Undo(_ context.Context, id securemail.ParcelID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch _, known := b.deposits[id]; {
	case b.is("undo of nothing fails") && !known:
		return errors.New("box: no such parcel")
	case b.is("undo panics") && !known:
		panic("box: no such parcel")
	case b.is("undo does nothing"):
		return nil
	case b.is("undo of everything"):
		clear(b.deposits)
	}
	delete(b.deposits, id)
	return nil
}

// open is the recipient. With leaves set he needs the deposit as well.
func (b *box) open(m *securemail.Message, key []byte) (*securemail.Message, error) {
	if b.leaves && !b.is("undo leaves it readable") {
		b.mu.Lock()
		n := len(b.deposits)
		b.mu.Unlock()
		if n == 0 {
			return nil, errors.New("box: gone")
		}
	}
	_, body, _ := strings.Cut(readAll(m), "\r\n\r\n")
	raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(body, "\r\n", ""))
	if err != nil || len(raw) < 33 {
		return nil, errors.New("box: malformed")
	}
	switch b.fault {
	case "encodes only":
		return encrypt.Restore(securemail.Bytes(raw))
	case "compresses only":
		return restored(inflated(raw))
	case "one key for all":
		key = make([]byte, 32)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	if b.is("no integrity") {
		plain := bytes.Clone(raw[17:])
		cipher.NewCTR(block, raw[1:17]).XORKeyStream(plain, plain)
		return encrypt.Restore(securemail.Bytes(plain))
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, 16)
	if err != nil {
		return nil, err
	}
	plain, err := gcm.Open(nil, raw[1:17], raw[17:], nil)
	if err != nil {
		return nil, err
	}
	if b.is("compresses first") {
		return restored(inflated(plain))
	}
	return encrypt.Restore(securemail.Bytes(plain))
}

func restored(s securemail.Source, err error) (*securemail.Message, error) {
	if err != nil {
		return nil, err
	}
	return encrypt.Restore(s)
}

// noticeHarness builds a box that sends notices.
func noticeHarness(fault string) encrypttest.Harness {
	h := boxHarness(fault, false)
	return encrypttest.Harness{New: func(ctx context.Context, s encrypttest.Setup) (*encrypttest.Rig, error) {
		r, err := h.New(ctx, s)
		if err == nil {
			r.Encryptor.(*box).notice, r.Notice = true, true
		}
		return r, err
	}}
}

// boxHarness builds a box with a fault, or a sound one.
func boxHarness(fault string, leaves bool) encrypttest.Harness {
	return encrypttest.Harness{New: func(_ context.Context, s encrypttest.Setup) (*encrypttest.Rig, error) {
		b := &box{log: s.Logger, fault: fault, leaves: leaves, deposits: map[securemail.ParcelID]int{}, kept: map[securemail.ParcelID]*securemail.Sealed{}}
		key := newBoxKey()
		bad := newBoxKey()
		bad.Public[0][40] ^= 1
		rig := &encrypttest.Rig{
			Encryptor: b, Keys: []securemail.Key{key}, Unusable: map[string]securemail.Key{"checksum": bad},
			Open: func(_ context.Context, m *securemail.Message) (*securemail.Message, error) {
				return b.open(m, key.Public[0][32:])
			},
			Close:   func() {},
			Factors: []securemail.Factor{{Kind: "code", Value: securemail.NewSecret("Code" + rand.Text()[:8])}},
		}
		if leaves {
			rig.Left = func(_ context.Context, id securemail.ParcelID) (int, error) {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.deposits[id], nil
			}
		}
		return rig, nil
	}}
}
