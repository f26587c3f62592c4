package smtp

import (
	"bufio"
	"bytes"
	"io"
	"strings"

	"github.com/postseal/postseal/securemail"
)

// Bounds of a reply. RFC 5321 section 4.5.3.1.5 asks for lines of 512 octets; it bounds neither lines nor octets of a
// reply, so we do.
const (
	maxReplyLine   = 4096
	maxReplyLines  = 128
	maxReplyOctets = 64 << 10
	maxRemote      = 512
)

// ReplyError says that the far end's answer was no SMTP reply (RFC 5321 section 4.2). It never holds what was said.
type ReplyError struct {
	// Rule is "syntax", "code-changed", "line-too-long" (over 4,096 octets), "too-many-lines" (over 128), "too-long" (over 64
	// KiB), "unexpected" (a code that has no meaning there) or "unasked" (a reply before the command).
	Rule string
}

// Error names the rule.
func (e *ReplyError) Error() string { return "smtp: reply: " + e.Rule }

// reply is one answer. text lies in the reader's buffer until the next reply is read: its lines without codes, joined by
// line feeds, at most maxRemote octets.
type reply struct {
	code int
	text []byte
}

func (r reply) class() int { return r.code / 100 }

// remote is the text for records: a cut or foreign character set leaves no broken UTF-8.
func (r reply) remote() string { return strings.ToValidUTF8(string(r.text), "?") }

// more waits until br has octets beyond those it holds.
func more(br *bufio.Reader) error {
	held := br.Buffered()
	_, err := br.Peek(held + 1)
	if err == io.EOF && held > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// replyReader reads replies of one or more lines out of what a buffer holds. One that is not whole yet is gone on with when
// more has come. The buffer must hold maxReplyLine octets.
type replyReader struct {
	r reply
	// text is where replies keep theirs.
	text     []byte
	n, total int
}

// inside says that a reply has begun and is not over.
func (p *replyReader) inside() bool { return p.n > 0 }

// next is false where br holds no whole reply yet. each, where not nil, gets the text of every line, numbered from 0, valid
// during the call.
func (p *replyReader) next(br *bufio.Reader, each func(n int, text []byte)) (reply, bool, error) {
	for {
		line, ok, err := bufferedLine(br)
		if err != nil || !ok {
			return reply{}, false, err
		}
		if p.total += len(line); p.total > maxReplyOctets {
			return reply{}, false, &ReplyError{Rule: "too-long"}
		}
		code, goesOn, text, ok := splitReply(line)
		switch {
		case !ok:
			return reply{}, false, &ReplyError{Rule: "syntax"}
		case p.n == 0:
			p.r = reply{code: code, text: p.text[:0]}
		case code != p.r.code:
			return reply{}, false, &ReplyError{Rule: "code-changed"}
		case p.n == maxReplyLines:
			return reply{}, false, &ReplyError{Rule: "too-many-lines"}
		}
		p.r.text = appendText(p.r.text, text, p.n)
		if each != nil {
			each(p.n, text)
		}
		if p.n++; !goesOn {
			r := p.r
			p.r, p.n, p.total, p.text = reply{}, 0, 0, r.text[:0]
			return r, true, nil
		}
	}
}

// bufferedLine takes a line without its end out of br, valid until br is filled again. A bare LF is taken as an end too: it
// can't smuggle anything towards a client.
func bufferedLine(br *bufio.Reader) ([]byte, bool, error) {
	held, _ := br.Peek(br.Buffered())
	i := bytes.IndexByte(held, '\n')
	switch {
	case i >= maxReplyLine || i < 0 && len(held) >= maxReplyLine:
		return nil, false, &ReplyError{Rule: "line-too-long"}
	case i < 0:
		return nil, false, nil
	}
	_, _ = br.Discard(i + 1)
	return bytes.TrimSuffix(held[:i], []byte{'\r'}), true, nil
}

// splitReply is Reply-line of RFC 5321 section 4.2: three digits, then "-" where more follows, or SP and text, or nothing.
func splitReply(line []byte) (code int, more bool, text []byte, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !digit(line[1]) || !digit(line[2]) {
		return 0, false, nil, false
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, false, nil, true
	}
	if line[3] != ' ' && line[3] != '-' {
		return 0, false, nil, false
	}
	return code, line[3] == '-', line[4:], true
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// appendText keeps text up to maxRemote octets, with control characters made harmless.
func appendText(dst, text []byte, n int) []byte {
	if n > 0 && len(dst) < maxRemote {
		dst = append(dst, '\n')
	}
	text = text[:min(len(text), maxRemote-len(dst))]
	at := len(dst)
	dst = append(dst, text...)
	for i := at; i < len(dst); i++ {
		if dst[i] < ' ' || dst[i] == 0x7f {
			dst[i] = ' '
		}
	}
	return dst
}

// enhanced returns the status code that starts the text (RFC 2034 section 4, RFC 3463 section 2), "" without one or if
// its class is not the reply's.
func (r reply) enhanced() string {
	word, _, _ := bytes.Cut(r.text, []byte{' '})
	word, _, _ = bytes.Cut(word, []byte{'\n'})
	if len(word) < 5 || len(word) > 9 || int(word[0]-'0') != r.class() || word[1] != '.' {
		return ""
	}
	subject, detail, ok := bytes.Cut(word[2:], []byte{'.'})
	if !ok || !shortNumber(subject) || !shortNumber(detail) {
		return ""
	}
	return string(word)
}

func shortNumber(b []byte) bool {
	if len(b) < 1 || len(b) > 3 {
		return false
	}
	for _, c := range b {
		if !digit(c) {
			return false
		}
	}
	return true
}

// maxRemoteID is enough for the ids of the common servers; more is no id.
const maxRemoteID = 64

// idMarks stand in front of the queue id: Postfix and most others, Exim, Exchange.
var idMarks = [][]byte{[]byte("queued as "), []byte("id="), []byte("[InternalId=")}

// idTails stand behind it: Google ("2.0.0 OK  1700000000 x12-20020a - gsmtp"), and Sendmail and OpenSMTPD ("2.0.0 07797c2e
// Message accepted for delivery").
var idTails = [][]byte{[]byte(" - gsmtp"), []byte(" Message accepted for delivery")}

// queueID finds the far end's id in the reply to the final dot. It is a single word of letters, digits and ".-_+/", since a
// text may quote an address and an id goes into records.
func (r reply) queueID() string {
	for _, mark := range idMarks {
		if _, rest, ok := bytes.Cut(r.text, mark); ok {
			return idWord(rest)
		}
	}
	for _, tail := range idTails {
		if before, _, ok := bytes.Cut(r.text, tail); ok {
			return idWord(before[bytes.LastIndexByte(before, ' ')+1:])
		}
	}
	return ""
}

// minQuote is what a local part must have so that its octets are no chance in an id.
const minQuote = 4

// quotes says that id holds the local part of a: ids go into records, and addresses do not.
func quotes(id string, a securemail.Address) bool {
	local := a.Reveal()
	local = strings.ToLower(local[:max(strings.LastIndexByte(local, '@'), 0)])
	return len(local) >= minQuote && strings.Contains(strings.ToLower(id), local)
}

func idWord(b []byte) string {
	n := 0
	for n < len(b) && idOctet(b[n]) {
		n++
	}
	if n > maxRemoteID || n < len(b) && bytes.IndexByte([]byte(" \n,;)]>"), b[n]) < 0 {
		return ""
	}
	return string(b[:n])
}

func idOctet(c byte) bool {
	return digit(c) || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || bytes.IndexByte([]byte(".-_+/"), c) >= 0
}
