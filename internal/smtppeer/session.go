package smtppeer

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

var errGone = errors.New("smtppeer: session over")

// maxLine is what a command or data line may have; RFC 5321 section 4.5.3.1 asks for 512 and 1,000 at least.
const maxLine = 64 << 10

type session struct {
	p     *Peer
	id    int
	conn  net.Conn
	br    *bufio.Reader
	bw    *bufio.Writer
	tls   *tls.ConnectionState
	helo  string
	esmtp bool
	user  string
	taken int
	// spoke: the connection closes behind a reply that must arrive.
	spoke bool

	inMail bool
	from   string
	params []string
	rcpts  []string
	rparms []string
	// open is the message whose last chunk has not come yet.
	open *Message
}

func newSession(p *Peer, c net.Conn, id int) *session {
	s := &session{p: p, id: id}
	s.use(c)
	return s
}

func (s *session) use(c net.Conn) {
	s.conn, s.br, s.bw = c, bufio.NewReaderSize(c, maxLine), bufio.NewWriterSize(c, 16<<10)
}

func (s *session) run() {
	if s.p.o.Implicit {
		if spoke, err := s.perform(s.at(StageHandshake, "")); err != nil || spoke || s.handshake() != nil {
			_ = s.bw.Flush()
			return
		}
	}
	err := s.say(StageGreeting, "", 220, s.p.o.Hostname+" ESMTP smtppeer")
	for err == nil {
		err = s.step()
	}
	_ = s.bw.Flush()
	if s.spoke {
		s.linger()
	}
}

// lingerTime is how long unread input is taken after a last reply: closing on it would reset the connection and could
// take the reply away.
const lingerTime = 200 * time.Millisecond

func (s *session) linger() {
	if hc, ok := s.conn.(interface{ CloseWrite() error }); ok && hc.CloseWrite() == nil {
		_ = s.conn.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, s.br)
	}
}

// step reads and serves one command.
func (s *session) step() error {
	if err := s.flushIfIdle(); err != nil {
		return err
	}
	raw, err := s.br.ReadSlice('\n')
	if err != nil {
		return err
	}
	line := strings.TrimRight(string(raw), "\r\n")
	s.p.log(Command{Conn: s.id, TLS: s.tls != nil, Line: line})
	verb, arg, _ := strings.Cut(line, " ")
	return s.serve(strings.ToUpper(verb), strings.TrimSpace(arg))
}

// flushIfIdle sends what waits unless a whole command is at hand, so that a pipelined group gets its replies together.
func (s *session) flushIfIdle() error {
	b, _ := s.br.Peek(s.br.Buffered())
	if bytes.IndexByte(b, '\n') >= 0 {
		return nil
	}
	return s.bw.Flush()
}

func (s *session) serve(verb, arg string) error {
	switch verb {
	case "EHLO":
		return s.ehlo(arg)
	case "HELO":
		s.helo, s.esmtp = arg, false
		return s.say(StageHELO, arg, 250, s.p.o.Hostname)
	case "STARTTLS":
		return s.startTLS()
	case "AUTH":
		return s.auth(arg)
	case "MAIL":
		return s.mail(arg)
	case "RCPT":
		return s.rcpt(arg)
	case "DATA":
		return s.data()
	case "BDAT":
		return s.bdat(arg)
	case "RSET":
		s.clear()
		return s.say(StageReset, "", 250, "2.0.0 reset")
	case "NOOP":
		return s.put(250, "2.0.0 ok")
	case "QUIT":
		if err := s.say(StageQuit, "", 221, "2.0.0 bye"); err != nil {
			return err
		}
		return errGone
	}
	return s.put(500, "5.5.1 unknown command")
}

// say performs the stage's Action or else replies.
func (s *session) say(stage Stage, arg string, code int, text ...string) error {
	_, err := s.sayOr(stage, arg, code, text...)
	return err
}

