//go:build interop

package main

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVendorOnPostgreSQL(t *testing.T) {
	dsn := os.Getenv("POSTSEAL_PG_DSN")
	require.NotEmpty(t, dsn, "POSTSEAL_PG_DSN names the server to test on")
	var out bytes.Buffer
	require.NoError(t, run(context.Background(), &out, dsn), out.String())
}
