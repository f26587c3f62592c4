package securemail

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestValidateAccepts(t *testing.T) {
	require.Empty(t, fullDraft().validate(limits{maxVisible: 2, maxSize: 100}))
	raw := &Draft{Raw: Bytes([]byte("x")), To: To("a@example.org")}
	require.Empty(t, raw.validate(limits{maxVisible: 1, maxSize: 1}))
}

func TestValidateFaults(t *testing.T) {
	hostile := Contact{Name: "x\r\nBcc: y@example.com", Address: Mailbox("x@example.com").Address}
	for name, c := range map[string]struct {
		change func(*Draft)
		want   []Fault
	}{
		"no recipient":       {func(d *Draft) { d.To, d.Cc, d.Bcc, d.Each = nil, nil, nil, nil }, []Fault{{"To", ruleRequired}}},
		"malformed":          {func(d *Draft) { d.Bcc = To("fine@example.com", "no address") }, []Fault{{"Bcc[1]", ruleAddress}}},
		"zero recipient":     {func(d *Draft) { d.Each = []Recipient{{}} }, []Fault{{"Each[0]", ruleAddress}}},
		"twice in one list":  {func(d *Draft) { d.Bcc = To("b@example.org", "B <b@EXAMPLE.org>") }, []Fault{{"Bcc[1]", ruleDuplicate}}},
		"twice over lists":   {func(d *Draft) { d.Each = To("t@example.org") }, []Fault{{"Each[0]", ruleDuplicate}}},
		"too many visible":   {func(d *Draft) { d.Cc = To("c@example.org", "d@example.org") }, []Fault{{"To", ruleVisible}}},
		"no from":            {func(d *Draft) { d.From = Contact{} }, []Fault{{"From", ruleRequired}}},
		"malformed from":     {func(d *Draft) { d.From = Mailbox("anna") }, []Fault{{"From", ruleAddress}}},
		"malformed reply-to": {func(d *Draft) { d.ReplyTo = Mailbox("anna") }, []Fault{{"ReplyTo", ruleAddress}}},
		"reply-to, name":     {func(d *Draft) { d.ReplyTo = Contact{Name: "Anna"} }, []Fault{{"ReplyTo", ruleAddress}}},
		"from name":          {func(d *Draft) { d.From = hostile }, []Fault{{"From", ruleCRLF}}},
		"reply-to name":      {func(d *Draft) { d.ReplyTo = hostile }, []Fault{{"ReplyTo", ruleCRLF}}},
		"to name":            {func(d *Draft) { d.To = []Recipient{{Contact: hostile}} }, []Fault{{"To[0]", ruleCRLF}}},
		"encoded name":       {func(d *Draft) { d.To = To("=?utf-8?q?a=0D=0Ab?= <a@example.com>") }, []Fault{{"To[0]", ruleCRLF}}},
		"subject cr":         {func(d *Draft) { d.Subject = "a\rb" }, []Fault{{"Subject", ruleCRLF}}},
		"subject lf":         {func(d *Draft) { d.Subject = "a\nBcc: b" }, []Fault{{"Subject", ruleCRLF}}},
		"subject nul":        {func(d *Draft) { d.Subject = "a\x00b" }, []Fault{{"Subject", ruleNUL}}},
		"subject tab":        {func(d *Draft) { d.Subject = "a\tb" }, []Fault{{"Subject", ruleControl}}},
		"subject nel":        {func(d *Draft) { d.Subject = "a\u0085b" }, []Fault{{"Subject", ruleControl}}},
		"subject latin-1":    {func(d *Draft) { d.Subject = "gr\xfc\xdfe" }, []Fault{{"Subject", ruleUTF8}}},
		"text latin-1":       {func(d *Draft) { d.Text = "gr\xfc\xdfe" }, []Fault{{"Text", ruleUTF8}}},
		"html nul":           {func(d *Draft) { d.HTML = "a\x00b" }, []Fault{{"HTML", ruleNUL}}},
		"nothing to send":    {func(d *Draft) { d.Text, d.HTML, d.Attachments = "", "", nil }, []Fault{{"Text", ruleRequired}}},
		"key cr":             {func(d *Draft) { d.Key = "a\r\n" }, []Fault{{"Key", ruleCRLF}}},
		"key long":           {func(d *Draft) { d.Key = strings.Repeat("k", 256) }, []Fault{{"Key", ruleSize}}},
		"header lf":          {func(d *Draft) { d.Header["X-A"][1] = "x\nBcc: y" }, []Fault{{"Header", ruleCRLF}}},
		"header name lf":     {func(d *Draft) { d.Header["X\nBcc"] = nil }, []Fault{{"Header", ruleCRLF}}},
		"header name colon":  {func(d *Draft) { d.Header["X:Y"] = nil }, []Fault{{"Header", ruleName}}},
		"header name space":  {func(d *Draft) { d.Header["X Y"] = nil }, []Fault{{"Header", ruleName}}},
		"header name empty":  {func(d *Draft) { d.Header[""] = nil }, []Fault{{"Header", ruleName}}},
		"header name umlaut": {func(d *Draft) { d.Header["Xü"] = nil }, []Fault{{"Header", ruleName}}},
		"header name long":   {func(d *Draft) { d.Header[strings.Repeat("X", 71)] = nil }, []Fault{{"Header", ruleName}}},
		"header word long":   {func(d *Draft) { d.Header["X-A"][0] = strings.Repeat("x", 950) }, []Fault{{"Header", ruleLine}}},
		"no content":         {func(d *Draft) { d.Attachments[0].Content = nil }, []Fault{{"Attachments[0]", ruleRequired}}},
		"file name cr":       {func(d *Draft) { d.Attachments[0].Name = "a\rb" }, []Fault{{"Attachments[0]", ruleCRLF}}},
		"file name long":     {func(d *Draft) { d.Attachments[0].Name = strings.Repeat("n", 1025) }, []Fault{{"Attachments[0]", ruleName}}},
		"type lf":            {func(d *Draft) { d.Attachments[0].Type = "text/plain;\n x=y" }, []Fault{{"Attachments[0]", ruleCRLF}}},
		"type alone":         {func(d *Draft) { d.Attachments[0].Type = "pdf" }, []Fault{{"Attachments[0]", ruleType}}},
		"type multipart":     {func(d *Draft) { d.Attachments[0].Type = "multipart/mixed; boundary=x" }, []Fault{{"Attachments[0]", ruleType}}},
		"type parameters":    {func(d *Draft) { d.Attachments[0].Type = "text/plain; x" }, []Fault{{"Attachments[0]", ruleType}}},
		"content-id space":   {func(d *Draft) { d.Attachments[0].ContentID = "a b" }, []Fault{{"Attachments[0]", ruleContentID}}},
		"content-id crlf":    {func(d *Draft) { d.Attachments[0].ContentID = "a>\r\nBcc: b" }, []Fault{{"Attachments[0]", ruleContentID}}},
		"content-id twice": {func(d *Draft) { d.Attachments = append(d.Attachments, d.Attachments[0]) },
			[]Fault{{"Attachments[1]", ruleDuplicate}}},
		"too large":    {func(d *Draft) { d.Attachments[0].Content = liar{size: 101} }, []Fault{{"Message", ruleSize}}},
		"overflow":     {func(d *Draft) { d.Attachments[0].Content = liar{size: math.MaxInt64} }, []Fault{{"Message", ruleSize}}},
		"purpose":      {func(d *Draft) { d.Purpose = "care" }, []Fault{{"Purpose", ruleUnknown}}},
		"escalate":     {func(d *Draft) { d.Escalate = 3 }, []Fault{{"Escalate", ruleUnknown}}},
		"track":        {func(d *Draft) { d.Track = 4 }, []Fault{{"Track", ruleUnknown}}},
		"useful until": {func(d *Draft) { d.UsefulUntil = d.NotBefore.Add(-time.Second) }, []Fault{{"UsefulUntil", ruleTime}}},
		"access until": {func(d *Draft) { d.AccessUntil = d.NotBefore.Add(-time.Second) }, []Fault{{"AccessUntil", ruleTime}}},
		"label empty":  {func(d *Draft) { d.Labels["l"] = "" }, []Fault{{"Labels", ruleLabel}}},
		"label space":  {func(d *Draft) { d.Labels["a b"] = "x" }, []Fault{{"Labels", ruleLabel}}},
		"label long":   {func(d *Draft) { d.Labels["l"] = strings.Repeat("x", 65) }, []Fault{{"Labels", ruleLabel}}},
		"labels many": {func(d *Draft) {
			for i := range 11 {
				d.Labels[fmt.Sprint("n", i)] = "1"
			}
		}, []Fault{{"Labels", ruleLabel}}},
		"raw and all": {func(d *Draft) { d.Raw = Bytes(nil) }, []Fault{
			{"ReplyTo", ruleBoth}, {"Subject", ruleBoth}, {"Text", ruleBoth}, {"HTML", ruleBoth}, {"Attachments", ruleBoth},
			{"Header", ruleBoth},
		}},
		"raw too large": {func(d *Draft) { *d = Draft{To: d.To, Raw: liar{size: 101}} }, []Fault{{"Message", ruleSize}}},
		"raw, from name": {func(d *Draft) { *d = Draft{To: d.To, Raw: Bytes(nil), From: Contact{Name: "Anna"}} },
			[]Fault{{"From", ruleRequired}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := fullDraft()
			c.change(d)
			require.Equal(t, c.want, d.validate(limits{maxVisible: 2, maxSize: 100}))
		})
	}
}

