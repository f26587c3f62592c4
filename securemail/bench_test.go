package securemail_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/securemailtest"
)

// BenchmarkSend is the cost of accepting a small draft, without storage.
func BenchmarkSend(b *testing.B) {
	k := securemailtest.New(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		_, err := k.Send(context.Background(), draft("anna@x.example"))
		require.NoError(b, err)
	}
}
