package keyring_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/queue"
)

// TestQueueAsOutbox wires a ring and the queue that it seals, as a host does: events reach the readers of the queue, which
// wraps keys of the ring while it takes them.
func TestQueueAsOutbox(t *testing.T) {
	f := open(t, ringPath(t), nil)
	db := sqldbtest.SQLite(t, filepath.Join(t.TempDir(), "mail.db"), sqldbtest.Safe)
	q, err := queue.New(t.Context(), db, f, &queue.Options{Owner: "test"})
	require.NoError(t, err)
	_, err = q.Next(t.Context(), "log", 1)
	require.NoError(t, err)
	require.NoError(t, f.RecordTo(t.Context(), q))
	ctx := securemail.WithActor(t.Context(), securemail.Actor{Tenant: "clinic", ID: "officer", Kind: "person"})
	read := func() (told []string) {
		es, err := q.Next(t.Context(), "log", 100)
		require.NoError(t, err)
		for _, e := range es {
			told = append(told, e.Detail["action"]+" "+e.Detail["stage"]+" "+e.By.Tenant)
			require.NoError(t, q.Ack(t.Context(), "log", e.ID))
		}
		return told
	}
	_, err = f.Destroy(ctx, keyring.SubjectScope("clinic", "4711"))
	require.NoError(t, err)
	require.Equal(t, []string{"destroy intent clinic", "destroy done clinic"}, read())
	_, err = f.Destroy(ctx, keyring.TenantScope("clinic"))
	require.NoError(t, err)
	require.NoError(t, f.RotateRoot(t.Context()))
	require.Equal(t, []string{"destroy intent ", "destroy done ", "rotate-root intent ", "rotate-root done "}, read(),
		"they are sealed under no scope that is gone")
}

// TestScopeNames: they are those that the parts use.
func TestScopeNames(t *testing.T) {
	for _, tenant := range []string{"", "clinic", "a/b", "50%", "a%2Fb"} {
		require.Equal(t, escrow.TenantScope(tenant), keyring.TenantScope(tenant))
		require.Equal(t, escrow.SubjectScope(tenant, "4711"), keyring.SubjectScope(tenant, "4711"))
	}
	require.Equal(t, "submission/s1", keyring.SubmissionScope("s1"))
	require.NotEqual(t, keyring.CohortScope("a", "b/c"), keyring.CohortScope("a/b", "c"))
}
