package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// TestModel: whatever is emitted, repeated, published, closed or lost of the index, each event is in the log once, has a
// proof, and every checkpoint ever signed is part of the log.
func TestModel(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		dir := filepath.Join(root, fmt.Sprint(runs))
		o := &audit.Options{Interval: time.Hour}
		l, err := audit.Open(context.Background(), dir, o)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		next := 0
		checkpoints := [][]byte{l.Checkpoint()}
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"emit", "emit", "repeat", "publish", "reopen", "no index"}).Draw(t, "step") {
			case "emit":
				var es []securemail.Event
				for range rapid.SampledFrom([]int{1, 7, 256, 300}).Draw(t, "n") {
					es = append(es, event(fmt.Sprint(next)))
					next++
				}
				require.NoError(t, l.EmitAll(context.Background(), es...))
			case "repeat":
				for i := 0; i < next; i += 1 + next/5 {
					require.NoError(t, l.Emit(context.Background(), event(fmt.Sprint(i))))
				}
			case "publish":
				require.NoError(t, l.Publish(context.Background()))
			case "no index":
				require.NoError(t, l.Close())
				_ = os.Remove(filepath.Join(dir, "index"))
				l, err = audit.Open(context.Background(), dir, o)
				require.NoError(t, err)
			case "reopen":
				require.NoError(t, l.Close())
				l, err = audit.Open(context.Background(), dir, o)
				require.NoError(t, err)
			}
			checkpoints = append(checkpoints, l.Checkpoint())
		}
		require.NoError(t, l.Publish(context.Background()))
		require.Contains(t, string(l.Checkpoint()), fmt.Sprintf("\n%d\n", next), "each once")
		require.NoError(t, l.Check(context.Background()))
		for i := 0; i < next; i += 1 + next/5 {
			p, err := l.Prove(context.Background(), fmt.Sprint(i))
			require.NoError(t, err)
			e, err := audit.Verify(p, l.Verifier())
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), e.Event)
		}
		for _, cp := range checkpoints {
			require.NoError(t, l.Extends(context.Background(), cp))
		}
	})
}

func TestEmitAll(t *testing.T) {
	l := open(t, logDir(t), nil)
	require.NoError(t, l.EmitAll(t.Context()))
	require.Error(t, l.EmitAll(t.Context(), event("a"), securemail.Event{}))
	_, err := l.Prove(t.Context(), "a")
	require.ErrorIs(t, err, audit.ErrUnknown)
	require.NoError(t, l.EmitAll(t.Context(), event("a"), event("b"), event("a")))
	require.Contains(t, string(l.Checkpoint()), "\n2\n")
}
