package tlsrpt_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/tlsrpt"
)

const report = `{
 "organization-name": "Company", "contact-info": "https://company.example/tls", "report-id": "id-1", "extra": {"x": [1]},
 "date-range": {"start-datetime": "2026-11-24T00:00:00Z", "end-datetime": "2026-11-24T23:59:59Z"},
 "policies": [{
  "policy": {"policy-type": "sts", "policy-string": ["version: STSv1", "mode: testing"], "policy-domain": "example.com", "mx-host": ["*.mail.example.com"]},
  "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
  "failure-details": [
   {"result-type": "certificate-expired", "sending-mta-ip": "2001:db8::1", "receiving-mx-hostname": "mx1.mail.example.com", "failed-session-count": 100},
   {"result-type": "brand-new", "sending-mta-ip": "", "receiving-ip": "203.0.113.58", "receiving-mx-helo": "mx2", "failed-session-count": 203,
    "additional-information": "https://company.example/why", "failure-reason-code": "E1"}]
 }, {"policy": {"policy-type": "no-policy-found", "policy-domain": "example.com"}, "summary": {"total-successful-session-count": 1}}]}`

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}

func TestParseReport(t *testing.T) {
	want := &tlsrpt.Report{
		Organization: "Company", Contact: "https://company.example/tls", ID: "id-1",
		Range: tlsrpt.DateRange{Start: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), End: time.Date(2026, 11, 24, 23, 59, 59, 0, time.UTC)},
		Policies: []tlsrpt.PolicyResult{{
			Policy: tlsrpt.Policy{
				Type: tlsrpt.STS, Strings: []string{"version: STSv1", "mode: testing"}, Domain: "example.com", MXHosts: []string{"*.mail.example.com"},
			},
			Summary: tlsrpt.Summary{Success: 5326, Failure: 303},
			Details: []tlsrpt.FailureDetail{
				{Type: tlsrpt.CertificateExpired, SendingIP: "2001:db8::1", ReceivingMX: "mx1.mail.example.com", Sessions: 100},
				{Type: "brand-new", ReceivingIP: "203.0.113.58", ReceivingHELO: "mx2", Sessions: 203, Info: "https://company.example/why", Reason: "E1"},
			},
		}, {
			Policy: tlsrpt.Policy{Type: tlsrpt.NoPolicy, Domain: "example.com"}, Summary: tlsrpt.Summary{Success: 1},
		}},
	}
	for name, b := range map[string][]byte{
		"json": []byte(report), "gzip": zip([]byte(report)), "byte order mark": []byte("\xef\xbb\xbf" + report),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tlsrpt.ParseReport(b)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
	again, err := want.Gzip()
	require.NoError(t, err)
	got, err := tlsrpt.ParseReport(again)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// TestOddReports are what reporters do that the RFC does not say.
func TestOddReports(t *testing.T) {
	odd := strings.NewReplacer(
		"2026-11-24T00:00:00Z", "2026-11-24T00:00:00", "2026-11-24T23:59:59Z", "2026-11-25T00:59:59+01:00",
		`["*.mail.example.com"]`, `"*.mail.example.com"`, `["version: STSv1", "mode: testing"]`, "null",
	).Replace(report)
	r, err := tlsrpt.ParseReport([]byte(odd))
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), r.Range.Start)
	require.Equal(t, time.Date(2026, 11, 24, 23, 59, 59, 0, time.UTC), r.Range.End)
	require.Equal(t, tlsrpt.Strings{"*.mail.example.com"}, r.Policies[0].Policy.MXHosts)
	require.Empty(t, r.Policies[0].Policy.Strings)
}

func TestParseReportRefuses(t *testing.T) {
	change := func(old, with string) []byte {
		require.Contains(t, report, old)
		return []byte(strings.Replace(report, old, with, 1))
	}
	for name, c := range map[string]struct {
		b    []byte
		rule string
	}{
		"empty":            {nil, "json"},
		"half":             {[]byte(report[:200]), "json"},
		"two":              {[]byte(report + report), "json"},
		"list":             {[]byte("[]"), "json"},
		"policies object":  {change(`"policies": [`, `"policies": {"x": [`), "json"},
		"count is text":    {change("5326", `"5326"`), "json"},
		"negative":         {change("5326", "-1"), "json"},
		"negative failure": {change("303", "-1"), "json"},
		"mx host":          {change(`["*.mail.example.com"]`, `7`), "json"},
		"range":            {change(`"date-range": {`, `"date-range": 1, "x": {`), "json"},
		"no date":          {[]byte("{}"), "date"},
		"null date":        {change(`"date-range": {`, `"date-range": null, "x": {`), "date"},
		"bad date":         {change("2026-11-24T00:00:00Z", "yesterday"), "date"},
		"bad end":          {change("2026-11-24T23:59:59Z", ""), "date"},
		"end before start": {change("2026-11-24T23:59:59Z", "2026-11-23T23:59:59Z"), "date"},
		"broken gzip":      {[]byte("\x1f\x8b no"), "gzip"},
		"short gzip":       {zip([]byte(report))[:100], "gzip"},
		"bomb":             {zip(bytes.Repeat([]byte(" "), 64<<20)), "size"},
		"big":              {bytes.Repeat([]byte(" "), 9<<20), "size"},
		"deep":             {[]byte(strings.Repeat(`{"x":[`, 1000)), "depth"},
		"many objects":     {[]byte(`{"policies":[` + strings.Repeat(`{},`, 150000) + `{}]}`), "count"},
		"many nulls":       {[]byte(`{"policies":[` + strings.Repeat(`null,`, 250000) + `null]}`), "count"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := tlsrpt.ParseReport(c.b)
			require.Nil(t, r)
			require.Equal(t, &tlsrpt.ReportError{Rule: c.rule}, err)
			require.Equal(t, "tlsrpt: report: "+c.rule, err.Error())
		})
	}
}

