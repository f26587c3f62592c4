//go:build interop

package interop_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// mode is a way in which messages follow each other.
type mode struct {
	name    string
	callers int
	set     func(o *smtp.Options)
}

// Without a stream each caller has a connection, and Exim takes twenty.
var modes = []mode{
	{"data", 8, nil},
	{"chunks", 8, func(o *smtp.Options) { o.Chunking = smtp.ChunkingOffered }},
	{"stream", 64, func(o *smtp.Options) { o.Stream = &smtp.Stream{Connections: 2} }},
	{"stream on one connection", 64, func(o *smtp.Options) { o.Stream = &smtp.Stream{} }},
	{"stream by data", 64, func(o *smtp.Options) {
		o.Stream, o.Chunking = &smtp.Stream{Connections: 2}, smtp.ChunkingNever
	}},
}

// TestMany delivers from many goroutines at once, each message with a sender of its own, and every seventh to a recipient
// who is refused. Each other one arrives once, byte for byte and from its own sender; each call gets its own result.
func TestMany(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			p, tr := thePeer(t), transportWith(t, m.set)
			mails, results := flood(t, tr, min(m.callers, p.streamers()), securemail.ChannelNamed)
			p.each(t, mails, results)
		})
	}
}

// result is what a Deliver call returned.
type result struct {
	receipt *securemail.Receipt
	err     error
}

// flood delivers numbered mails from so many goroutines at once.
func flood(t *testing.T, tr *smtp.Transport, callers int, floor securemail.Channel) ([]mail, []result) {
	t.Helper()
	const count = 336
	mails, results := make([]mail, count), make([]result, count)
	for i := range mails {
		mails[i] = numbered(i)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				r, intents, err := mails[i].send(t, tr, floor)
				results[i] = result{r, err}
				assert.True(t, err != nil || intents > 0, "accepted without an intent")
			}
		})
	}
	wg.Wait()
	return mails, results
}

// numbered is a mail whose size, sender and recipient follow from i.
func numbered(i int) mail {
	local := fmt.Sprintf("r%d", i)
	if i%7 == 0 {
		local = "refused"
	}
	// The lines would be commands to a peer that loses its place.
	m := newMail(local+"@"+named, fmt.Sprintf("mail %d\r\n", i)+strings.Repeat("RSET\r\n.\r\n..\r\nNOOP\r\n", i%50))
	m.from = fmt.Sprintf("s%d@sender.test", i)
	return m
}

// each holds what the peer stored against what the callers were told.
func (p peer) each(t *testing.T, mails []mail, results []result) {
	t.Helper()
	var taken []mail
	for i, m := range mails {
		if results[i].err == nil {
			taken = append(taken, m)
		}
	}
	b := p.settled(t, taken...)
	for i, m := range mails {
		r := results[i]
		if strings.HasPrefix(m.to, "refused@") {
			require.Equal(t, securemail.FatePermanent, fate(t, r.err))
			require.Empty(t, b[m.token])
			continue
		}
		require.NoError(t, r.err, "mail %d", i)
		p.own(t, b, m, r.receipt)
	}
}

// own says that m arrived once and as it was, and that the receipt is its own.
func (p peer) own(t *testing.T, b box, m mail, r *securemail.Receipt) {
	t.Helper()
	fields := b.fields(t, m)
	require.Equal(t, m.from, returnPath(t, fields))
	require.NotEmpty(t, r.RemoteID)
	require.Contains(t, fields, r.RemoteID, "another mail's receipt")
}

func fate(t *testing.T, err error) securemail.Fate {
	t.Helper()
	de, ok := errors.AsType[*securemail.DeliveryError](err)
	require.True(t, ok, "%v", err)
	return de.Fate
}

// throughMiddle finds each mail host where a man in the middle is.
type throughMiddle struct{ peerDNS }

// Addrs implements smtp.Resolver.
func (throughMiddle) Addrs(context.Context, string) (smtp.AddrSet, error) {
	return smtp.AddrSet{Addrs: []netip.Addr{netip.MustParseAddr(middleAddr)}}, nil
}

// streamThrough makes a transport that streams through the man in the middle.
func streamThrough(t *testing.T) *smtp.Transport {
	t.Helper()
	return transportWith(t, func(o *smtp.Options) { o.Stream, o.Resolver = &smtp.Stream{}, throughMiddle{} })
}

// streamers is how many callers the peer stands that takes no streams: OpenSMTPD gives each a connection.
func (p peer) streamers() int {
	if p.name == "opensmtpd" {
		return 8
	}
	return 64
}

