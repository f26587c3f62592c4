package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/queue"
)

func TestNotesOutliveTheProcess(t *testing.T) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			again, ring := open(t), newRing()
			q, err := queue.New(t.Context(), again(), ring, &queue.Options{Owner: "a"})
			require.NoError(t, err)
			value, err := q.Note(t.Context(), "policy")
			require.NoError(t, err)
			require.Empty(t, value)
			require.NoError(t, q.SetNote(t.Context(), "policy", "one/1"))
			require.NoError(t, q.SetNote(t.Context(), "policy", "two/1"))
			q, err = queue.New(t.Context(), again(), ring, &queue.Options{Owner: "b"})
			require.NoError(t, err)
			value, err = q.Note(t.Context(), "policy")
			require.NoError(t, err)
			require.Equal(t, "two/1", value)
			value, err = q.Note(t.Context(), "epoch")
			require.NoError(t, err)
			require.Empty(t, value, "the queue's own values are none of theirs")
		})
	}
}
