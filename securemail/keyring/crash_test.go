package keyring_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/keyring"
)

// child wraps, destroys and rotates for ever, and says what it was told is durable. The parent kills it.
func child(path string) {
	ctx := context.Background()
	window := time.Duration(0)
	if os.Getenv("KEYRING_WINDOW") != "" {
		window = 5 * time.Millisecond
	}
	f, err := keyring.OpenFile(path, &keyring.Options{Window: window})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("open")
	for i := 0; ; i++ {
		scope := fmt.Sprintf("scope/%d/%d", os.Getpid(), i)
		w, err := f.Wrap(ctx, []byte(scope), "tenant", scope)
		if err == nil {
			fmt.Println("wrapped", scope, hex.EncodeToString(w))
		}
		if err == nil && i%3 == 0 {
			fmt.Println("destroying", scope)
			if _, err = f.Destroy(ctx, scope); err == nil {
				fmt.Println("destroyed", scope)
			}
		}
		if err == nil && i%7 == 0 {
			err = f.RotateRoot(ctx)
		}
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
}

// killing is how long TestKill goes on.
const killing = 1500 * time.Millisecond

// TestKill kills a process that uses the ring, again and again, and checks after each kill that nothing it was told is
// durable was lost, that nothing destroyed came back, and that the ring opens.
func TestKill(t *testing.T) {
	t.Parallel()
	path := ringPath(t)
	wrapped, destroyed, destroying := map[string]string{}, map[string]bool{}, map[string]bool{}
	deadline := time.Now().Add(killing)
	rounds := 0
	for ; rounds < 60 && time.Now().Before(deadline); rounds++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "KEYRING_CHILD="+path)
		if rounds%2 == 1 {
			cmd.Env = append(cmd.Env, "KEYRING_WINDOW=1")
		}
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		if rounds%4 == 3 {
			kill.Reset(time.Duration(10+rand.IntN(60)) * time.Millisecond) // also while it opens
		}
		for sc, first := bufio.NewScanner(out), true; sc.Scan(); first = false {
			if first && rounds%4 != 3 {
				kill.Reset(time.Duration(10+rand.IntN(60)) * time.Millisecond)
			}
			switch p := strings.Fields(sc.Text()); {
			case p[0] == "error":
				t.Fatal(sc.Text())
			case p[0] == "wrapped" && len(p) == 3:
				wrapped[p[1]] = p[2]
			case p[0] == "destroying" && len(p) == 2:
				destroying[p[1]] = true
			case p[0] == "destroyed" && len(p) == 2:
				destroyed[p[1]] = true
			}
		}
		_ = cmd.Wait()
		kill.Stop()
		check(t, path, wrapped, destroyed, destroying)
	}
	t.Logf("%d kills, %d wrapped, %d destroyed", rounds, len(wrapped), len(destroyed))
	require.NotEmpty(t, destroyed)
}

func check(t *testing.T, path string, wrapped map[string]string, destroyed, destroying map[string]bool) {
	t.Helper()
	f, err := keyring.OpenFile(path, &keyring.Options{Window: time.Hour})
	require.NoError(t, err)
	defer f.Close()
	for scope, w := range wrapped {
		b, err := hex.DecodeString(w)
		if err != nil {
			continue // the line was cut by the kill
		}
		key, err := f.Unwrap(t.Context(), b)
		switch {
		case destroyed[scope]:
			require.ErrorIs(t, err, keyring.ErrDestroyed)
		case err != nil:
			require.ErrorIs(t, err, keyring.ErrDestroyed)
			require.True(t, destroying[scope], "a key was lost")
		default:
			require.Equal(t, scope, string(key))
		}
	}
}
