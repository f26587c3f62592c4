package keyring_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
)

// fileOutbox appends events to a file, synced.
type fileOutbox struct{ path string }

func (o fileOutbox) Add(_ context.Context, _ *sql.Tx, es ...securemail.Event) error {
	f, err := os.OpenFile(o.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for _, e := range es {
		_, errW := fmt.Fprintln(f, e.Detail["act"], e.Detail["stage"], e.Detail["action"], e.Detail["scope"])
		err = errors.Join(err, errW)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// acts reads the events: which stages each act has, and which scopes' destruction was intended.
func (o fileOutbox) acts(t *testing.T) (stages map[string]map[string]bool, intended map[string]bool) {
	t.Helper()
	b, err := os.ReadFile(o.path)
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	stages, intended = map[string]map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(b)) {
		p := strings.Fields(line)
		if len(p) < 3 || !strings.HasSuffix(line, "\n") {
			continue // cut by the kill
		}
		if stages[p[0]] == nil {
			stages[p[0]] = map[string]bool{}
		}
		stages[p[0]][p[1]] = true
		if p[2] == "destroy" && len(p) == 4 {
			intended[p[3]] = true
		}
	}
	return stages, intended
}

// rootVar names the variable that holds the root key of the ring in TestKillUnderARoot.
const rootVar = "KEYRING_TEST_ROOT"

// childOptions are those of the child and of the parent that checks.
func childOptions(path string, window time.Duration) *keyring.Options {
	o := &keyring.Options{Window: window, Outbox: fileOutbox{path + ".events"}}
	if os.Getenv(rootVar) != "" {
		o.Root = keyring.EnvRoot(rootVar)
	}
	return o
}

// child wraps, destroys and rotates for ever, and says what it was told is durable. The parent kills it.
func child(path string) {
	ctx := context.Background()
	window := time.Duration(0)
	if os.Getenv("KEYRING_WINDOW") != "" {
		window = 5 * time.Millisecond
	}
	f, err := keyring.OpenFile(path, childOptions(path, window))
	if err == nil {
		err = f.Upkeep(ctx)
	}
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
	kill(t)
}

// TestKillUnderARoot is not parallel, as it sets the environment.
func TestKillUnderARoot(t *testing.T) {
	t.Setenv(rootVar, base64.StdEncoding.EncodeToString(seal.NewKey()))
	kill(t)
}

func kill(t *testing.T) {
	path := ringPath(t)
	wrapped, destroyed, destroying := map[string]string{}, map[string]bool{}, map[string]bool{}
	deadline := time.Now().Add(killing)
	rounds := 0
	for ; rounds < 60 && (time.Now().Before(deadline) || len(destroyed) == 0); rounds++ {
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
	events := fileOutbox{path + ".events"}
	f, err := keyring.OpenFile(path, childOptions(path, time.Hour))
	require.NoError(t, err)
	defer f.Close()
	_, intended := events.acts(t)
	for scope := range destroying {
		w, err := hex.DecodeString(wrapped[scope])
		if err != nil {
			continue
		}
		if _, err := f.Unwrap(t.Context(), w); errors.Is(err, keyring.ErrDestroyed) {
			hash, err := f.ScopeHash(scope)
			require.NoError(t, err)
			require.True(t, intended[hash], "destroyed without a record of the intent")
		}
	}
	require.NoError(t, f.Upkeep(t.Context()))
	stages, _ := events.acts(t)
	for act, s := range stages {
		require.True(t, s["intent"], act)
		require.True(t, s["done"] || s["failed"] || s["cut-short"], "%s: how it ended is not recorded", act)
	}
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
