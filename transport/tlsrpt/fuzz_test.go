package tlsrpt_test

import (
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
