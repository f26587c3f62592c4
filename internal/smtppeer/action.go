package smtppeer

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Stage is a moment of a session at which a Peer can be told what to do.
type Stage string

const (
	// StageGreeting is before the 220 greeting.
	StageGreeting Stage = "greeting"
	// StageEHLO and StageHELO are at these commands.
	StageEHLO Stage = "ehlo"
	StageHELO Stage = "helo"
	// StageStartTLS is at the command; StageHandshake is after its 220, before the TLS handshake.
	StageStartTLS  Stage = "starttls"
	StageHandshake Stage = "handshake"
	StageAuth      Stage = "auth"
	StageMail      Stage = "mail"
	StageRcpt      Stage = "rcpt"
	StageData      Stage = "data"
	// StageBody is at the first line of message data: only Delay, Stall and Close have a meaning there.
	StageBody Stage = "body"
	// StageDot is after the final dot. Close there is a reply that never comes though the message was taken.
	StageDot Stage = "dot"
	// StageChunk is at BDAT once its octets are read, but for the last chunk, which is StageDot.
	StageChunk Stage = "chunk"
	StageReset Stage = "rset"
	StageQuit  Stage = "quit"
)

// Event is one moment of one session.
type Event struct {
	Stage Stage
	// Arg is the rest of the command line; an address without brackets for StageRcpt.
	Arg string
	// Conn numbers the connection, N the times this Stage was reached on the whole Peer, both from 1.
	Conn, N int
	// Taken is how many messages this connection took so far.
	Taken int
	TLS   bool
}

// Action is what a Peer does in place of its usual reply. Its parts happen in the order of the fields; the zero value
// does what the Peer would have done.
type Action struct {
	// Delay waits first.
	Delay time.Duration
	// Stall waits until the client or the Peer closes.
	Stall bool
	// Banner sends that many octets without a line end.
	Banner int
	// Raw is written as it is.
	Raw string
	// Code and Text are a reply; with "\n" in Text one of several lines.
	Code int
	Text string
	// Lines repeats Text that many times in one reply.
	Lines int
	// Close drops the connection after what was written.
	Close bool
	// Taken makes a message at StageDot count as taken whatever was said.
	Taken bool
}

// Refuse makes an Action that replies with code and text.
func Refuse(code int, text string) Action { return Action{Code: code, Text: text} }

// Drop makes an Action that closes the connection without a reply.
func Drop() Action { return Action{Close: true} }

// Stall makes an Action that never replies.
func Stall() Action { return Action{Stall: true} }

// replaces says that the Action speaks in place of the Peer.
func (a *Action) replaces() bool {
	return a.Stall || a.Banner > 0 || a.Raw != "" || a.Code != 0 || a.Close
}

// format makes the reply's lines (RFC 5321 section 4.2.1).
func format(code int, lines []string) string {
	var b strings.Builder
	for i, l := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		b.WriteString(strconv.Itoa(code) + sep + l + "\r\n")
	}
	return b.String()
}

func (a *Action) reply() string {
	lines := strings.Split(a.Text, "\n")
	for len(lines) < a.Lines {
		lines = append(lines, a.Text)
	}
	return format(a.Code, lines)
}

// at finds the Action for a moment; nil goes on as usual.
func (s *session) at(stage Stage, arg string) *Action {
	s.p.mu.Lock()
	s.p.counts[stage]++
	n := s.p.counts[stage]
	s.p.mu.Unlock()
	var a *Action
	if s.p.o.Hook != nil {
		a = s.p.o.Hook(Event{Stage: stage, Arg: arg, Conn: s.id, N: n, Taken: s.taken, TLS: s.tls != nil})
	}
	if a == nil && stage == StageRcpt && s.p.o.Rcpt != nil {
		a = s.p.o.Rcpt(arg)
	}
	if a != nil || len(s.p.o.On) == 0 {
		return a
	}
	if on, ok := s.p.o.On[stage]; ok {
		return &on
	}
	return nil
}

// perform does a. It answers whether a spoke in place of the Peer, and errGone if the session is over.
func (s *session) perform(a *Action) (bool, error) {
	if a == nil {
		return false, nil
	}
	if a.Delay > 0 {
		_ = s.bw.Flush()
		if !s.wait(a.Delay) {
			return true, errGone
		}
	}
	if a.Stall {
		_ = s.bw.Flush()
		s.stall()
		return true, errGone
	}
	if a.Banner > 0 {
		for i := 0; i < a.Banner; i += 1024 {
			if _, err := fmt.Fprintf(s.bw, "%01024d", i); err != nil {
				return true, errGone
			}
		}
	}
	_, _ = s.bw.WriteString(a.Raw)
	if a.Code != 0 {
		_, _ = s.bw.WriteString(a.reply())
	}
	if a.Close {
		_ = s.bw.Flush()
		s.spoke = a.Code != 0 || a.Raw != ""
		return true, errGone
	}
	return a.replaces(), nil
}

// wait sleeps for d, and is false if the Peer closed meanwhile.
func (s *session) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.p.done:
		return false
	}
}
