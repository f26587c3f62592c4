//go:build interop

package interop_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tampering is what the man in the middle does to the sessions that pass him. The zero value lets them pass.
type tampering struct {
	// strip takes STARTTLS out of what the host offers, refuse answers the command with 454, drop closes at it.
	strip, refuse, drop bool
	// inject sends octets in the clear in one segment with the host's 220, garbage some that are no TLS instead of it.
	inject, garbage bool
	// server and client flip one octet of the first segment of the handshake in that direction.
	server, client bool
	// cert takes TLS in the host's place, and passes on what it hears.
	cert *tls.Certificate
	// leaks takes a chunk that is refused for commands, as bad servers do.
	leaks bool
	// cut ends each session in place of that reply.
	cut int
}

// middle stands between the library and a real mail host, and writes down what the library says.
type middle struct {
	host string
	wg   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	does  tampering
	heard bytes.Buffer
	conns map[net.Conn]struct{}
}

func newMiddle(t *testing.T, addr, host string) *middle {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	m := &middle{host: host, conns: map[net.Conn]struct{}{}}
	m.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			m.wg.Go(func() { m.serve(c) })
		}
	})
	t.Cleanup(func() {
		require.NoError(t, ln.Close())
		m.end()
		m.wg.Wait()
	})
	return m
}

// become sets what he does from now on, ends the sessions under way, and forgets what was heard.
func (m *middle) become(does tampering) {
	m.end()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.does = does
	m.heard.Reset()
}

func (m *middle) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		c.Close()
	}
}

// transcript is all that the library said, as far as he could read it.
func (m *middle) transcript() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard.String()
}

// hold closes c when he ends; the returned function does so now.
func (m *middle) hold(c net.Conn) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns[c] = struct{}{}
	return func() {
		c.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.conns, c)
	}
}

// Write implements io.Writer for what is heard.
func (m *middle) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard.Write(b)
}

// passage is one session.
type passage struct {
	*middle
	does     tampering
	from, to net.Conn
	lines    *bufio.Reader
	replies  *bufio.Reader
	// said counts the replies, and addressed says that a recipient was accepted.
	said      int
	addressed bool
	reply     string
}

func (m *middle) serve(c net.Conn) {
	defer m.hold(c)()
	up, err := net.Dial("tcp", m.host)
	if err != nil {
		return
	}
	defer m.hold(up)()
	m.mu.Lock()
	does := m.does
	m.mu.Unlock()
	p := &passage{middle: m, does: does, from: c, to: up, replies: bufio.NewReader(up)}
	p.listen(c)
	ok := p.answer("")
	for ok {
		ok = p.command()
	}
}

// listen hears what comes from c.
func (p *passage) listen(c net.Conn) {
	p.from = c
	p.lines = bufio.NewReader(io.TeeReader(c, p.middle))
}

// command passes one on, with what follows it. It is false when the session is over.
func (p *passage) command() bool {
	line, err := p.lines.ReadString('\n')
	if err != nil {
		return false
	}
	verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
	if verb == "STARTTLS" {
		return p.startTLS()
	}
	if verb == "BDAT" {
		return p.chunk(line)
	}
	if !p.answer(line) {
		return false
	}
	if verb != "DATA" || !p.last("3") {
		p.addressed = verb == "RCPT" && p.last("2") || p.addressed && verb == "RCPT"
		return verb != "QUIT"
	}
	for line != ".\r\n" {
		if line, err = p.lines.ReadString('\n'); err != nil {
			return false
		}
		if _, err = io.WriteString(p.to, line); err != nil {
			return false
		}
	}
	return p.answer("")
}

// last says whether the host's latest reply has the class.
func (p *passage) last(class string) bool { return strings.HasPrefix(p.reply, class) }

