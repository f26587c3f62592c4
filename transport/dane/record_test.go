package dane_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/dane"
)

func ExampleRecord_Line() {
	r, err := dane.ParseRecord("3 1 1 0a1b2c3d4e5f60718293a4b5c6d7e8f9 0a1b2c3d4e5f60718293a4b5c6d7e8f9")
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(r.Line("MX.example.", 25))
	// Output: _25._tcp.mx.example. IN TLSA 3 1 1 0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9
}

func TestParseRecord(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"3 1 1 AB", "3 1 1 ab"},
		{"  2\t0  0 0102 03\n04 ", "2 0 0 01020304"},
		{"0 0 0 00", "0 0 0 00"},
		{"255 255 255 ff", "255 255 255 ff"},
	} {
		r, err := dane.ParseRecord(c.in)
		require.NoError(t, err, c.in)
		require.Equal(t, c.out, r.String())
	}
	for _, in := range []string{"", "3 1 1", "3 1 1 a", "3 1 1 zz", "256 1 1 ab", "-1 1 1 ab", "3 x 1 ab", "3 1 1 (ab)", "+3 1 1 ab", "3 1 1 " + strings.Repeat("00", 65536), strings.Repeat(" ", 1<<20) + "3 1 1 00"} {
		_, err := dane.ParseRecord(in)
		require.Error(t, err, in[:min(len(in), 20)])
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, s := range []string{"3 1 1 ab", "2 0 0 30 82", "", "a b c d", "3 1 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := dane.ParseRecord(s)
		if err != nil {
			require.Equal(t, dane.Record{}, r)
			return
		}
		again, err := dane.ParseRecord(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func TestRecordFor(t *testing.T) {
	leaf := spec{subject: "leaf"}.make()
	for usage := range uint8(5) {
		for selector := range uint8(3) {
			for match := range uint8(4) {
				r, err := dane.RecordFor(leaf.Certificate, usage, selector, match)
				if usage < 2 || usage > 3 || selector > 1 || match > 2 {
					require.Error(t, err)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, record(leaf.Certificate, usage, selector, match), r)
				again, err := dane.ParseRecord(r.String())
				require.NoError(t, err)
				require.Equal(t, r, again)
			}
		}
	}
}
