package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	tracedFor  = 8 * time.Second // the traced child works at most so long
	tracedMost = 400             // or until so many recipients were accepted
	longest    = 1 << 24         // octets of one write that strace shows
)

// powerCuts traces one child, and then cuts its power at so many instants.
func powerCuts(ctx context.Context, s settings) (r *result, err error) {
	dir, err := os.MkdirTemp("", "crash")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	home := filepath.Join(dir, "traced")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	w, err := startWorld(home)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	c := &runner{settings: s, w: w, dir: home, accepted: make(map[string]string), keys: make(map[string]string), draw: rand.New(rand.NewPCG(s.seed, 1))}
	trace := filepath.Join(dir, "trace")
	if err := c.trace(ctx, trace); err != nil {
		return nil, err
	}
	p := &power{runner: c, dir: dir, arrived: w.taken(), total: result{Rounds: s.rounds}}
	if err := p.cutAll(ctx, trace); err != nil {
		return nil, err
	}
	return &p.total, nil
}

// trace lets a child work under strace, and kills it.
func (c *runner) trace(ctx context.Context, file string) error {
	child, _, err := c.child(ctx, "work", false)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "strace", "-f", "--seccomp-bpf", "-y", "-xx", "-ttt", "-s", fmt.Sprint(longest), "-e", "trace="+traced,
		"-e", "signal=none", "-o", file, child.Path)
	cmd.Env, cmd.Stderr = child.Env, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("strace: %w", err)
	}
	stop := time.AfterFunc(tracedFor, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	c.readUntil(out, tracedMost)
	stop.Stop()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if err := cmd.Wait(); err == nil {
		return errEnded
	}
	return nil
}

// power is a campaign of power cuts under way.
type power struct {
	*runner
	dir     string
	arrived map[string][]time.Time // of the traced child
	total   result
	at      int // the call after which the power is cut
	disk    *disk
	told    strings.Builder // what the traced child has written to standard output so far
}

// cutAll follows the trace twice: to count its calls, and to cut at some of them.
func (p *power) cutAll(ctx context.Context, file string) error {
	n := 0
	if err := eachCall(file, func(call) error { n++; return nil }); err != nil {
		return err
	}
	cuts := make(map[int]bool)
	for len(cuts) < min(p.rounds, n) {
		cuts[p.draw.IntN(n)] = true
	}
	home := p.runner.dir
	p.disk = newDisk(home, func(s string) { p.told.WriteString(s) })
	p.disk.deaf = p.deaf
	i := 0
	return eachCall(file, func(c call) error {
		if err := p.disk.apply(c); err != nil {
			return err
		}
		i++
		if !cuts[i-1] {
			return ctx.Err()
		}
		if err := p.cut(ctx, i, time.UnixMicro(c.at)); err != nil {
			return fmt.Errorf("power cut after call %d of %d (seed %d): %w", i, n, p.seed, err)
		}
		return ctx.Err()
	})
}

func eachCall(file string, f func(call) error) error {
	r, err := os.Open(file)
	if err != nil {
		return err
	}
	defer r.Close()
	return parseTrace(r, f)
}

// cut rebuilds the folder, delivers from it, and counts.
func (p *power) cut(ctx context.Context, i int, at time.Time) (err error) {
	p.at = i
	dir := filepath.Join(p.dir, fmt.Sprint("cut", i))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := p.disk.rebuild(dir, p.draw); err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(p.runner.dir, caFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, caFile), ca, 0o600)
	}
	if err != nil {
		return err
	}
	c := &runner{settings: p.settings, w: p.w, dir: dir, accepted: make(map[string]string), keys: make(map[string]string), draw: p.draw}
	c.read(strings.NewReader(p.told.String()))
	before := (&world{times: p.arrived}).before(at)
	p.w.forget()
	l, err := c.finish(ctx)
	if err != nil {
		return err
	}
	p.add(c.count(l, before)) // what arrived only later in the traced child was not sent in this history
	return os.RemoveAll(dir)
}

func (p *power) add(r *result) {
	t := &p.total
	t.Accepted += r.Accepted
	t.Lost += r.Lost
	t.BelowFloor += r.BelowFloor
	t.Duplicates += r.Duplicates
	t.Unreported += r.Unreported
	t.Arrived += r.Arrived
	t.Uncertain += r.Uncertain
	t.Events += r.Events
	for _, f := range r.faults {
		t.faults = append(t.faults, fmt.Sprintf("power cut after call %d (seed %d): %s", p.at, p.seed, f))
	}
	t.Keys += r.Keys
	t.Reopened += r.Reopened
	p.restarts = append(p.restarts, time.Duration(r.RestartMax)*time.Millisecond)
	t.RestartMedian = p.restartAt(0.5)
	t.RestartMax = max(t.RestartMax, r.RestartMax)
}
