//go:build interop

package interop_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wire is a session in the clear that says what it likes, to see what a peer makes of it.
type wire struct {
	net.Conn
	br *bufio.Reader
	// offers are the lines of the EHLO reply.
	offers string
}

func newWire(t *testing.T, addr string) *wire {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	w := &wire{Conn: c, br: bufio.NewReader(c)}
	code, _, err := w.reply()
	require.NoError(t, err)
	require.Equal(t, 220, code)
	w.say(t, "EHLO client.test\r\n")
	code, w.offers, err = w.reply()
	require.NoError(t, err)
	require.Equal(t, 250, code)
	return w
}

func (w *wire) say(t *testing.T, octets string) {
	t.Helper()
	_, err := w.Write([]byte(octets))
	require.NoError(t, err)
}

// reply reads one reply of any number of lines.
func (w *wire) reply() (code int, text string, err error) {
	for {
		line, err := w.br.ReadString('\n')
		if err != nil {
			return code, text, err
		}
		if code, err = strconv.Atoi(line[:min(3, len(line))]); err != nil {
			return 0, text, fmt.Errorf("no reply: %q", line)
		}
		text += line
		if len(line) < 4 || line[3] != '-' {
			return code, text, nil
		}
	}
}

// flight sends octets in one segment, and QUIT with them, and returns the codes of all replies until the peer closes.
func (w *wire) flight(t *testing.T, octets string) []int {
	t.Helper()
	w.say(t, octets+"QUIT\r\n")
	var codes []int
	for {
		code, _, err := w.reply()
		if err != nil {
			require.Zero(t, code, "the session ends inside a reply: %v", err)
			return codes
		}
		codes = append(codes, code)
	}
}

// bdat is the only chunk of a message (RFC 3030).
func bdat(b []byte) string { return fmt.Sprintf("BDAT %d LAST\r\n%s", len(b), b) }

// box is what the peer stored, by token; read at once, since many mails are looked for.
type box map[string][]string

var token = regexp.MustCompile(`(?mi)^Message-ID: <([A-Z2-7]+)@sender\.test>`)

func (p peer) open(t *testing.T) box {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(p.box, "all", "new", "*"))
	require.NoError(t, err)
	b := box{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		if m := token.FindSubmatch(text); m != nil {
			b[string(m[1])] = append(b[string(m[1])], string(text))
		}
	}
	return b
}

// settled waits until the peer stored mail, which was accepted after all that is asked about, and opens the box.
func (p peer) settled(t *testing.T, last ...mail) box {
	t.Helper()
	var b box
	require.Eventually(t, func() bool {
		b = p.open(t)
		for _, m := range last {
			if len(b[m.token]) == 0 {
				return false
			}
		}
		return true
	}, waitStored, pollStored, "mail did not arrive")
	return b
}

// fields returns what the peer wrote in front of m, which must be there once, byte for byte.
func (b box) fields(t *testing.T, m mail) string {
	t.Helper()
	require.Len(t, b[m.token], 1, "copies of a mail")
	got, want := b[m.token][0], strings.ReplaceAll(string(m.bytes), "\r\n", "\n")
	require.True(t, strings.HasSuffix(got, want), "other bytes arrived:\n%.2000s", got)
	return strings.TrimSuffix(got, want)
}

// returnPath is the sender that the peer wrote down at delivery (RFC 5321 section 4.4).
func returnPath(t *testing.T, fields string) string {
	t.Helper()
	for line := range strings.Lines(fields) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Return-Path") {
			return strings.Trim(value, " <>\n")
		}
	}
	require.Fail(t, "no Return-Path", fields)
	return ""
}
