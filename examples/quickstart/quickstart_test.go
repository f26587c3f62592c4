package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuickstart(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(context.Background(), &out, false), out.String())
	require.Contains(t, out.String(), "shows the patient's name")
}

func TestQuickstartJSON(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(context.Background(), &out, true), out.String())
	var n int
	for s := bufio.NewScanner(&out); s.Scan(); n++ {
		var r row
		require.NoError(t, json.Unmarshal(s.Bytes(), &r))
		require.True(t, r.OK, r.Recipient)
	}
	require.Len(t, people(), n)
}
