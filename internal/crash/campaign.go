package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	firstKill, lastKill = 20 * time.Millisecond, 350 * time.Millisecond
	lateKill            = 120 * time.Millisecond // after the first delivery, at most
	startBy             = 30 * time.Second       // a child that delivers nothing by then is killed all the same
	checkBy             = 20                     // every so many children the whole log is read
)

// runner is one campaign under way.
type runner struct {
	settings
	w    *world
	dir  string
	dsn  string
	draw *rand.Rand
	// accepted maps recipients to parcels; seen is the newest checkpoint that a child told.
	accepted map[string]string
	// keys maps wrapped keys to "kept" or "destroyed".
	keys map[string]string
	seen string
	// restarts are how long each child took from its start to its first delivery.
	restarts []time.Duration
}

func kills(ctx context.Context, s settings) (r *result, err error) {
	dir, err := os.MkdirTemp("", "crash")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	w, err := startWorld(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	c := &runner{settings: s, w: w, dir: dir, accepted: make(map[string]string), keys: make(map[string]string), draw: rand.New(rand.NewPCG(s.seed, 0))}
	drop, err := c.schema(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	for i := range s.rounds {
		if err := c.round(ctx, i); err != nil {
			return nil, fmt.Errorf("round %d: %w", i+1, err)
		}
	}
	l, err := c.finish(ctx)
	if err != nil {
		return nil, err
	}
	return c.count(l, nil), nil
}

// schema makes a place of its own on PostgreSQL.
func (c *runner) schema(ctx context.Context) (drop func() error, err error) {
	if c.db != "postgres" {
		return func() error { return nil }, nil
	}
	u, err := url.Parse(c.settings.dsn)
	if err != nil {
		return nil, errors.New("-dsn must be a postgres:// URL")
	}
	db, err := sql.Open("pgx", c.settings.dsn)
	if err != nil {
		return nil, err
	}
	name := "crash_" + strings.ToLower(filepath.Base(c.dir))
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA "+name); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	c.dsn = u.String()
	return func() error {
		_, err := db.Exec("DROP SCHEMA " + name + " CASCADE")
		return errors.Join(err, db.Close())
	}, nil
}

// child makes the process; its standard output is read line by line.
func (c *runner) child(ctx context.Context, mode string, check bool) (*exec.Cmd, io.Reader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), envChild+"="+mode, envDir+"="+c.dir, envDSN+"="+c.dsn, envDNS+"="+c.w.dns.Addr(),
		envHosts+"="+c.w.addrs(), envSeen+"="+c.seen)
	if check {
		cmd.Env = append(cmd.Env, envCheck+"=1")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	return cmd, out, err
}

// round starts a child and kills it.
func (c *runner) round(ctx context.Context, i int) error {
	cmd, out, err := c.child(ctx, "work", i%checkBy == checkBy-1)
	if err != nil {
		return err
	}
	c.w.first.Store(0)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	killed := make(chan struct{})
	after := time.Duration(c.draw.Int64N(int64(lateKill)))
	if i%2 == 0 {
		after = firstKill + time.Duration(c.draw.Int64N(int64(lastKill-firstKill)))
	}
	go func() {
		defer close(killed)
		if i%2 == 1 {
			c.awaitDelivery(start)
		}
		time.Sleep(after)
		_ = cmd.Process.Kill()
	}()
	c.read(out)
	err = cmd.Wait()
	<-killed
	c.delivered(start)
	if err == nil || !strings.Contains(err.Error(), "killed") {
		return fmt.Errorf("the child ended by itself: %w", errors.Join(err, errEnded))
	}
	return nil
}

// delivered notes how long a child took from its start to its first delivery, if it came to one.
func (c *runner) delivered(start time.Time) {
	if first := c.w.first.Load(); first > 0 {
		c.restarts = append(c.restarts, time.Unix(0, first).Sub(start))
	}
}

var errEnded = errors.New("before it was killed")

func (c *runner) awaitDelivery(start time.Time) {
	for c.w.first.Load() == 0 && time.Since(start) < startBy {
		time.Sleep(time.Millisecond)
	}
}

// read takes the lines of a child that is killed; one that is not whole was not read, and does not count.
func (c *runner) read(out io.Reader) { c.readUntil(out, math.MaxInt) }

// readUntil is read until most recipients were accepted.
func (c *runner) readUntil(out io.Reader, most int) {
	for s := bufio.NewReader(out); len(c.accepted) < most; {
		line, err := s.ReadString('\n')
		if err != nil {
			return
		}
		switch f := strings.Fields(line); {
		case len(f) == 3 && f[0] == "accepted":
			c.accepted[f[1]] = f[2]
		case len(f) == 2 && f[0] == "checkpoint":
			c.seen = f[1]
		case len(f) == 2 && (f[0] == "kept" || f[0] == "destroyed"):
			c.keys[f[1]] = f[0]
		}
	}
}

// left is what the last child reports.
type left struct {
	// state is each parcel's last; kinds its events, in their order; parcel is each recipient's.
	state  map[string]string
	kinds  map[string][]string
	parcel map[string]string
	// events were asked of the log, and unproved not found there.
	events   int
	unproved []string
	// closed keys were kept and do not open, reopened ones were destroyed and do.
	closed, reopened int
}

func (c *runner) finish(ctx context.Context) (*left, error) {
	cmd, out, err := c.child(ctx, "finish", false)
	if err == nil {
		err = c.tellKeys()
	}
	if err != nil {
		return nil, err
	}
	c.w.first.Store(0)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l := &left{state: make(map[string]string), kinds: make(map[string][]string), parcel: make(map[string]string)}
	for s := bufio.NewScanner(out); s.Scan(); {
		f := strings.Fields(s.Text())
		switch {
		case len(f) == 4 && f[0] == "state":
			l.state[f[2]], l.parcel[f[3]] = f[1], f[2]
		case len(f) == 3 && f[0] == "key":
			l.key(f[1], f[2])
		case len(f) == 4 && f[0] == "event":
			l.kinds[f[2]] = append(l.kinds[f[2]], f[1])
			l.count(f[1]+" of "+f[2], f[3] == "true")
		case len(f) == 3 && f[0] == "event": // of no parcel
			l.count(f[1], f[2] == "true")
		}
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("the last child: %w", err)
	}
	c.delivered(start)
	return l, nil
}

func (l *left) count(what string, proved bool) {
	l.events++
	if !proved {
		l.unproved = append(l.unproved, what)
	}
}
