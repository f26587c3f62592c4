package queue_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail/queue"
)

// What a cache holds, a key among it, is gone ten minutes after it came, however seldom anybody asks.
func TestNothingIsCachedForLongerThanTenMinutes(t *testing.T) {
	for _, first := range []time.Duration{time.Second, 4 * time.Minute, 7 * time.Minute, 9*time.Minute + 59*time.Second} {
		synctest.Test(t, func(t *testing.T) {
			put, get := queue.Cached(1000)
			put("k")
			time.Sleep(first)
			require.True(t, get("k") || first > 5*time.Minute)
			for at := first; at < 20*time.Minute; at += 30 * time.Second {
				require.False(t, get("k") && at > 10*time.Minute, "%v after it came, first asked for after %v", at, first)
				time.Sleep(30 * time.Second)
			}
		})
	}
}
