package queue_test

import (
	"math"
	"os"

	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

// What was accepted, and what was leased by a worker that is gone, while the clock was a year ahead, comes when it is right
// again.
func TestClockWasAhead(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const year = 365 * 24 * time.Hour
		r.pass(year)
		leased := r.put(1).Parcels[0].ID
		require.Len(t, r.take(r.open(r.again(), "gone"), 1), 1)
		accepted := r.put(1).Parcels[0].ID
		later := r.batch(1)
		later.Parcels[0].NotBefore = r.clock().Add(-year + 24*time.Hour)
		_, err := r.Put(t.Context(), later)
		require.NoError(t, err)
		r.pass(-year)
		var ids []securemail.ParcelID
		early := r.take(r.Queue, 9)
		require.Len(t, early, 1, "a lease that lasts too long is nobody's")
		r.sweep()
		for _, l := range append(early, r.take(r.Queue, 9)...) {
			ids = append(ids, l.Parcel.ID)
			require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)))
		}
		require.ElementsMatch(t, []securemail.ParcelID{leased, accepted}, ids)
		r.pass(25 * time.Hour)
		require.Len(t, r.take(r.Queue, 9), 1, "NotBefore holds")
	})
}

// A clock that goes back an hour takes no lease from a worker, and none for ever.
func TestClockGoesBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.put(2)
		other := r.open(r.again(), "other")
		l := r.take(other, 1)[0]
		r.pass(-time.Hour)
		require.Empty(t, r.take(r.Queue, 9))
		require.NoError(t, other.Mark(t.Context(), r.mark(l, securemail.StateDelivered)))
		r.pass(time.Hour + time.Minute)
		require.Len(t, r.take(r.Queue, 9), 1)
	})
}

// A disk that is not mounted holds no mail back for ever: nothing is damaged, and all goes once it is there again.
func TestBlobFolderAway(t *testing.T) {
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			r, dir := withBlobs(t, open)
			_, err := r.Put(t.Context(), large(t, r.batch(1)))
			require.NoError(t, err)
			away := dir + ".away"
			for _, mount := range []func(){func() {}, func() { require.NoError(t, os.Mkdir(dir, 0o700)) }} {
				require.NoError(t, os.Rename(dir, away))
				mount()
				q := r.open(r.again(), "")
				_, err = q.Take(t.Context(), r.clock(), 9, 0)
				require.ErrorContains(t, err, "mounted")
				_, err = r.Put(t.Context(), large(t, r.batch(1)))
				require.ErrorContains(t, err, "mounted", "nothing may be stored under the mount point")
				require.NoError(t, os.RemoveAll(dir))
				require.NoError(t, os.Rename(away, dir))
				r.pass(time.Minute)
			}
			ls := r.take(r.open(r.again(), ""), 9)
			require.Len(t, ls, 1)
			require.Contains(t, content(t, ls[0].Parcel.Message), "no play")
		})
	}
}

// A new database at the wrong path must not sweep the blobs of the right one.
func TestForeignBlobsStay(t *testing.T) {
	r, dir := withBlobs(t, lite)
	_, err := r.Put(t.Context(), large(t, r.batch(1)))
	require.NoError(t, err)
	r.exec("UPDATE queue_meta SET num=num-86400000000 WHERE name='index'") // it is a day older than the wrong one
	for _, f := range files(t, dir) {
		at := r.clock().Add(-12 * time.Hour)
		require.NoError(t, os.Chtimes(f, at, at))
	}
	r.pass(30 * 24 * time.Hour)
	wrong := newRig(t, lite, &r.opts)
	wrong.now.Store(r.now.Load())
	wrong.sweep()
	require.Len(t, files(t, dir), 1)
	r.sweep()
	require.Len(t, files(t, dir), 1)
	require.Len(t, r.take(r.Queue, 1), 1)
}

// Every number that a caller may give is kept or refused, and nothing else suffers.
func TestExtremes(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		for _, prio := range []int8{math.MinInt8, math.MaxInt8, 0} {
			for _, when := range []time.Time{
				time.Unix(-1<<40, 0), time.Unix(-1, 0), time.Unix(0, 0), time.UnixMicro(1), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
			} {
				b := r.batch(1)
				b.Parcels[0].Priority, b.Parcels[0].NotBefore = prio, when
				_, err := r.Put(t.Context(), b)
				_ = err // a year that has no text is refused
			}
		}
		n := r.count("SELECT count(*) FROM queue_parcel")
		require.GreaterOrEqual(t, n, 12)
		ls := r.take(r.Queue, 100)
		require.Len(t, ls, r.count("SELECT count(*) FROM queue_parcel WHERE not_before<1000000000"))
		require.Equal(t, int8(math.MaxInt8), ls[0].Parcel.Priority)
		require.Equal(t, int8(math.MinInt8), ls[len(ls)-1].Parcel.Priority)
		huge := r.batch(1)
		huge.Parcels[0].Factors = []securemail.Factor{{Kind: "code", Value: securemail.NewSecret(big())}}
		huge.Parcels[0].Labels = map[string]string{}
		for range 3000 {
			huge.Parcels[0].Labels[r.newID("label")] = "x"
		}
		_, err := r.Put(t.Context(), huge)
		require.NoError(t, err)
		require.Equal(t, huge.Parcels[0].Factors, r.take(r.Queue, 1)[0].Parcel.Factors)
	})
}

// Two processes on one SQLite file whose clocks are an hour apart: none delivers what the other one is delivering, whoever
// renews, and what one leaves behind when it dies comes to the other one.
func TestTwoProcessesAnHourApart(t *testing.T) {
	for _, apart := range []time.Duration{-time.Hour, time.Hour} {
		r := newRig(t, lite, nil)
		r.put(4)
		mine := r.take(r.Queue, 2)
		require.NoError(t, r.Mark(t.Context(), r.mark(mine[0], securemail.StateAttempting)))
		second := r.open(r.again(), "second")
		r.pass(apart)
		for _, l := range r.take(second, 9) { // with a clock that is ahead it takes over what it believes lost
			if l.Parcel.ID == mine[0].Parcel.ID {
				require.Equal(t, securemail.StateAttempting, l.Last.State, "so that it is reported as uncertain")
			}
			require.NoError(t, second.Mark(t.Context(), r.mark(l, securemail.StateAttempting)))
		}
		r.pass(-apart)
		for _, l := range mine {
			if err := r.Mark(t.Context(), r.mark(l, securemail.StateDelivered)); apart > 0 {
				require.ErrorIs(t, err, securemail.ErrLease, "the fence holds")
			} else {
				require.NoError(t, err)
			}
		}
		third := r.open(r.again(), "third")
		r.pass(time.Hour + queue.DefaultLease + time.Second)
		want := 4 // the second one is gone
		if apart < 0 {
			want = 2
		}
		require.Len(t, r.take(third, 9), want, apart)
	}
}
