package audit_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/audit"
)

// child emits from several goroutines for ever, says which events it was told are durable, and prints checkpoints as it
// sees them. The parent kills it.
func child(dir string) {
	ctx := context.Background()
	l, err := audit.Open(ctx, dir, &audit.Options{Interval: 3 * time.Millisecond})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	for p := range 4 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d/%d/%d", os.Getpid(), p, i)
				if err := l.Emit(ctx, event(id)); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				fmt.Println("durable", id, "end")
			}
		}()
	}
	for {
		fmt.Printf("checkpoint %q end\n", l.Checkpoint())
		time.Sleep(time.Millisecond)
	}
}

// killing is how long TestKill goes on.
const killing = 1500 * time.Millisecond

// TestKill kills a process that writes the log, again and again, and checks after each kill that every event it was told
// is durable is in the log, and that every checkpoint it ever signed is still part of it.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := logDir(t)
	var durable, checkpoints []string
	deadline := time.Now().Add(killing)
	rounds := 0
	for ; rounds < 60 && time.Now().Before(deadline); rounds++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "AUDIT_CHILD="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		if rounds%4 == 3 {
			kill.Reset(time.Duration(10+rand.IntN(60)) * time.Millisecond) // also while it opens
		}
		fresh := len(durable)
		for sc, first := bufio.NewScanner(out), true; sc.Scan(); first = false {
			if first && rounds%4 != 3 {
				kill.Reset(time.Duration(10+rand.IntN(60)) * time.Millisecond)
			}
			switch line, whole := strings.CutSuffix(sc.Text(), " end"); {
			case strings.HasPrefix(line, "error"):
				t.Fatal(line)
			case !whole:
			case strings.HasPrefix(line, "durable "):
				durable = append(durable, strings.TrimPrefix(line, "durable "))
			default:
				var cp string
				_, err := fmt.Sscanf(line, "checkpoint %q", &cp)
				require.NoError(t, err)
				checkpoints = append(checkpoints, cp)
			}
		}
		_ = cmd.Wait()
		kill.Stop()
		checkAfterKill(t, dir, durable[fresh:], checkpoints)
	}
	t.Logf("%d kills, %d events, %d checkpoints", rounds, len(durable), len(checkpoints))
	require.NotEmpty(t, durable)
	checkAfterKill(t, dir, durable, checkpoints)
}

func checkAfterKill(t *testing.T, dir string, durable, checkpoints []string) {
	t.Helper()
	l, err := audit.Open(t.Context(), dir, nil)
	require.NoError(t, err)
	for i, id := range durable {
		if i%16 != 0 && len(durable)-i > 20 {
			continue
		}
		p, err := l.Prove(t.Context(), id)
		require.NoError(t, err, id)
		_, err = audit.Verify(p, l.Verifier())
		require.NoError(t, err)
	}
	for _, cp := range checkpoints[max(0, len(checkpoints)-50):] {
		require.NoError(t, l.Extends(t.Context(), []byte(cp)))
	}
	require.NoError(t, l.Check(t.Context()))
	require.NoError(t, l.Close())
}