// sayOr is say, and answers whether the reply was the usual one or an Action's in the same class.
func (s *session) sayOr(stage Stage, arg string, code int, text ...string) (bool, error) {
	a := s.at(stage, arg)
	spoke, err := s.perform(a)
	if err != nil {
		return false, err
	}
	if spoke {
		return a.Code/100 == code/100, nil
	}
	return true, s.put(code, text...)
}

func (s *session) put(code int, text ...string) error {
	_, err := s.bw.WriteString(format(code, text))
	return err
}

func (s *session) ehlo(arg string) error {
	s.clear()
	s.helo, s.esmtp = arg, true
	lines := []string{s.p.o.Hostname + " greets you"}
	for _, e := range s.extensions() {
		if s.p.o.LowerCase {
			e = strings.ToLower(e)
		}
		lines = append(lines, e)
	}
	return s.say(StageEHLO, arg, 250, lines...)
}

func (s *session) extensions() []string {
	o := &s.p.o
	ext := o.Extensions
	if s.tls != nil && o.ExtensionsTLS != nil {
		ext = o.ExtensionsTLS
	}
	ext = ext[:len(ext):len(ext)]
	if o.TLS != nil && s.tls == nil && !o.StripTLS {
		ext = append(ext, "STARTTLS")
	}
	if o.Size > 0 {
		ext = append(ext, "SIZE "+strconv.FormatInt(o.Size, 10))
	}
	if o.Users != nil && (s.tls != nil || o.AuthInClear) {
		ext = append(ext, "AUTH PLAIN LOGIN")
	}
	return ext
}

func (s *session) startTLS() error {
	if s.p.o.TLS == nil || s.tls != nil {
		return s.put(502, "5.5.1 not implemented")
	}
	ok, err := s.sayOr(StageStartTLS, "", 220, "2.0.0 go ahead")
	if err != nil || !ok {
		return err
	}
	_, _ = s.bw.WriteString(s.p.o.InjectAfterStartTLS)
	if err := s.bw.Flush(); err != nil {
		return err
	}
	if spoke, err := s.perform(s.at(StageHandshake, "")); err != nil || spoke {
		_ = s.bw.Flush()
		return err
	}
	return s.handshake()
}

func (s *session) handshake() error {
	tc := tls.Server(s.conn, s.p.o.TLS)
	if err := tc.Handshake(); err != nil {
		return err
	}
	cs := tc.ConnectionState()
	s.use(tc)
	// RFC 3207 section 4.2: all that was learnt before is forgotten.
	s.tls, s.helo, s.user = &cs, "", ""
	s.clear()
	return nil
}

func (s *session) auth(arg string) error {
	if a := s.at(StageAuth, arg); a != nil {
		if spoke, err := s.perform(a); err != nil || spoke {
			return err
		}
	}
	if s.p.o.Users == nil || s.tls == nil && !s.p.o.AuthInClear {
		return s.put(503, "5.5.1 no authentication here")
	}
	mech, initial, _ := strings.Cut(arg, " ")
	var user, pass string
	var err error
	switch strings.ToUpper(mech) {
	case "PLAIN":
		var all string
		all, err = s.answer("", initial)
		if parts := strings.Split(all, "\x00"); len(parts) == 3 {
			user, pass = parts[1], parts[2]
		}
	case "LOGIN":
		if user, err = s.answer("Username:", initial); err == nil {
			pass, err = s.answer("Password:", "")
		}
	default:
		return s.put(504, "5.5.4 unknown mechanism")
	}
	if err != nil {
		return err
	}
	if want, ok := s.p.o.Users[user]; !ok || want != pass {
		return s.put(535, "5.7.8 credentials invalid")
	}
	s.user = user
	return s.put(235, "2.7.0 welcome")
}