// brackets in strings are text.
func TestBracketsInStrings(t *testing.T) {
	_, err := tlsrpt.ParseReport([]byte(strings.Replace(report, "Company", strings.Repeat(`[{\"`, 100), 1)))
	require.NoError(t, err)
}

func mailOf(parts ...string) string {
	var b strings.Builder
	b.WriteString("From: r@sender.example\r\nTLS-Report-Domain: Example.com\r\nTLS-Report-Submitter: sender.example\r\n" +
		"Content-Type: multipart/report; report-type=\"tlsrpt\"; boundary=b\r\n\r\n")
	for _, p := range parts {
		fmt.Fprintf(&b, "--b\r\n%s\r\n", p)
	}
	return b.String() + "--b--\r\n"
}

func part(kind, encoding, body string) string {
	return "Content-Type: " + kind + "\r\nContent-Transfer-Encoding: " + encoding + "\r\n\r\n" + body
}

func TestParseMail(t *testing.T) {
	text := part("text/plain", "7bit", "hello")
	b64 := base64.StdEncoding.EncodeToString(zip([]byte(report)))
	gz := part("application/tlsrpt+gzip", "base64", b64[:80]+"\r\n"+b64[80:])
	quoted := strings.ReplaceAll(strings.ReplaceAll(report, "=", "=3D"), "\n", "=0A=\r\n")
	inner := "Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n" + gz + "\r\n--c--"
	for name, msg := range map[string]string{
		"gzip":             mailOf(text, gz),
		"json":             mailOf(text, part("application/tlsrpt+json", "8bit", report)),
		"quoted-printable": mailOf(text, part("application/tlsrpt+json; name=x", "Quoted-Printable", quoted)),
		"nested":           mailOf(text, inner),
		"alone":            "TLS-Report-Domain: example.com\r\nTLS-Report-Submitter: sender.example\r\n" + gz,
		"a strange part":   mailOf(part("???", "7bit", "x"), gz),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := tlsrpt.ParseMail(strings.NewReader(msg))
			require.NoError(t, err)
			require.Equal(t, "example.com", r.Domain)
			require.Equal(t, "sender.example", r.Submitter)
			require.Equal(t, "id-1", r.Report.ID)
		})
	}
}

func TestParseMailRefuses(t *testing.T) {
	nest := "Content-Type: text/plain\r\n\r\nx"
	for i := range 5 {
		nest = fmt.Sprintf("Content-Type: multipart/mixed; boundary=n%d\r\n\r\n--n%d\r\n%s\r\n--n%d--\r\n", i, i, nest, i)
	}
	many := make([]string, 30)
	for i := range many {
		many[i] = part("text/plain", "7bit", "x")
	}
	for name, c := range map[string]struct{ msg, rule string }{
		"no mail":       {"hello", "mail"},
		"no type":       {"From: x\r\n\r\nhello", "none"},
		"no report":     {mailOf(part("text/plain", "7bit", "x")), "none"},
		"no parts":      {mailOf(), "none"},
		"broken base64": {mailOf(part("application/tlsrpt+gzip", "base64", "!!!!")), "mail"},
		"broken report": {mailOf(part("application/tlsrpt+json", "8bit", "{")), "json"},
		"unfinished":    {strings.TrimSuffix(mailOf(part("text/plain", "7bit", "x")), "--b--\r\n"), "mail"},
		"deep":          {nest, "depth"},
		"many parts":    {mailOf(many...), "count"},
		"big":           {mailOf(part("text/plain", "7bit", strings.Repeat("x", 17<<20))), "size"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tlsrpt.ParseMail(strings.NewReader(c.msg))
			require.Equal(t, &tlsrpt.ReportError{Rule: c.rule}, err)
		})
	}
	boom := errors.New("boom")
	_, err := tlsrpt.ParseMail(iotest.ErrReader(boom))
	require.ErrorIs(t, err, boom)
}
