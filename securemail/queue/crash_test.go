package queue_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/sqldb/sqldbtest"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/queue"
)

const childEnv = "POSTSEAL_QUEUE_CHILD"

// child is the process that the crash test kills: it puts, takes and marks until it dies, and prints what was answered.
func child() {
	path := os.Getenv(childEnv)
	if path == "" {
		return
	}
	t := &quiet{}
	db, err := sql.Open("sqlite", "file:"+path+sqldbtest.Safe)
	t.must(err)
	r := &rig{t: t, db: db, ring: fixedRing(), now: new(atomic.Int64)}
	r.now.Store(time.Now().UnixMicro())
	ctx := context.Background()
	blobs, err := queue.Dir(path + ".blobs")
	t.must(err)
	r.Queue, err = queue.New(ctx, db, r.ring, &queue.Options{
		Owner: "child", Blobs: blobs, Now: r.clock, Logger: slog.New(slog.DiscardHandler),
	})
	t.must(err)
	var out sync.Mutex
	say := func(what string, id any) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(what, id)
	}
	for i := range 4 {
		go func() {
			for {
				b := r.batch(2)
				if i == 0 {
					b.Parcels[0].Message = message(t, "large", big())
					b.Parcels[0].Size = b.Parcels[0].Message.Size()
				}
				_, err := r.Put(ctx, b)
				t.must(err)
				say("put", b.Submission)
			}
		}()
	}
	for {
		ls, err := r.Take(ctx, r.clock(), 3, time.Second)
		t.must(err)
		for i, l := range ls {
			if i == 2 {
				continue // an abandoned lease
			}
			t.must(r.Mark(ctx, r.mark(l, securemail.StateAttempting)))
			say("intended", l.Parcel.ID)
			if i == 0 {
				t.must(r.Mark(ctx, r.mark(l, securemail.StateDelivered)))
				say("delivered", l.Parcel.ID)
			}
		}
	}
}

// quiet is a testing.TB outside a test.
type quiet struct{ testing.TB }

func (q *quiet) Helper()                   {}
func (q *quiet) FailNow()                  { os.Exit(3) }
func (q *quiet) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f, a...) }
func (q *quiet) must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

func TestKill(t *testing.T) {
	for round := range 2 {
		path := filepath.Join(t.TempDir(), "q.db")
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		said := make(map[string]map[string]bool)
		n := 0
		for lines := bufio.NewScanner(out); lines.Scan(); n++ {
			what, id, ok := strings.Cut(lines.Text(), " ")
			if !ok {
				break // torn by the kill
			}
			if said[what] == nil {
				said[what] = make(map[string]bool)
			}
			said[what][id] = true
			if n == 150+97*round {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		_ = cmd.Wait()
		require.Empty(t, stderr.String())
		require.NotEmpty(t, said["delivered"])
		checkAfterKill(t, path, said)
	}
}

func checkAfterKill(t *testing.T, path string, said map[string]map[string]bool) {
	blobs, err := queue.Dir(path + ".blobs")
	require.NoError(t, err)
	r := newRigOn(t, func(t testing.TB) func() *sql.DB {
		return func() *sql.DB { return sqldbtest.SQLite(t, path, sqldbtest.Safe) }
	}, fixedRing(), &queue.Options{Owner: "child", Blobs: blobs})
	r.now.Store(time.Now().UnixMicro())
	for id := range said["put"] {
		require.Len(t, r.find(securemail.Query{Submission: id}), 2, "accepted mail is lost")
	}
	for id := range said["delivered"] {
		require.Equal(t, securemail.StateDelivered, r.status(securemail.ParcelID(id)).State)
	}
	// Its own leases come back at once, each intent as such, and every body can be read.
	taken := make(map[string]bool)
	for {
		ls := r.take(r.Queue, 500)
		if len(ls) == 0 {
			break
		}
		for _, l := range ls {
			id := string(l.Parcel.ID)
			taken[id] = true
			require.False(t, said["delivered"][id])
			if said["intended"][id] {
				require.Equal(t, securemail.StateAttempting, l.Last.State)
			}
			require.NotEmpty(t, content(t, l.Parcel.Message))
			require.NoError(t, r.Mark(t.Context(), r.mark(l, securemail.StateUncertain)))
		}
	}
	for _, st := range r.find(securemail.Query{}) {
		require.True(t, st.State.Final() || taken[string(st.ID)], "a parcel that nobody gets")
	}
	accepted, delivered := 0, 0
	for _, e := range r.events("x") {
		switch e.Kind {
		case "accepted":
			accepted++
		case "delivered":
			delivered++
		}
	}
	require.Equal(t, r.count("SELECT count(*) FROM queue_parcel"), accepted)
	require.Equal(t, r.count("SELECT count(*) FROM queue_parcel WHERE state='delivered'"), delivered)
}
