package keyring_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/securemail/keyring"
)

// TestModel: over random use by two processes, a wrapped key opens if and only if none of its scopes was destroyed.
func TestModel(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	runs := 0
	type wrapped struct {
		blob   []byte
		scopes []string
	}
	rapid.Check(t, func(t *rapid.T) {
		runs++
		path := filepath.Join(root, fmt.Sprint(runs))
		ctx := context.Background()
		o := &keyring.Options{Window: rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(t, "window")}
		var rings [2]*keyring.File
		reopen := func(i int) {
			if rings[i] != nil {
				require.NoError(t, rings[i].Close())
			}
			var err error
			rings[i], err = keyring.OpenFile(path, o)
			require.NoError(t, err)
		}
		reopen(0)
		reopen(1)
		defer rings[0].Close()
		defer rings[1].Close()
		destroyed := map[string]bool{}
		var all []wrapped
		scope := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			i := rapid.IntRange(0, 1).Draw(t, "ring")
			switch rapid.SampledFrom([]string{"wrap", "wrap", "wrap", "destroy", "epoch", "root", "reopen"}).Draw(t, "step") {
			case "wrap":
				scopes := rapid.SliceOfN(scope, 1, 3).Draw(t, "scopes")
				blob, err := rings[i].Wrap(ctx, []byte("k"), scopes...)
				if anyOf(destroyed, scopes) {
					require.ErrorIs(t, err, keyring.ErrDestroyed)
					break
				}
				require.NoError(t, err)
				all = append(all, wrapped{blob, scopes})
			case "destroy":
				s := scope.Draw(t, "scope")
				_, err := rings[i].Destroy(ctx, s)
				require.NoError(t, err)
				destroyed[s] = true
			case "epoch":
				require.NoError(t, rings[i].RotateEpoch(ctx))
			case "root":
				require.NoError(t, rings[i].RotateRoot(ctx))
			case "reopen":
				reopen(i)
			}
			for _, w := range all {
				_, err := rings[1-i].Unwrap(ctx, w.blob)
				if anyOf(destroyed, w.scopes) {
					require.ErrorIs(t, err, keyring.ErrDestroyed)
				} else {
					require.NoError(t, err)
				}
			}
		}
	})
}

func anyOf(set map[string]bool, names []string) bool {
	for _, n := range names {
		if set[n] {
			return true
		}
	}
	return false
}
