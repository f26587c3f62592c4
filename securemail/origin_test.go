package securemail_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
)

// TestRawWritesAsItsTenantOnly: every mailbox that a reader may take for the author is checked, not one of them.
func TestRawWritesAsItsTenantOnly(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Tenants = tenants{"south": {"@south.example"}} })
	ctx := securemail.WithActor(context.Background(), securemail.Actor{Tenant: "south", ID: "u", Kind: "person"})
	for _, c := range []struct {
		name, head, fault string
		err               error
	}{
		{"own", "From: a@south.example", "", nil},
		{"own, and a secretary", "From: a@south.example\r\nSender: b@south.example", "", nil},
		{"several own", "From: a@south.example, b@south.example\r\nSender: b@south.example", "", nil},
		{"foreign author first", "From: ceo@north.example, a@south.example\r\nSender: a@south.example", "", securemail.ErrTenant},
		{"foreign author second", "From: a@south.example, ceo@north.example\r\nSender: a@south.example", "", securemail.ErrTenant},
		{"foreign author in a group", "From: All: a@south.example, ceo@north.example;\r\nSender: a@south.example", "", securemail.ErrTenant},
		{"foreign sender", "From: a@south.example\r\nSender: ceo@north.example", "", securemail.ErrTenant},
		{"two senders", "From: a@south.example\r\nSender: a@south.example\r\nSender: ceo@north.example", "From:from", nil},
		{"sender that can't be read", "From: a@south.example\r\nSender: ceo", "From:from", nil},
		{"author that can't be read", "From: a@south.example, ceo@[1.2.3.4]\r\nSender: a@south.example", "From:from", nil},
		{"two message ids", "From: a@south.example\r\nMessage-ID: <1@a>\r\nMessage-ID: <2@a>", "Raw:duplicate", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := k.Send(ctx, &securemail.Draft{To: securemail.To("a@x.example"), Raw: securemail.Bytes([]byte(c.head + "\r\n\r\nx\r\n"))})
			require.Equal(t, c.fault, fieldOf(err))
			if c.fault == "" {
				require.ErrorIs(t, err, c.err)
			}
		})
	}
}

// TestBouncesGoToTheTenantOnly: a bounce quotes the message.
func TestBouncesGoToTheTenantOnly(t *testing.T) {
	k := securemailtest.New(t, func(c *securemail.Config) { c.Tenants = tenants{"north": {"@example.org"}} })
	ctx := securemail.WithActor(context.Background(), securemail.Actor{Tenant: "north", ID: "u", Kind: "person"})
	d := draft("a@x.example")
	d.ReturnPath = securemail.Mailbox("desk@south.example").Address
	_, err := k.Send(ctx, d)
	require.ErrorIs(t, err, securemail.ErrTenant)
	d.ReturnPath = securemail.Mailbox("bounces@example.org").Address
	_, err = k.Send(ctx, d)
	require.NoError(t, err)
}

func TestRawNameThatWouldBreakAHeaderIsLeftOut(t *testing.T) {
	k := securemailtest.New(t, nil)
	raw := "From: =?utf-8?q?a=0D=0ABcc=3A_evil=40x.example?= <clinic@example.org>\r\nTLS-Required: No\r\n\r\nx\r\n"
	sub, err := k.Send(context.Background(), &securemail.Draft{To: securemail.To("a@x.example"), Raw: securemail.Bytes([]byte(raw))})
	require.NoError(t, err)
	require.Empty(t, sub.Parcels[0].From.Name)
	k.Pass(t)
	sent := k.Transport.RequireSent(t, "a@x.example")
	require.Empty(t, sent[0].Message.Header("TLS-Required"), "it would ask relays to go below the floor")
}

func TestDraftValueIsRedacted(t *testing.T) {
	d := draft("canary@x.example")
	d.Subject, d.Text, d.HTML = "canary", "canary", "canary"
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		require.NotContains(t, fmt.Sprintf(verb, *d), "canary")
		require.NotContains(t, fmt.Sprintf(verb, struct{ D securemail.Draft }{*d}), "canary")
		require.NotContains(t, fmt.Sprintf(verb, *d), "63616e617279")
	}
	require.NotPanics(t, func() { _ = fmt.Sprintf("%v", (*securemail.Draft)(nil)) })
}

func TestSourceErrorsHoldNoPath(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "canary")
	require.NoError(t, os.Mkdir(folder, 0o700))
	k := securemailtest.New(t, nil)
	d := draft("a@x.example")
	d.Attachments = []securemail.Attachment{{Name: "x", Content: securemail.File(folder)}}
	_, err := k.Send(context.Background(), d)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "canary")
	_, err = k.Send(context.Background(), &securemail.Draft{To: d.To, Raw: securemail.File(folder)})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "canary")
}
