package backup_test

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/backup"
)

// benchParcels is how many parcels of 4 KB the benchmarks back up.
const benchParcels = 20_000

func filledWith(b *testing.B, parcels int) *store {
	s := liteStore(b)
	for i := range parcels / 10 {
		_, err := s.putAs(fmt.Sprintf("s%025d", i), 10, 4<<10)
		require.NoError(b, err)
	}
	return s
}

func BenchmarkWrite(b *testing.B) {
	s := filledWith(b, benchParcels)
	for b.Loop() {
		_, err := backup.Write(b.Context(), io.Discard, s.set())
		require.NoError(b, err)
	}
	b.ReportMetric(float64(benchParcels*b.N)/b.Elapsed().Seconds(), "parcels/s")
}

func BenchmarkRestore(b *testing.B) {
	s := filledWith(b, benchParcels)
	sealed, _ := s.backup()
	for b.Loop() {
		_, err := backup.Restore(b.Context(), bytes.NewReader(sealed), s.opener(), &backup.Target{
			DB: lite(b, filepath.Join(b.TempDir(), "x.db")), Blobs: nowhere{}, Ring: discard,
		})
		require.NoError(b, err)
	}
	b.ReportMetric(float64(benchParcels*b.N)/b.Elapsed().Seconds(), "parcels/s")
}
