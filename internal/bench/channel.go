package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// messageSize is the length of the message, in octets.
const messageSize = 4 << 10

// window is how many messages may be unanswered on a connection where they are streamed.
const window = 64

const (
	sender    = "clinic@sender.test"
	recipient = "anna@bench.test"
)

// Far ends that are no part of this program; run starts them.
const (
	envSink    = "POSTSEAL_BENCH_SINK"    // the address of Debian's smtp-sink
	envPostfix = "POSTSEAL_BENCH_POSTFIX" // that of a Postfix with TLS, which discards
	envCA      = "POSTSEAL_BENCH_CA"      // its certificate, in PEM
)

// target is a far end. Its certificate, where it has one, is for sinkName.
type target struct {
	addr  string
	wire  wire
	roots *x509.CertPool
	// tally is what it has seen so far; nil: it can't say.
	tally func() (tally, error)
}

func (t target) tls() *tls.Config {
	return &tls.Config{ServerName: sinkName, RootCAs: t.roots, MinVersion: tls.VersionTLS12}
}

// wire says whether the client must use STARTTLS.
type wire string

const (
	plain    wire = "plain"
	starttls wire = "starttls"
)

// driver is one SMTP client. open makes one for each of n callers, connected or about to be.
type driver struct {
	name string
	open func(ctx context.Context, to target, n int) ([]client, error)
}

// single makes the open of a client that has one connection.
func single(dial func(ctx context.Context, to target) (client, error)) func(context.Context, target, int) ([]client, error) {
	return func(ctx context.Context, to target, n int) ([]client, error) {
		var cs []client
		for range n {
			c, err := dial(ctx, to)
			if err != nil {
				return cs, err
			}
			cs = append(cs, c)
		}
		return cs, nil
	}
}

// client delivers for one caller.
type client interface {
	deliver(ctx context.Context) error
	close() error
}

// drivers are ours, first, and theirs.
func drivers() []driver {
	return []driver{ours(nil), goMail(), netSMTP(), mox()}
}

// message is what everybody delivers.
func message() []byte {
	var b strings.Builder
	b.WriteString("From: Clinic <" + sender + ">\r\nTo: Anna <" + recipient + ">\r\nSubject: Your appointment\r\n" +
		"Date: Mon, 05 Jan 2026 10:00:00 +0000\r\nMessage-ID: <bench@sender.test>\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: text/plain; charset=us-ascii\r\n\r\n")
	for b.Len() < messageSize {
		b.WriteString("Please come on Tuesday at ten to room four and bring your card.\r\n")
	}
	return []byte(b.String())
}

// channel delivers to far ends of this program and, where run has started them, to Debian's. Connections are reused.
func channel(ctx context.Context, s settings, report func(Result)) error {
	f, err := startSink()
	if err != nil {
		return err
	}
	defer f.stop()
	scenes, err := outside(s)
	if err != nil {
		return err
	}
	for _, sc := range append(f.scenes(s), scenes...) {
		if s.only != nil && !s.only.MatchString(sc.name) {
			continue
		}
		if err := play(ctx, sc, s.rounds, report); err != nil {
			return err
		}
	}
	if s.only != nil && !s.only.MatchString("destinations") {
		return nil
	}
	return destinations(ctx, f, s, report)
}

// scenes are those at the sink of this program.
func (f *far) scenes(s settings) []scenery {
	clear, secure := f.target(f.addrs.Plain, plain), f.target(f.addrs.Secure, starttls)
	return []scenery{
		{name: "plain C=1 reuse", to: clear, entrants: each(drivers(), 1, s.messages)},
		{name: "plain C=8 reuse", to: clear, entrants: each(drivers(), 8, s.messages)},
		{name: "starttls C=1 reuse", to: secure, entrants: each(drivers(), 1, s.messages)},
		{
			name: "starttls C=4 reuse", to: secure, entrants: each(drivers(), 4, s.messages),
			goals: goals{rate: map[string]float64{"mox": 1.4}, most: 25},
		},
		{
			name: "starttls C=4 streamed", to: secure, entrants: besideMox(stream(4, 4*window, s.messages), 4, s.messages),
			goals: goals{rate: map[string]float64{"mox": 1.4}, most: 25},
		},
		{
			name: "20 ms C=1 CHUNKING", to: f.target(f.addrs.Far, plain),
			entrants: besideMox(stream(1, 2*window, min(s.messages, 6000)), 1, min(s.messages, 40)),
			goals:    goals{least: 1000, withoutCPU: true},
		},
		{
			name: "20 ms C=1 DATA", to: f.target(f.addrs.FarData, plain),
			entrants: besideMox(stream(1, 8, min(s.messages, 160)), 1, min(s.messages, 40)),
			goals:    goals{least: 45, withoutCPU: true},
		},
	}
}

// stream is ours with callers that share so many connections.
func stream(connections, callers, messages int) entrant {
	return entrant{driver: ours(streamed(connections)), callers: callers, messages: messages, connections: connections}
}

// besideMox compares e with mox alone, at that many connections.
func besideMox(e entrant, connections, messages int) []entrant {
	return []entrant{e, {driver: mox(), callers: connections, messages: messages, connections: connections}}
}

// outside are the scenes at far ends that run has started.
func outside(s settings) ([]scenery, error) {
	var out []scenery
	if addr := os.Getenv(envSink); addr != "" {
		out = append(out, scenery{
			name: "smtp-sink C=8 reuse", to: target{addr: addr, wire: plain}, entrants: each(drivers(), 8, s.messages),
			// 1/0.7 is at most 0.7 times mox's CPU.
			goals: goals{rate: map[string]float64{"mox": 1.1}, cpu: map[string]float64{"mox": 1 / 0.7}},
		})
	} else {
		fmt.Fprintln(os.Stderr, "bench: without smtp-sink: "+envSink+" is not set")
	}
	addr := os.Getenv(envPostfix)
	if addr == "" {
		fmt.Fprintln(os.Stderr, "bench: without Postfix: "+envPostfix+" is not set")
		return out, nil
	}
	pem, err := os.ReadFile(os.Getenv(envCA))
	if err != nil {
		return nil, err
	}
	to := target{addr: addr, wire: starttls, roots: x509.NewCertPool()}
	if !to.roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + envCA)
	}
	n := min(s.messages, 4000)
	return append(out, scenery{
		name: "Postfix TLS C=8 reuse", to: to, entrants: each([]driver{ours(nil), mox()}, 8, n), goals: goals{withoutCPU: true},
	}, scenery{
		name: "Postfix TLS C=8 streamed", to: to, entrants: besideMox(stream(8, 8*window, n), 8, n), goals: goals{withoutCPU: true},
	}), nil
}
