package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The sink is the far end: a process of its own, so that its CPU time is not the client's. It accepts everything, keeps
// nothing and counts messages.
const (
	sinkArg        = "sink"
	certificateArg = "certificate"
	sinkName       = "mx.bench.test"
)

// hello is the first line that the sink's process prints.
type hello struct {
	// Plain offers no STARTTLS, Secure does: a client that would use it anyway must be compared in clear too.
	Plain, Secure string
	// Far is Plain with a round trip of 20 ms, FarData the same without CHUNKING.
	Far, FarData string
	Cert         []byte
}

// tally is what the sink has seen: whole messages, connections that are open, and the most there were since it was last asked.
type tally struct{ Messages, Open, Most int }

// far is the sink as the drivers see it.
type far struct {
	addrs hello
	roots *x509.CertPool
	in    io.WriteCloser
	out   *bufio.Reader
	cmd   *exec.Cmd
}

// startSink runs this program again as a sink.
func startSink() (*far, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f := &far{cmd: exec.Command(self, sinkArg), roots: x509.NewCertPool()}
	f.cmd.Stderr = os.Stderr
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	f.out = bufio.NewReader(out)
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	if err := f.line(&f.addrs); err != nil {
		return nil, errors.Join(err, f.stop())
	}
	cert, err := x509.ParseCertificate(f.addrs.Cert)
	if err != nil {
		return nil, errors.Join(err, f.stop())
	}
	f.roots.AddCert(cert)
	return f, nil
}

func (f *far) target(addr string, w wire) target {
	return target{addr: addr, wire: w, roots: f.roots, tally: f.tally}
}

func (f *far) line(v any) error {
	b, err := f.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	return json.Unmarshal(b, v)
}

// tally asks what came in so far.
func (f *far) tally() (t tally, err error) {
	if _, err := io.WriteString(f.in, "tally\n"); err != nil {
		return t, err
	}
	err = f.line(&t)
	return t, err
}

func (f *far) stop() error { return errors.Join(f.in.Close(), f.cmd.Wait()) }

// serveSink listens on loopback until in ends, and answers each line of in with a tally.
func serveSink(in io.Reader, out io.Writer) error {
	cert, err := sinkCertificate()
	if err != nil {
		return err
	}
	s := &sink{}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	h := hello{Cert: cert.Certificate[0]}
	var data string
	for _, l := range []struct {
		addr  *string
		serve func(net.Conn)
	}{
		{&h.Plain, s.serve(nil, "CHUNKING")},
		{&h.Secure, s.serve(conf, "CHUNKING")},
		{&data, s.serve(nil, "8BITMIME")},
		{&h.Far, func(c net.Conn) { relay(c, h.Plain) }},
		{&h.FarData, func(c net.Conn) { relay(c, data) }},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close()
		*l.addr = ln.Addr().String()
		go accept(ln, l.serve)
	}
	enc := json.NewEncoder(out)
	if err := enc.Encode(h); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if err := enc.Encode(s.tally()); err != nil {
			return err
		}
	}
	return nil
}

func accept(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

func sinkCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: sinkName}, DNSNames: []string{sinkName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// writeCertificate makes the certificate of a real far end, and its key, in the folder dir.
func writeCertificate(dir string) error {
	cert, err := sinkCertificate()
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	for file, b := range map[string]*pem.Block{
		"bench.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, "bench.key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(b), 0o600); err != nil {
			return err
		}
	}
	return nil
}

type sink struct {
	messages atomic.Int64

	mu         sync.Mutex // guards what follows
	open, most int
}

// serve makes what serves one connection that offers extension.
func (s *sink) serve(conf *tls.Config, extension string) func(net.Conn) {
	return func(c net.Conn) {
		s.count(1)
		defer s.count(-1)
		(&session{
			sink: s, tls: conf, extension: extension, conn: c, r: bufio.NewReaderSize(c, 64<<10), w: bufio.NewWriter(c),
		}).serve()
	}
}

func (s *sink) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
	s.most = max(s.most, s.open)
}

func (s *sink) tally() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := tally{int(s.messages.Load()), s.open, s.most}
	s.most = s.open
	return t
}

// session is one connection. Replies wait until nothing more is in the read buffer, as RFC 2920 section 3.2 asks.
type session struct {
	sink *sink
	tls  *tls.Config // nil: none, or none any more
	// extension is offered beside the usual ones.
	extension string
	// ready: there is a recipient.
	ready bool
	conn  net.Conn
	r     *bufio.Reader
	w     *bufio.Writer
}

func (s *session) serve() {
	s.reply("220 " + sinkName + " ESMTP")
	for {
		line, err := s.r.ReadSlice('\n')
		if err != nil || !s.command(string(bytes.TrimRight(line, "\r\n"))) {
			_ = s.w.Flush()
			return
		}
		if s.r.Buffered() == 0 {
			if s.w.Flush() != nil {
				return
			}
		}
	}
}

func (s *session) reply(text string) {
	_, _ = s.w.WriteString(text + "\r\n")
	if s.r.Buffered() == 0 {
		_ = s.w.Flush()
	}
}

// command answers one command and says whether the session goes on.
func (s *session) command(line string) bool {
	verb, rest, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		s.ready = false
		text := "250-" + sinkName + "\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n"
		if s.tls != nil {
			text += "250-STARTTLS\r\n"
		}
		s.reply(text + "250-" + s.extension + "\r\n250 SMTPUTF8")
	case "STARTTLS":
		return s.startTLS()
	case "DATA":
		return s.data()
	case "BDAT":
		return s.bdat(rest)
	case "QUIT":
		s.reply("221 2.0.0 bye")
		return false
	case "RCPT", "MAIL", "RSET":
		s.ready = strings.EqualFold(verb, "RCPT")
		s.reply("250 2.0.0 ok")
	default: // NOOP, HELO
		s.reply("250 2.0.0 ok")
	}
	return true
}

func (s *session) startTLS() bool {
	s.reply("220 2.0.0 go")
	c := tls.Server(s.conn, s.tls)
	if c.Handshake() != nil {
		return false
	}
	s.conn, s.tls = c, nil
	s.r.Reset(c)
	s.w.Reset(c)
	return true
}

func (s *session) data() bool {
	if !s.ready {
		s.reply("503 5.5.1 no recipient")
		return true
	}
	s.reply("354 go")
	if s.w.Flush() != nil {
		return false
	}
	for whole := true; ; { // whole: the slice begins a line
		line, err := s.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return false
		}
		if whole && string(line) == ".\r\n" {
			break
		}
		whole = err == nil
	}
	s.taken()
	return true
}

func (s *session) bdat(rest string) bool {
	size, last, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return false
	}
	if _, err := io.CopyN(io.Discard, s.r, n); err != nil {
		return false
	}
	switch {
	case !s.ready: // the chunk is discarded
		s.reply("503 5.5.1 no recipient")
	case strings.EqualFold(last, "LAST"):
		s.taken()
	default:
		s.reply("250 2.0.0 ok")
	}
	return true
}

func (s *session) taken() {
	s.ready = false
	s.sink.messages.Add(1)
	s.reply("250 2.0.0 taken")
}