// TestStreamWay reads off the wire which way the library takes with each peer: those that proved that they discard a
// refused chunk get streams of chunks.
func TestStreamWay(t *testing.T) {
	p, m := thePeer(t), newMiddle(t, middleAddr+":25", "127.0.0.1:25")
	mails, results := flood(t, streamThrough(t), p.streamers(), securemail.ChannelAny)
	p.each(t, mails, results)
	said := m.transcript()
	if p.name == "opensmtpd" {
		require.NotContains(t, said, "BDAT")
		return
	}
	// The bodies hold lines of RSET; nothing else is between an envelope and a message.
	require.NotContains(t, said, "\r\nDATA\r\n")
	require.Equal(t, 1, strings.Count(said, "RSET\r\nMAIL FROM:<>\r\nBDAT 6 LAST\r\nNOOP\r\nMAIL FROM:<>\r\nEHLO"), "the question")
	require.Equal(t, len(mails), strings.Count(said, "RSET\r\nMAIL FROM:<s"), "RSET in front of each")
	sessions := strings.Count(said, "EHLO") - 1
	if p.name == "postfix" {
		require.Equal(t, 1, sessions)
	} else { // Exim hangs up behind ten refusals, so a session has eight at most
		require.GreaterOrEqual(t, sessions, len(mails)/7/8)
		require.LessOrEqual(t, sessions, len(mails)/7/8+2)
	}
}

// TestPostfixLeaks stands a peer that takes refused chunks for commands in front of Postfix: it is found out, and gets
// every message by DATA.
func TestPostfixLeaks(t *testing.T) {
	p, m := thePeer(t), newMiddle(t, middleAddr+":25", "127.0.0.1:25")
	m.become(tampering{leaks: true})
	mails, results := flood(t, streamThrough(t), 16, securemail.ChannelAny)
	p.each(t, mails, results)
	require.Equal(t, 1, strings.Count(m.transcript(), "\r\nBDAT "), "the question alone")
}

// TestStreamCut ends each connection in the middle of the stream, with a message accepted and its answer lost. Whatever a
// caller is told is true: what is not uncertain is there once, or is not there.
func TestStreamCut(t *testing.T) {
	p, m := thePeer(t), newMiddle(t, middleAddr+":25", "127.0.0.1:25")
	m.become(tampering{cut: 90})
	tr := streamThrough(t)
	mails, results := flood(t, tr, p.streamers(), securemail.ChannelAny)
	m.become(tampering{})
	last := newMail("anna@"+named, "the last\r\n")
	_, _, err := last.send(t, tr, securemail.ChannelAny)
	require.NoError(t, err)
	taken, unclear := []mail{last}, 0
	for i, m := range mails {
		if results[i].err == nil {
			taken = append(taken, m)
		}
	}
	b := p.settled(t, taken...)
	for i, m := range mails {
		r := results[i]
		switch {
		case r.err == nil:
			p.own(t, b, m, r.receipt)
		case fate(t, r.err) == securemail.FateUncertain:
			unclear++
			require.LessOrEqual(t, len(b[m.token]), 1)
		default:
			require.Empty(t, b[m.token], "mail %d: %v", i, r.err)
		}
	}
	if p.name != "opensmtpd" { // where each reply is waited for, the cut may hit one that is no answer to a message
		require.NotZero(t, unclear)
	}
	t.Logf("%d of %d delivered, %d uncertain", len(taken)-1, len(mails), unclear)
}

// TestGoSMTPStream streams to a go-smtp server.
func TestGoSMTPStream(t *testing.T) {
	s := goSMTP(t, middleAddr+":25")
	mails, results := flood(t, streamThrough(t), 64, securemail.ChannelAny)
	got := map[string][]kept{}
	for _, k := range s.mails() {
		got[k.to+" "+k.from] = append(got[k.to+" "+k.from], k)
	}
	for i, m := range mails {
		if strings.HasPrefix(m.to, "refused@") {
			require.Equal(t, securemail.FatePermanent, fate(t, results[i].err))
			require.Empty(t, got[m.to+" "+m.from])
			continue
		}
		require.NoError(t, results[i].err)
		require.Equal(t, []kept{{m.from, m.to, string(m.bytes)}}, got[m.to+" "+m.from])
	}
}

// TestReports asks for a report of success: the peer's names the parcel's envelope and the recipient as we did, and holds
// nothing of the body.
func TestReports(t *testing.T) {
	p := thePeer(t)
	tr := transportWith(t, func(o *smtp.Options) {
		o.DSN = func(*securemail.Slip) smtp.DSN {
			return smtp.DSN{Notify: smtp.NotifySuccess | smtp.NotifyFailure, OriginalRecipient: true}
		}
	})
	m := newMail("anna+x=y@"+named, "the secret body\r\n")
	m.from = "reports@" + named
	_, _, err := m.send(t, tr, securemail.ChannelNamed)
	require.NoError(t, err)
	p.stored(t, m)
	var report string
	require.Eventually(t, func() bool {
		report = p.search(t, m.token, "message/delivery-status")
		return report != ""
	}, waitStored, pollStored, "no report")
	require.NotContains(t, report, "secret body")
	if p.name == "opensmtpd" {
		return // it offers DSN, and forgets ENVID and ORCPT
	}
	lower := strings.ToLower(report)
	require.Contains(t, lower, "original-envelope-id: "+smtp.EnvelopeID(m.parcel()))
	require.Contains(t, lower, "original-recipient: rfc822;anna")
}
