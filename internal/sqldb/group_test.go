package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb"
)

var errSeven = errors.New("sevens are not wanted")

// Many producers share calls; an item that fails or panics costs nobody else anything.
func TestGroup(t *testing.T) {
	each(t, func(t *testing.T, db *sql.DB, d *sqldb.DB) {
		var mu sync.Mutex
		most := 0
		g := sqldb.NewGroup(d, func(ctx context.Context, tx *sql.Tx, vs []int) error {
			mu.Lock()
			most = max(most, len(vs))
			mu.Unlock()
			for _, v := range vs {
				if v%97 == 96 {
					panic(v)
				}
				if err := insert(d, v)(ctx, tx); err != nil {
					return err
				}
				if v%10 == 7 {
					return errSeven
				}
			}
			return nil
		})
		shared := func() bool { mu.Lock(); defer mu.Unlock(); return most > 1 }
		want := 0
		for round, deadline := 0, time.Now().Add(time.Minute); round == 0 || !shared() && time.Now().Before(deadline); round++ {
			want += commitAll(t, g, 200*round, 200)
		}
		require.True(t, shared())
		require.Equal(t, want, count(t, db))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, g.Commit(ctx, -1), context.Canceled)
	})
}

// commitAll commits n items from one on at once, and returns how many had to hold.
func commitAll(t *testing.T, g *sqldb.Group[int], from, n int) int {
	t.Helper()
	var wg sync.WaitGroup
	faults, hold := make([]error, n), 0
	for i := range n {
		v := from + i
		switch {
		case v%97 == 96:
			wg.Go(func() {
				defer func() {
					if p := recover(); p != v {
						faults[i] = fmt.Errorf("%d panicked with %v", v, p)
					}
				}()
				_ = g.Commit(t.Context(), v)
			})
		case v%10 == 7:
			wg.Go(func() {
				if err := g.Commit(t.Context(), v); !errors.Is(err, errSeven) {
					faults[i] = fmt.Errorf("%d: %w", v, err)
				}
			})
		default:
			hold++
			wg.Go(func() { faults[i] = g.Commit(t.Context(), v) })
		}
	}
	wg.Wait()
	require.NoError(t, errors.Join(faults...))
	return hold
}
