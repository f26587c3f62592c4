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

// newArmor writes ASCII armor with CRLF and without headers. The checksum is left out with SEIPD version 2 only, where RFC
// 9580 section 6.1 forbids it: GnuPG 2.2 reads "-----END" as data where neither padding nor checksum ends them, which is one
// message in three, and then calls the message manipulated.
func newArmor(w io.Writer, checksum bool) io.WriteCloser {
	lines := &crlfLines{w: w}
	return &armorWriter{WriteCloser: base64.NewEncoder(base64.StdEncoding, lines), lines: lines, checksum: checksum, crc: crc24Init}
}

type armorWriter struct {
	io.WriteCloser
	lines    *crlfLines
	checksum bool
	crc      uint32
}

func (a *armorWriter) Write(p []byte) (int, error) {
	if err := a.lines.start(); err != nil {
		return 0, err
	}
	if a.checksum {
		a.crc = crc24(a.crc, p)
	}
	return a.WriteCloser.Write(p)
}

func (a *armorWriter) Close() error {
	if err := a.WriteCloser.Close(); err != nil {
		return err
	}
	sum := ""
	if a.checksum {
		sum = "=" + base64.StdEncoding.EncodeToString([]byte{byte(a.crc >> 16), byte(a.crc >> 8), byte(a.crc)}) + "\r\n"
	}
	return a.lines.end(sum)
}

// The parameters of RFC 9580 section 6.1.1.
const (
	crc24Init = 0xb704ce
	crc24Poly = 0x1864cfb
)

// crc24Table is the checksum of each octet, so that 25 MB do not cost 200 million steps.
var crc24Table = func() (t [256]uint32) {
	for i := range t {
		t[i] = uint32(i) << 16
		for range 8 {
			if t[i] <<= 1; t[i]&0x1000000 != 0 {
				t[i] ^= crc24Poly
			}
		}
	}
	return t
}()

func crc24(crc uint32, p []byte) uint32 {
	for _, b := range p {
		crc = (crc<<8 ^ crc24Table[byte(crc>>16)^b]) & 0xffffff
	}
	return crc
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

func (l *crlfLines) end(sum string) error {
	text := sum + "-----END PGP MESSAGE-----\r\n"
	if l.used > 0 {
		text = "\r\n" + text
	}
	_, err := io.WriteString(l.w, text)
	return err
}
