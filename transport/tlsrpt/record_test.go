package tlsrpt_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/tlsrpt"
)

func TestParseRecord(t *testing.T) {
	const version = "v=TLSRPTv1; "
	for name, c := range map[string]struct {
		txts []string
		rua  []tlsrpt.Destination // nil: an error
		rule string               // "": ErrNoRecord
	}{
		"mail":              {[]string{"v=TLSRPTv1; rua=mailto:r@example.com"}, []tlsrpt.Destination{"mailto:r@example.com"}, ""},
		"https":             {[]string{"v=TLSRPTv1;rua=https://r.example.com/v1;"}, []tlsrpt.Destination{"https://r.example.com/v1"}, ""},
		"both with spaces":  {[]string{version + "rua=mailto:r@example.com , https://x.example"}, []tlsrpt.Destination{"mailto:r@example.com", "https://x.example"}, ""},
		"repeat":            {[]string{version + "rua=mailto:r@example.com,mailto:r@example.com"}, []tlsrpt.Destination{"mailto:r@example.com"}, ""},
		"one can't be used": {[]string{version + "rua=ftp://x.example,http://x.example,mailto:r@example.com"}, []tlsrpt.Destination{"mailto:r@example.com"}, ""},
		"extension":         {[]string{version + "x1=y:z; rua=mailto:r@example.com"}, []tlsrpt.Destination{"mailto:r@example.com"}, ""},
		"others beside":     {[]string{"v=spf1 -all", version + "rua=mailto:r@example.com", "v=TLSRPTv10; rua=x"}, []tlsrpt.Destination{"mailto:r@example.com"}, ""},
		"address and port":  {[]string{version + "rua=https://192.0.2.1:8443/x,https://[2001:db8::1]/"}, []tlsrpt.Destination{"https://192.0.2.1:8443/x", "https://[2001:db8::1]/"}, ""},

		"none":                {nil, nil, ""},
		"two":                 {[]string{version + "rua=mailto:r@example.com", version + "rua=mailto:r@example.com"}, nil, ""},
		"two, one broken":     {[]string{version + "rua=mailto:r@example.com", version + "x"}, nil, ""},
		"version in capitals": {[]string{"V=TLSRPTv1; rua=mailto:r@example.com"}, nil, ""},
		"version of another":  {[]string{"v=tlsrptv1; rua=mailto:r@example.com"}, nil, ""},
		"no delimiter":        {[]string{"v=TLSRPTv1 rua=mailto:r@example.com"}, nil, ""},

		"RUA in capitals":    {[]string{version + "RUA=mailto:r@example.com"}, nil, "rua"},
		"no fields":          {[]string{version}, nil, "rua"},
		"empty rua":          {[]string{version + "rua= "}, nil, "rua"},
		"rua twice":          {[]string{version + "rua=mailto:r@example.com; rua=mailto:s@example.com"}, nil, "duplicate"},
		"no value":           {[]string{version + "hello; rua=mailto:r@example.com"}, nil, "field"},
		"empty field":        {[]string{version + ";rua=mailto:r@example.com"}, nil, "field"},
		"bad name":           {[]string{version + "-x=1; rua=mailto:r@example.com"}, nil, "field"},
		"long name":          {[]string{version + strings.Repeat("x", 33) + "=1; rua=mailto:r@example.com"}, nil, "field"},
		"bad value":          {[]string{version + "x=a b; rua=mailto:r@example.com"}, nil, "field"},
		"empty value":        {[]string{version + "x=; rua=mailto:r@example.com"}, nil, "field"},
		"no destination":     {[]string{version + "rua=ftp://x.example"}, nil, "uri"},
		"injection":          {[]string{version + "rua=mailto:r%0d%0aBcc:x@example.com"}, nil, "uri"},
		"display name":       {[]string{version + "rua=mailto:R%20%3Cr@example.com%3E"}, nil, "uri"},
		"not ASCII":          {[]string{version + "rua=mailto:%C3%A4@example.com"}, nil, "uri"},
		"bad escape":         {[]string{version + "rua=mailto:%zz@example.com"}, nil, "uri"},
		"mail to an address": {[]string{version + "rua=mailto:r@[192.0.2.1]"}, nil, "uri"},
		"password":           {[]string{version + "rua=https://u:p@x.example"}, nil, "uri"},
		"long mailbox":       {[]string{version + "rua=mailto:" + strings.Repeat("r", 250) + "@example.com"}, nil, "uri"},
		"size":               {[]string{version + "rua=" + strings.Repeat("x", 5000)}, nil, "size"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := tlsrpt.ParseRecord(c.txts)
			if c.rua != nil {
				require.NoError(t, err)
				require.Equal(t, c.rua, r.RUA)
				require.NoError(t, r.Check())
				return
			}
			if c.rule == "" {
				require.ErrorIs(t, err, tlsrpt.ErrNoRecord)
				return
			}
			require.Equal(t, &tlsrpt.RecordError{Rule: c.rule}, err)
			require.Equal(t, "tlsrpt: record: "+c.rule, err.Error())
		})
	}
}

func TestDestination(t *testing.T) {
	d := tlsrpt.Destination("mailto:tls%2Brpt@Example.com?subject=x")
	require.Equal(t, "tls+rpt@Example.com", d.Mailbox())
	require.Equal(t, "example.com", d.Host())
	d = "https://r.example.com:8443/x?y=z"
	require.Empty(t, d.Mailbox())
	require.Equal(t, "r.example.com", d.Host())
	require.Empty(t, tlsrpt.Destination("https://a b").Host())
	require.Empty(t, tlsrpt.Destination(":").Mailbox())
}

func TestRecordForPublishing(t *testing.T) {
	r := tlsrpt.Record{RUA: []tlsrpt.Destination{"mailto:r@example.com", "https://r.example.com/"}}
	require.Equal(t, "v=TLSRPTv1; rua=mailto:r@example.com,https://r.example.com/", r.String())
	require.NoError(t, r.Check())
	require.Equal(t, "_smtp._tls.example.com", tlsrpt.RecordName("example.com."))
	require.Error(t, tlsrpt.Record{RUA: []tlsrpt.Destination{"mailto:r"}}.Check())
	require.Error(t, tlsrpt.Record{RUA: []tlsrpt.Destination{"mailto:r@example.com", "http://x.example"}}.Check())
}

func TestLookupRecord(t *testing.T) {
	z := zone{
		"_smtp._tls.example.com": {"v=TLSRPTv1; rua=mailto:r@example.com"},
		"_smtp._tls.down.test":   nil,
	}
	r, err := tlsrpt.LookupRecord(t.Context(), z, "example.com")
	require.NoError(t, err)
	require.Len(t, r.RUA, 1)
	_, err = tlsrpt.LookupRecord(t.Context(), z, "none.test")
	require.ErrorIs(t, err, tlsrpt.ErrNoRecord)
	_, err = tlsrpt.LookupRecord(t.Context(), z, "down.test")
	require.Error(t, err)
	require.NotErrorIs(t, err, tlsrpt.ErrNoRecord, "not known now is not none")
}

// zone is a resolver that knows these names; a nil list is a time-out.
type zone map[string][]string

func (z zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	txts, ok := z[name]
	switch {
	case !ok:
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	case txts == nil:
		return nil, &net.DNSError{Err: "timed out", Name: name, IsTimeout: true}
	}
	return txts, ctx.Err()
}