// chunk passes BDAT on.
func (p *passage) chunk(line string) bool {
	if p.does.leaks && !p.addressed {
		_, err := io.WriteString(p.from, "503 5.5.1 no valid recipients\r\n")
		return err == nil
	}
	size, err := strconv.Atoi(strings.Fields(line)[1])
	if err != nil {
		return false
	}
	octets := make([]byte, size)
	if _, err := io.ReadFull(p.lines, octets); err != nil {
		return false
	}
	return p.answer(line + string(octets))
}

// answer passes a line to the host, and its reply back.
func (p *passage) answer(line string) bool {
	if _, err := io.WriteString(p.to, line); err != nil {
		return false
	}
	_, isTLS := p.from.(*tls.Conn)
	hide := p.does.strip || isTLS
	reply := ""
	for {
		l, err := p.replies.ReadString('\n')
		if err != nil {
			return false
		}
		if !hide || !strings.Contains(l, "STARTTLS") {
			reply += l
		}
		if len(l) < 4 || l[3] != '-' {
			break
		}
	}
	p.reply = reply
	if p.said++; p.said == p.does.cut {
		return false
	}
	_, err := io.WriteString(p.from, reply)
	return err == nil
}

func (p *passage) startTLS() bool {
	say := func(text string) bool {
		_, err := io.WriteString(p.from, text)
		return err == nil
	}
	switch d := p.does; {
	case d.drop:
		return false
	case d.refuse:
		return say("454 4.7.0 TLS not available due to local problem\r\n")
	case d.inject:
		return say("220 2.0.0 Ready to start TLS\r\n250 2.0.0 injected\r\n")
	case d.garbage:
		return say("220 2.0.0 Ready to start TLS\r\n") && say(strings.Repeat("no TLS at all\r\n", 20))
	case d.cert != nil:
		if !say("220 2.0.0 Ready to start TLS\r\n") {
			return false
		}
		c := tls.Server(p.from, &tls.Config{Certificates: []tls.Certificate{*d.cert}})
		p.listen(c)
		return c.Handshake() == nil
	}
	if !p.answer("STARTTLS\r\n") {
		return false
	}
	p.pass()
	return false
}

// pass lets octets through, both ways, until one side ends.
func (p *passage) pass() {
	var wg sync.WaitGroup
	wg.Go(func() {
		carry(p.from, p.replies, p.does.server)
		p.from.Close()
	})
	carry(p.to, p.lines, p.does.client)
	p.to.Close()
	wg.Wait()
}

// carry copies; flip changes an octet of the first segment: of the random, behind the headers of record and handshake.
func carry(to io.Writer, from io.Reader, flip bool) {
	block := make([]byte, 32<<10)
	for {
		n, err := from.Read(block)
		if flip && n > 20 {
			block[20] ^= 1
			flip = false
		}
		if _, werr := to.Write(block[:n]); werr != nil || err != nil {
			return
		}
	}
}

// authority is a CA.
type authority struct{ tls.Certificate }

// theAuthority is the one that the peers' certificates are from and the library trusts.
func theAuthority(t *testing.T) authority {
	t.Helper()
	file := os.Getenv("POSTSEAL_PEER_CA")
	pair, err := tls.LoadX509KeyPair(file, strings.TrimSuffix(file, ".pem")+".key")
	require.NoError(t, err)
	return authority{pair}
}

// foreign is a CA that nobody trusts.
func foreign(t *testing.T) authority {
	t.Helper()
	return authority{mint(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Interop CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})}
}

// issue makes a certificate for the names, which ends at the time.
func (a authority) issue(t *testing.T, ends time.Time, names ...string) *tls.Certificate {
	t.Helper()
	c := mint(t, &a.Certificate, &x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotAfter: ends, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return &c
}

// mint signs c with the key of by; nil is c's own.
func mint(t *testing.T, by *tls.Certificate, c *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	require.NoError(t, err)
	c.NotBefore = time.Now().AddDate(-1, 0, 0)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().AddDate(1, 0, 0)
	}
	parent, signer := c, any(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
