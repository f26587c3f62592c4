package mtasts_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/mtasts"
)

func warm(t testing.TB) (*mtasts.Cache, []string) {
	w := newWorld()
	c, err := mtasts.New(w, &mtasts.Options{Resolver: w, Fetcher: w})
	require.NoError(t, err)
	var domains []string
	for i := range 1000 {
		domains = append(domains, fmt.Sprintf("d%d.example.com", i))
		_, err := c.Lookup(t.Context(), domains[i])
		require.NoError(t, err)
	}
	return c, domains
}

func BenchmarkLookupWarm(b *testing.B) {
	c, domains := warm(b)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := c.Lookup(ctx, domains[i%len(domains)]); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	p := mtasts.Policy{MX: []string{"a.example.com", "b.example.com", "*.mail.example.com"}}
	b.ReportAllocs()
	for b.Loop() {
		_ = p.Match("mx1.mail.example.com.")
	}
}

// TestLookupWarmAllocates: it is on the path of each delivery.
func TestLookupWarmAllocates(t *testing.T) {
	c, domains := warm(t)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = c.Lookup(t.Context(), domains[7]) }))
}
