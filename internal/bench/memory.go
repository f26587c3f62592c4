package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/postseal/postseal/securemail"
)

// A full queue: so many parcels of one draft of that size.
const (
	memoryArg  = "memory"
	fullSize   = 1 << 20
	fullNumber = 10000
)

// usage is what the process that filled a queue says of itself, in octets.
type usage struct {
	// Held is the heap after a collection, Peak the largest resident set, Disk all files of the queue.
	Held, Peak, Disk int64
}

// fullQueue fills a queue in a process of its own, so that nothing measured before counts.
func fullQueue(ctx context.Context, s settings, report func(Result)) error {
	n := min(fullNumber, s.messages)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, memoryArg, strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	var u usage
	if err := json.Unmarshal(out, &u); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	const mb = 1 << 20
	for _, f := range []struct {
		name  string
		value int64
	}{{"heap held", u.Held}, {"peak resident set", u.Peak}, {"disk", u.Disk}} {
		report(Result{
			Area: "durable", Name: fmt.Sprintf("%s, %d parcels of 1 MB", f.name, n), Value: float64(f.value) / mb, Unit: "MB",
			Peer: "a copy each", PeerValue: float64(n) * fullSize / mb, Floor: 1,
		}.compare())
	}
	return nil
}

// serveMemory is the process: it queues n copies of one draft and writes its usage to out.
func serveMemory(ctx context.Context, number string, out io.Writer) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := sqliteStore(dir).open(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	m, closer, err := mailer(ctx, p)
	if err != nil {
		return err
	}
	defer closer()
	if err := fill(ctx, m, n); err != nil {
		return err
	}
	u, err := usageOf(dir)
	if err != nil {
		return err
	}
	runtime.KeepAlive(m)
	return json.NewEncoder(out).Encode(u)
}

func fill(ctx context.Context, m *securemail.Mailer, n int) error {
	d := &securemail.Draft{
		From: securemail.Mailbox("Clinic <" + sender + ">"), Subject: "Your report", Text: "See the attachment.",
		Purpose: securemail.PurposeTreatment,
		Attachments: []securemail.Attachment{{
			Name: "report.pdf", Type: "application/pdf", Content: securemail.Bytes(bytes.Repeat([]byte("%PDF-1.7"), fullSize*3/4/8)),
		}},
	}
	for i := range n {
		d.Each = append(d.Each, securemail.To(fmt.Sprintf("r%d@bench.test", i))...)
	}
	sub, err := m.Send(ctx, d)
	if err == nil && len(sub.Parcels) != n {
		err = fmt.Errorf("%d parcels of %d", len(sub.Parcels), n)
	}
	return err
}

func usageOf(dir string) (usage, error) {
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	var ru syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	u := usage{Held: int64(ms.HeapAlloc), Peak: ru.Maxrss << 10} // Linux counts Maxrss in KiB
	err = errors.Join(err, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			u.Disk += fi.Size()
		}
		return err
	}))
	return u, err
}

// child runs this process as the sink or the filler of a queue, if args say so.
func child(ctx context.Context, args []string) (bool, error) {
	switch strings.Join(args[:min(1, len(args))], "") {
	case sinkArg:
		return true, serveSink(os.Stdin, os.Stdout)
	case certificateArg:
		if len(args) != 2 {
			return true, errors.New("certificate: into which folder?")
		}
		return true, writeCertificate(args[1])
	case memoryArg:
		if len(args) != 2 {
			return true, errors.New("memory: how many parcels?")
		}
		return true, serveMemory(ctx, args[1], os.Stdout)
	}
	return false, nil
}