func TestValidateOwned(t *testing.T) {
	for _, name := range []string{
		"From", "sender", "REPLY-TO", "To", "Cc", "bcc", "Subject", "Date", "Message-ID", "Mime-version", "Content-Type",
		"content-anything", "Return-Path", "Received", "DKIM-Signature", "ARC-Seal", "Resent-To", "Authentication-Results",
		"TLS-Required", "HP-Outer", "Delivered-To",
	} {
		d := anna()
		d.Header = map[string][]string{name: {"x"}}
		require.Equal(t, []Fault{{"Header", ruleOwned}}, d.validate(limits{}), name)
	}
	for _, name := range []string{"List-Unsubscribe", "List-Unsubscribe-Post", "In-Reply-To", "References", "X-Content-Type", "Auto-Submitted"} {
		d := anna()
		d.Header = map[string][]string{name: {"x"}}
		require.Empty(t, d.validate(limits{}), name)
	}
}

func TestValidateNamesAllAtOnce(t *testing.T) {
	d := &Draft{Subject: "a\nb", To: To("nobody", "a@example.org"), Labels: map[string]string{"": ""}, Purpose: "x"}
	faults := d.validate(limits{maxVisible: 1})
	require.Equal(t, []Fault{
		{"From", ruleRequired}, {"To", ruleVisible}, {"To[0]", ruleAddress}, {"Text", ruleRequired}, {"Subject", ruleCRLF},
		{"Purpose", ruleUnknown}, {"Labels", ruleLabel},
	}, faults)
	err := &DraftError{faults}
	require.Equal(t, "securemail: draft: From (required), To (visible), To[0] (address), Text (required), "+
		"Subject (crlf), Purpose (unknown), Labels (label)", err.Error())
}
