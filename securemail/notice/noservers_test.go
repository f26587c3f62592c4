//go:build !interop

package notice_test

import (
	"database/sql"
	"testing"
)

func servers() map[string]func(testing.TB) *sql.DB { return nil }
