package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The story checks itself; its text must hold what a reader looks for.
func TestChannel(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out), out.String())
	for _, want := range []string{
		"sts.example: delivered, proof mta-sts", "selfsigned.example: held",
		"dane.example, STARTTLS stripped: deferred", "ALERT posture.downgrade", "ALERT posture.recovered",
		"with the key december", "starttls-not-supported",
	} {
		require.Contains(t, out.String(), want)
	}
}