// answer decodes given, or asks for it with a 334 challenge.
func (s *session) answer(challenge, given string) (string, error) {
	if given == "" {
		if err := s.put(334, base64.StdEncoding.EncodeToString([]byte(challenge))); err != nil {
			return "", err
		}
		if err := s.bw.Flush(); err != nil {
			return "", err
		}
		line, err := s.br.ReadSlice('\n')
		if err != nil {
			return "", err
		}
		given = strings.TrimSpace(string(line))
	}
	b, err := base64.StdEncoding.DecodeString(given)
	if err != nil {
		return "", nil // an unknown user, refused like any other
	}
	return string(b), nil
}

func (s *session) clear() {
	s.inMail, s.from, s.params, s.rcpts, s.rparms, s.open = false, "", nil, nil, nil, nil
}

func (s *session) mail(arg string) error {
	addr, params, ok := path(arg, "FROM:")
	switch {
	case !ok:
		return s.put(501, "5.5.4 syntax")
	case s.inMail:
		return s.put(503, "5.5.1 sender already given")
	case s.helo == "":
		return s.put(503, "5.5.1 say hello first")
	case s.p.o.NeedAuth && s.user == "":
		return s.put(530, "5.7.0 authentication required")
	case s.tooBig(params):
		return s.put(552, "5.3.4 too big")
	}
	ok, err := s.sayOr(StageMail, addr, 250, "2.1.0 sender ok")
	if err == nil && ok {
		s.inMail, s.from, s.params = true, addr, params
	}
	return err
}

func (s *session) tooBig(params []string) bool {
	for _, p := range params {
		k, v, _ := strings.Cut(p, "=")
		if n, err := strconv.ParseInt(v, 10, 64); strings.EqualFold(k, "SIZE") && err == nil {
			return s.p.o.Size > 0 && n > s.p.o.Size
		}
	}
	return false
}

// path reads "FROM:<addr> params" (RFC 5321 section 4.1.2).
func path(arg, prefix string) (addr string, params []string, ok bool) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return "", nil, false
	}
	rest := strings.TrimSpace(arg[len(prefix):])
	end := strings.LastIndexByte(rest, '>')
	if end < 0 || rest[0] != '<' {
		return "", nil, false
	}
	return rest[1:end], strings.Fields(rest[end+1:]), true
}

func (s *session) rcpt(arg string) error {
	addr, params, ok := path(arg, "TO:")
	switch {
	case !ok:
		return s.put(501, "5.5.4 syntax")
	case !s.inMail:
		return s.put(503, "5.5.1 need MAIL first")
	}
	ok, err := s.sayOr(StageRcpt, addr, 250, "2.1.5 recipient ok")
	if err == nil && ok {
		s.rcpts, s.rparms = append(s.rcpts, addr), append(s.rparms, strings.Join(params, " "))
	}
	return err
}

func (s *session) data() error {
	if len(s.rcpts) == 0 && !s.p.o.LaxData {
		return s.put(503, "5.5.1 need RCPT first")
	}
	ok, err := s.sayOr(StageData, "", 354, "go ahead")
	if err != nil || !ok {
		return err
	}
	m := s.message()
	s.clear()
	s.p.log(Command{Conn: s.id, TLS: s.tls != nil, Line: "<data>"})
	if err := s.body(m); err != nil {
		return err
	}
	return s.dot(m)
}

// message starts one for the transaction.
func (s *session) message() *Message {
	m := &Message{
		Conn: s.id, HELO: s.helo, ESMTP: s.esmtp, From: s.from, Params: s.params, Rcpts: s.rcpts, RcptParams: s.rparms, TLS: s.tls, User: s.user,
	}
	s.p.change(func() { s.p.messages = append(s.p.messages, m) })
	return m
}

