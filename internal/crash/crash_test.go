package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary be the child, as the command is.
func TestMain(m *testing.M) {
	if os.Getenv(envChild) != "" {
		os.Exit(childMain())
	}
	os.Exit(m.Run())
}

func TestKillNine(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"-rounds", "16", "-json"}, &out, &errOut)
	require.Zero(t, code, errOut.String()+out.String())
	var r result
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	require.Equal(t, 16, r.Rounds)
	require.Positive(t, r.Accepted)
	require.Positive(t, r.Arrived)
	require.Positive(t, r.Events)
	require.Positive(t, r.RestartMax)
}

func needStrace(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("short")
	}
	if err := exec.Command("strace", "-o", os.DevNull, "true").Run(); err != nil {
		t.Skip("strace can't be run here; the lane crash needs it")
	}
}

func TestPowerCuts(t *testing.T) {
	needStrace(t)
	r, err := powerCuts(t.Context(), settings{rounds: 6, db: "sqlite", seed: 3})
	require.NoError(t, err)
	require.True(t, r.holds(), "%+v", r)
	require.Positive(t, r.Accepted)
	require.Positive(t, r.Arrived)
}

// TestPowerCutsOfADiskThatLies: where the syncs of a file are not heard, the count must say so.
func TestPowerCutsOfADiskThatLies(t *testing.T) {
	needStrace(t)
	for _, deaf := range []string{"/mail.db-wal", "/mail.db.key.scopes", ".tmp"} {
		r, err := powerCuts(t.Context(), settings{rounds: 12, db: "sqlite", seed: 3, deaf: []string{deaf}})
		require.True(t, err != nil || !r.holds(), "%s: %+v", deaf, r)
	}
}

func TestParseTrace(t *testing.T) {
	const hex = `"\x2f\x61"`
	in := strings.Join([]string{
		`7  1.000001 openat(AT_FDCWD<\x2f>, ` + hex + `, O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3<\x2f\x61>`,
		`8  1.000002 fsync(3<\x2f\x61> <unfinished ...>`,
		`7  1.000003 pwrite64(3<\x2f\x61>, "\x29\x20\x3d", 3, 512) = 3`,
		`8  1.000004 <... fsync resumed>) = 0`,
		`7  1.000005 unlinkat(AT_FDCWD<\x2f>, ` + hex + `, 0) = -1 ENOENT (No such file or directory)`,
		`7  1.000006 write(3<\x2f\x61>, ` + hex + `, 2) = ?`,
		`7  1.000007 +++ killed by SIGKILL +++`,
		`7  1.000008 write(1<pi`,
	}, "\n")
	var got []call
	require.NoError(t, parseTrace(strings.NewReader(in), func(c call) error { got = append(got, c); return nil }))
	require.Len(t, got, 4)
	require.Equal(t, "/a", pathOf(got[0]))
	require.Equal(t, call{name: "begin fsync", args: []string{`3<\x2f\x61>`}, thread: "8", at: 1000002}, got[1])
	require.Equal(t, []string{`3<\x2f\x61>`, ") =", "3", "512"}, got[2].args)
	require.Equal(t, call{"fsync", []string{`3<\x2f\x61>`}, 0, "8", 1000004}, got[3])
	for _, bad := range []string{`7 1.0 write(3, "\x2", 1) = 1`, `7 1.0 write(3, "\x20"..., 9) = 9`, `7 1.0 write(3, "\x20`, `7 1.0 close(3) - 0`} {
		_ = parseTrace(strings.NewReader(bad+"\n"), func(call) error { t.Error(bad); return nil })
	}
}

// TestDisk: what was synced is there after every cut, and what was not is there after some and gone after others.
func TestDisk(t *testing.T) {
	root, name := "/d", `3<x>`
	d := newDisk(root, func(string) {})
	do := func(name string, ret int64, args ...string) {
		t.Helper()
		require.NoError(t, d.apply(call{name: name, args: args, ret: ret}))
	}
	do("openat", 3, "AT_FDCWD", root+"/new", "O_RDWR|O_CREAT", "0600")
	do("write", 4, name, "kept", "4")
	do("fsync", 0, name)
	do("rename", 0, root+"/new", root+"/file")
	do("openat", 4, "AT_FDCWD", root, "O_RDONLY")
	do("fsync", 0, "4<x>")
	do("write", 4, name, "lost", "4")
	do("openat", 5, "AT_FDCWD", root+"/other", "O_RDWR|O_CREAT", "0600")
	seen := make(map[string]int)
	for i := range uint64(64) {
		dir := t.TempDir()
		require.NoError(t, d.rebuild(dir, rand.New(rand.NewPCG(i, 0))))
		b, err := os.ReadFile(filepath.Join(dir, "file"))
		require.NoError(t, err)
		_, err = os.Stat(filepath.Join(dir, "new"))
		require.ErrorIs(t, err, os.ErrNotExist)
		_, err = os.Stat(filepath.Join(dir, "other"))
		seen[fmt.Sprint(string(b), err == nil)]++
	}
	require.Len(t, seen, 4, "%v", seen)
	for s := range seen {
		require.True(t, strings.HasPrefix(s, "kept"))
	}
	require.Error(t, d.apply(call{name: "writev", args: []string{name}}))
}

// TestCountFindsFaults: each number is about something.
func TestCountFindsFaults(t *testing.T) {
	w, err := startWorld(t.TempDir())
	require.NoError(t, err)
	defer w.close()
	for name, c := range map[string]struct {
		state            string
		kinds            []string
		lost, unreported int
		unproved         []string
	}{
		"gone":                     {"", nil, 1, 1, nil},
		"waits":                    {"accepted", []string{"accepted"}, 1, 0, nil},
		"delivered, and not there": {"delivered", []string{"accepted", "attempting", "delivered"}, 1, 0, nil},
		"held":                     {"held", []string{"accepted", "held"}, 0, 0, nil},
		"ended without an event":   {"bounced", []string{"accepted"}, 0, 1, nil},
		"not in the log":           {"held", []string{"accepted", "held"}, 0, 1, []string{"held of p"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := (&runner{w: w, accepted: map[string]string{"a@good.test": "p"}}).count(&left{
				state: map[string]string{"p": c.state}, kinds: map[string][]string{"p": c.kinds}, unproved: c.unproved,
			}, nil)
			require.Equal(t, c.lost, r.Lost)
			require.Equal(t, c.unreported, r.Unreported)
			require.Equal(t, c.lost+c.unreported == 0, r.holds())
		})
	}
}

func TestCalledWrongly(t *testing.T) {
	t.Setenv("POSTSEAL_PG_DSN", "")
	for _, args := range []string{"-rounds 0", "-db oracle", "-db postgres", "rest", "-nosuch"} {
		var out, errOut bytes.Buffer
		require.Equal(t, 2, run(t.Context(), strings.Fields(args), &out, &errOut), args)
		require.Empty(t, out.String())
		require.NotEmpty(t, errOut.String())
	}
}

func TestPrint(t *testing.T) {
	var out bytes.Buffer
	(&result{Rounds: 3, Lost: 1}).print(&out, false)
	require.Contains(t, out.String(), "rounds          3\n")
	require.Contains(t, out.String(), "lost            1\n")
}
