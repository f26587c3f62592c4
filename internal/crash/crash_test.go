package main

import (
	"bytes"
	"encoding/json"
	"os"
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

// TestCountFindsFaults: each number is about something.
func TestCountFindsFaults(t *testing.T) {
	w, err := startWorld(t.TempDir())
	require.NoError(t, err)
	defer w.close()
	for name, c := range map[string]struct {
		state              string
		kinds              []string
		lost, unreported   int
		unproved, events   int
		uncertain, arrived int
	}{
		"gone":                     {"", nil, 1, 1, 0, 0, 0, 0},
		"waits":                    {"accepted", []string{"accepted"}, 1, 0, 0, 1, 0, 0},
		"delivered, and not there": {"delivered", []string{"accepted", "attempting", "delivered"}, 1, 0, 0, 3, 0, 0},
		"held":                     {"held", []string{"accepted", "held"}, 0, 0, 0, 2, 0, 0},
		"ended without an event":   {"bounced", []string{"accepted"}, 0, 1, 0, 1, 0, 0},
		"not in the log":           {"held", []string{"accepted", "held"}, 0, 1, 1, 2, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := (&runner{w: w, accepted: map[string]string{"a@good.test": "p"}}).count(&left{
				state: map[string]string{"p": c.state}, kinds: map[string][]string{"p": c.kinds}, unproved: c.unproved, events: c.events,
			})
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