// body reads up to the final dot, which only CRLF "." CRLF is.
func (s *session) body(m *Message) error {
	if err := s.bw.Flush(); err != nil {
		return err
	}
	first, lineStart := true, true
	var buf []byte
	octets := int64(0)
	flush := func() {
		s.p.change(func() { m.Data, m.Octets = append(m.Data, buf...), octets })
		buf = buf[:0]
	}
	defer flush()
	for {
		if s.br.Buffered() == 0 {
			flush()
		}
		line, err := s.br.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			return fmt.Errorf("smtppeer: body: %w", err)
		}
		if first {
			first = false
			if _, err := s.perform(s.at(StageBody, "")); err != nil {
				buf = append(buf, line...)
				return err
			}
		}
		if lineStart && string(line) == ".\r\n" {
			return nil
		}
		if lineStart && line[0] == '.' {
			line = line[1:]
		}
		lineStart = bytes.HasSuffix(line, []byte("\r\n"))
		octets += int64(len(line))
		if !s.p.o.Discard {
			if buf = append(buf, line...); len(buf) > 32<<10 {
				flush()
			}
		}
	}
}

func (s *session) dot(m *Message) error {
	s.p.change(func() { m.Complete = true })
	if s.p.o.Size > 0 && m.Octets > s.p.o.Size {
		return s.put(552, "5.3.4 too big")
	}
	a := s.at(StageDot, "")
	refused := a != nil && a.Code >= 400
	if a == nil || !refused || a.Taken {
		s.taken++
		s.p.change(func() { m.Taken = true })
	}
	spoke, err := s.perform(a)
	if err != nil {
		s.p.change(func() { m.Replied = a.Code != 0 })
		return err
	}
	s.p.change(func() { m.Replied = !spoke || a.Code != 0 })
	if spoke {
		return nil
	}
	return s.put(250, fmt.Sprintf("2.0.0 ok queued as q%d-%d", s.id, s.taken))
}

// bdat takes one chunk (RFC 3030 section 2).
func (s *session) bdat(arg string) error {
	word, last, _ := strings.Cut(arg, " ")
	size, err := strconv.ParseInt(word, 10, 64)
	if err != nil || size < 0 {
		return s.put(501, "5.5.4 syntax")
	}
	if len(s.rcpts) == 0 && s.p.o.Chunk != ChunkAccept {
		return s.refuse(size)
	}
	if s.open == nil {
		s.open = s.message()
	}
	m := s.open
	if err := s.chunk(m, size); err != nil {
		return err
	}
	if strings.EqualFold(last, "LAST") {
		s.clear()
		return s.dot(m)
	}
	ok, err := s.sayOr(StageChunk, arg, 250, "2.0.0 chunk ok")
	if err == nil && !ok {
		s.clear()
	}
	return err
}

// refuse is the answer to a chunk without a recipient.
func (s *session) refuse(size int64) error {
	switch s.p.o.Chunk {
	case ChunkClose:
		return errGone
	case ChunkDiscard:
		if _, err := io.CopyN(io.Discard, s.br, size); err != nil {
			return err
		}
	}
	if !s.p.o.KeepSender {
		s.clear()
	}
	return s.put(503, "5.5.1 no recipients")
}

func (s *session) chunk(m *Message, size int64) error {
	s.p.change(func() { m.Chunks = append(m.Chunks, size) })
	if s.br.Buffered() == 0 {
		if err := s.bw.Flush(); err != nil {
			return err
		}
	}
	first := true
	for buf := make([]byte, min(size, 32<<10)); size > 0; {
		n, err := s.br.Read(buf[:min(size, int64(len(buf)))])
		s.p.change(func() {
			if m.Octets += int64(n); !s.p.o.Discard {
				m.Data = append(m.Data, buf[:n]...)
			}
		})
		if size -= int64(n); err != nil {
			return fmt.Errorf("smtppeer: chunk: %w", err)
		}
		if first {
			first = false
			if _, err := s.perform(s.at(StageBody, "")); err != nil {
				return err
			}
		}
	}
	return nil
}

// stall reads and forgets until the other side or the Peer closes.
func (s *session) stall() { _, _ = io.Copy(io.Discard, s.br) }
