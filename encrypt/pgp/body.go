package pgp

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"io"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/securemail"
)

// lineLength of the armor, in characters (RFC 9580 section 6.2 allows 76).
const lineLength = 64

// body is a multipart/encrypted under construction (RFC 3156 section 4).
type body struct {
	bytes.Buffer
	boundary string
}

// newBody starts the body of a payload of that size.
func newBody(size int64) *body {
	b := &body{boundary: "=_pgp_" + rand.Text()}
	b.Grow(int(size+size*3/8) + 8<<10)
	b.WriteString("This is an OpenPGP/MIME encrypted message (RFC 3156).\r\n" +
		"--" + b.boundary + "\r\n" +
		"Content-Type: application/pgp-encrypted\r\n" +
		"Content-Description: PGP/MIME version identification\r\n\r\n" +
		"Version: 1\r\n\r\n" +
		"--" + b.boundary + "\r\n" +
		"Content-Type: application/octet-stream; name=\"encrypted.asc\"\r\n" +
		"Content-Description: OpenPGP encrypted message\r\n" +
		"Content-Disposition: inline; filename=\"encrypted.asc\"\r\n\r\n")
	return b
}

// content ends the body.
func (b *body) content() encrypt.Content {
	b.WriteString("\r\n--" + b.boundary + "--\r\n")
	return encrypt.Content{
		Type:     "multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=\"" + b.boundary + "\"",
		Encoding: "7bit",
		Body:     securemail.Bytes(b.Bytes()),
	}
}

// newArmor writes ASCII armor with CRLF, without headers and without the checksum that RFC 9580 section 6.1 drops.
func newArmor(w io.Writer) io.WriteCloser {
	lines := &crlfLines{w: w}
	return &armorWriter{WriteCloser: base64.NewEncoder(base64.StdEncoding, lines), lines: lines}
}

type armorWriter struct {
	io.WriteCloser
	lines *crlfLines
}

func (a *armorWriter) Write(p []byte) (int, error) {
	if err := a.lines.start(); err != nil {
		return 0, err
	}
	return a.WriteCloser.Write(p)
}

func (a *armorWriter) Close() error {
	if err := a.WriteCloser.Close(); err != nil {
		return err
	}
	return a.lines.end()
}

// crlfLines breaks base64 into lines.
type crlfLines struct {
	w       io.Writer
	started bool
	used    int // characters on the line
}

func (l *crlfLines) start() error {
	if l.started {
		return nil
	}
	l.started = true
	_, err := io.WriteString(l.w, "-----BEGIN PGP MESSAGE-----\r\n\r\n")
	return err
}

func (l *crlfLines) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := l.w.Write(p[done:min(len(p), done+lineLength-l.used)])
		done += n
		if err != nil {
			return done, err
		}
		if l.used += n; l.used < lineLength {
			continue
		}
		l.used = 0
		if _, err := io.WriteString(l.w, "\r\n"); err != nil {
			return done, err
		}
	}
	return done, nil
}

func (l *crlfLines) end() error {
	text := "-----END PGP MESSAGE-----\r\n"
	if l.used > 0 {
		text = "\r\n" + text
	}
	_, err := io.WriteString(l.w, text)
	return err
}
