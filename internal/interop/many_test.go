//go:build interop

package interop_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport/smtp"
)

// modes are the ways in which messages follow each other.
var modes = map[string]func(o *smtp.Options){
	"data":   nil,
	"chunks": func(o *smtp.Options) { o.Chunking = smtp.ChunkingOffered },
}

// TestMany delivers from many goroutines at once, each message with a sender of its own, and every seventh to a recipient
// who is refused. Each other one arrives once, byte for byte and from its own sender; each call gets its own result.
func TestMany(t *testing.T) {
	for name, set := range modes {
		t.Run(name, func(t *testing.T) {
			p, tr := thePeer(t), transportWith(t, set)
			const callers, each = 8, 40
			mails := make([]mail, callers*each)
			receipts, errs := make([]*securemail.Receipt, len(mails)), make([]error, len(mails))
			var wg sync.WaitGroup
			for i := range mails {
				mails[i] = numbered(i)
			}
			for c := range callers {
				wg.Go(func() {
					for i := c * each; i < (c+1)*each; i++ {
						var intents int
						receipts[i], intents, errs[i] = mails[i].send(t, tr, securemail.ChannelNamed)
						assert.Equal(t, errs[i] == nil, intents == 1)
					}
				})
			}
			wg.Wait()
			p.each(t, mails, receipts, errs)
		})
	}
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
func (p peer) each(t *testing.T, mails []mail, receipts []*securemail.Receipt, errs []error) {
	t.Helper()
	var taken []mail
	for i, m := range mails {
		if errs[i] == nil {
			taken = append(taken, m)
		}
	}
	b := p.settled(t, taken...)
	for i, m := range mails {
		if strings.HasPrefix(m.to, "refused@") {
			de, ok := errors.AsType[*securemail.DeliveryError](errs[i])
			require.True(t, ok, "mail %d: %v", i, errs[i])
			require.Equal(t, securemail.FatePermanent, de.Fate)
			require.Equal(t, "rcpt", de.Stage)
			require.Empty(t, b[m.token])
			continue
		}
		require.NoError(t, errs[i], "mail %d", i)
		fields := b.fields(t, m)
		require.Equal(t, m.from, returnPath(t, fields))
		require.Contains(t, fields, receipts[i].RemoteID, "another mail's receipt")
		require.NotEmpty(t, receipts[i].RemoteID)
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
