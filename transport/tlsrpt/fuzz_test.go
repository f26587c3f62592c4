package tlsrpt_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/tlsrpt"
)

// FuzzRecord: what is parsed can be published again and means the same.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{
		"v=TLSRPTv1; rua=mailto:a@example.com", "v=TLSRPTv1;rua=https://r.example/x,mailto:b@example.org;",
		"v=TLSRPTv1; x=y; rua=mailto:%41b@example.com?subject=x , https://h:8443/", "v=TLSRPTv2; rua=", "v=TLSRPTv1;;",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := tlsrpt.ParseRecord([]string{s})
		if err != nil {
			return
		}
		require.NotEmpty(t, r.RUA)
		require.NoError(t, r.Check())
		again, err := tlsrpt.ParseRecord([]string{"other", r.String()})
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

// FuzzReport: what is parsed can be written again and means the same.
func FuzzReport(f *testing.F) {
	f.Add([]byte(report))
	f.Add(zip([]byte(report)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := tlsrpt.ParseReport(b)
		if err != nil {
			require.IsType(t, &tlsrpt.ReportError{}, err)
			return
		}
		gz, err := r.Gzip()
		if err != nil {
			return // a year over 9999 can be read but not written
		}
		again, err := tlsrpt.ParseReport(gz)
		require.NoError(t, err)
		require.True(t, r.Range.Start.Equal(again.Range.Start))
		require.Len(t, again.Policies, len(r.Policies))
	})
}

// FuzzMail: any mail gives a report or a typed error.
func FuzzMail(f *testing.F) {
	f.Add([]byte(mailOf(part("text/plain", "7bit", "x"), part("application/tlsrpt+json", "8bit", report))))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := tlsrpt.ParseMail(bytes.NewReader(b))
		if err != nil {
			require.IsType(t, &tlsrpt.ReportError{}, err)
			return
		}
		require.NotNil(t, r.Report)
	})
}
