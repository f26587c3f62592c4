package dkim_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/dkim"
)

// FuzzRecord: what is parsed can be published again and means the same.
func FuzzRecord(f *testing.F) {
	for _, k := range pair(f) {
		f.Add(k.Record().String())
	}
	f.Add("v=DKIM1; s=email:*; t=y:s; p=")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := dkim.ParseRecord([]string{s})
		if err != nil {
			return
		}
		again, err := dkim.ParseRecord([]string{r.String()})
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

// FuzzSign: what can be signed verifies.
func FuzzSign(f *testing.F) {
	keys := pair(f)[1:]
	s, z := signer(f, keys, nil), zone{}.publish(keys...)
	f.Add(mail)
	f.Add("From:\r\n\t\r\nX\r\n\r\n \r\n \t")
	f.Fuzz(func(t *testing.T, msg string) {
		head, err := s.Sign(t.Context(), "example.org", strings.NewReader(msg))
		if err != nil {
			return
		}
		vs := verify(t, z, string(head)+msg)
		require.NotEmpty(t, vs)
		require.Equal(t, dkim.Pass, vs[0].Outcome)
	})
}
