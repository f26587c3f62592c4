package preset

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/queue"
)

// DrillOptions say how much a drill looks at.
type DrillOptions struct {
	// By is who drills; it is recorded. Zero: the part "drill".
	By securemail.Actor
	// Sample is how many parcels are opened, spread over all; 0: every one.
	Sample int
	// Dir is where the backup and the restored store lie meanwhile; empty: the system's folder for temporary files. Both are
	// sealed, and the drill removes them.
	Dir string
	// Policy, where it is set, decides again on the facts of the decisions that are still kept, and must come to the same.
	Policy securemail.Policy
}

// Drilled is the report of a drill.
type Drilled struct {
	Backup *backup.Report `json:"backup"`
	// BackupTime, VerifyTime, RestoreTime and CheckTime are how long each part took; RestoreTime is the time to recover.
	BackupTime  time.Duration `json:"backup_ns"`
	VerifyTime  time.Duration `json:"verify_ns"`
	RestoreTime time.Duration `json:"restore_ns"`
	CheckTime   time.Duration `json:"check_ns"`
	// Size is the backup's, in octets.
	Size int64 `json:"size"`
	// Parcels, Open, Bodies, Destroyed count what was opened in the restored store; Entries those of its log; Replayed the
	// decisions that came out the same.
	Parcels   int   `json:"parcels"`
	Open      int   `json:"open"`
	Bodies    int   `json:"bodies"`
	Destroyed int   `json:"destroyed"`
	Entries   int64 `json:"entries"`
	Replayed  int   `json:"replayed"`
	// Findings is what is wrong; none: the backup can be relied on.
	Findings []string `json:"findings,omitempty"`
}

func (d *Drilled) find(format string, args ...any) {
	if len(d.Findings) < maxFindings {
		d.Findings = append(d.Findings, fmt.Sprintf(format, args...))
	}
}

const maxFindings = 100

// Drill makes a backup of the store at path, which may be running, restores it into a temporary folder, opens what is in it,
// and removes it. Nothing leaves. An event "drill" is added to the store's outbox. An error means that the drill could not be made; what
// it found wrong is in its report.
func Drill(ctx context.Context, path string, o *Options, d *DrillOptions) (_ *Drilled, err error) {
	if d == nil {
		d = &DrillOptions{}
	}
	if o == nil {
		o = &Options{}
	}
	desk, err := OpenDesk(ctx, path, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, desk.Close()) }()
	dir, err := os.MkdirTemp(d.Dir, "postseal-drill-")
	if err != nil {
		return nil, fmt.Errorf("preset: drill: %w", bare(err))
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	out := &Drilled{}
	run := &drill{desk: desk, dir: dir, o: o, d: d, out: out}
	if o.Root == nil {
		run.from.KeyFile = cmp.Or(o.KeyFile, path+".key")
	}
	run.from.Root = o.Root
	if err := run.all(ctx); err != nil {
		return nil, err
	}
	return out, run.record(ctx)
}

// drill is one under way.
type drill struct {
	desk *Desk
	dir  string
	o    *Options
	d    *DrillOptions
	from RootFrom
	out  *Drilled
}

func (r *drill) file() string { return filepath.Join(r.dir, "backup") }

// timed runs f and returns how long it took.
func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}

func (r *drill) all(ctx context.Context) (err error) {
	if r.out.BackupTime, err = timed(func() error { return r.write(ctx) }); err != nil {
		return err
	}
	if r.out.VerifyTime, err = timed(func() error { return r.verify(ctx) }); err != nil {
		return err
	}
	if len(r.out.Findings) > 0 && r.out.Backup == nil {
		return nil
	}
	restored := filepath.Join(r.dir, "store")
	r.out.RestoreTime, err = timed(func() error { return r.restore(ctx, restored) })
	if err != nil {
		r.out.find("restore: %v", err)
		return ctx.Err()
	}
	r.out.CheckTime, err = timed(func() error { return r.check(ctx, restored) })
	if err != nil {
		r.out.find("restored store: %v", err)
	}
	return ctx.Err()
}

func (r *drill) write(ctx context.Context) error {
	f, err := os.OpenFile(r.file(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("preset: drill: %w", bare(err))
	}
	rep, err := r.desk.Backup(ctx, f)
	if errors.Is(err, backup.ErrIncomplete) {
		r.out.find("backup: %d blobs are damaged, %d are missing", len(rep.Damaged), len(rep.Missing))
		err = nil
	}
	if err == nil {
		err = f.Sync()
	}
	if fi, serr := f.Stat(); serr == nil {
		r.out.Size = fi.Size()
	}
	r.out.Backup = rep
	return errors.Join(err, f.Close())
}

// read opens the backup.
func (r *drill) read(f func(in *os.File) error) error {
	in, err := os.Open(r.file())
	if err != nil {
		return fmt.Errorf("preset: drill: %w", bare(err))
	}
	defer in.Close()
	return f(in)
}

func (r *drill) verify(ctx context.Context) error {
	return r.read(func(in *os.File) error {
		logKey := ""
		if r.out.Backup.Checkpoint != "" {
			var err error
			if logKey, err = audit.ReadPublicKey(r.desk.path + ".audit.key"); err != nil {
				return err
			}
		}
		if _, err := VerifyBackup(ctx, in, &r.from, logKey); err != nil && !errors.Is(err, backup.ErrIncomplete) {
			r.out.find("verify: %v", err)
		}
		return ctx.Err()
	})
}

func (r *drill) restore(ctx context.Context, to string) error {
	return r.read(func(in *os.File) error {
		_, err := Restore(ctx, to, in, &RestoreOptions{From: r.from, Store: r.options()})
		if errors.Is(err, backup.ErrIncomplete) {
			return nil // found already
		}
		return err
	})
}

// options open the copy, which has its key file beside it.
func (r *drill) options() *Options {
	return &Options{Root: r.o.Root, DestroyWindow: r.o.DestroyWindow, Logger: r.o.Logger, Now: r.o.Now, BaseURL: r.o.BaseURL, InsecureLoopback: r.o.InsecureLoopback}
}

func (r *drill) check(ctx context.Context, path string) (err error) {
	s, err := Open(ctx, path, r.options())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	mark, err := backup.Pending(ctx, s.DB)
	if err != nil {
		return err
	}
	if mark == nil || mark.Backup != r.out.Backup.ID {
		r.out.find("the restored store is not marked as one")
	}
	if err := r.checkLog(ctx, s); err != nil {
		return err
	}
	in, err := s.Queue.Inspect(ctx, r.d.Sample)
	if err != nil {
		return err
	}
	r.inspected(ctx, in)
	return r.replay(ctx, s)
}

func (r *drill) checkLog(ctx context.Context, s *System) error {
	if err := s.Ledger.Check(ctx); err != nil {
		r.out.find("log: %v", err)
		return ctx.Err()
	}
	if cp := r.out.Backup.Checkpoint; cp != "" {
		r.out.Entries = r.out.Backup.LogSize
		if err := s.Ledger.Extends(ctx, []byte(cp)); err != nil {
			r.out.find("log: %v", err)
		}
	}
	return nil
}

func (r *drill) inspected(ctx context.Context, in *queue.Inspected) {
	r.out.Parcels, r.out.Open, r.out.Bodies, r.out.Destroyed = in.Parcels, in.Open, in.Bodies, in.Destroyed
	for i, id := range in.Damaged {
		if r.out.Backup.Gone > 0 && r.ended(ctx, id) {
			continue // while the backup was made
		}
		r.out.find("parcel %s: %v", id, in.Problems[i])
	}
	if want := r.out.Backup.Rows["queue_parcel"]; r.d.Sample == 0 && int64(in.Parcels) != want {
		r.out.find("%d parcels restored of %d", in.Parcels, want)
	}
}

// ended says that the parcel has ended in the store that runs.
func (r *drill) ended(ctx context.Context, id securemail.ParcelID) bool {
	var n int
	err := r.desk.db.QueryRowContext(ctx, "SELECT count(*) FROM queue_parcel WHERE id=? AND ended=0", string(id)).Scan(&n)
	return err == nil && n == 0
}

// replay decides again. The reader is the copy's: the store does not know it.
func (r *drill) replay(ctx context.Context, s *System) error {
	if r.d.Policy == nil {
		return nil
	}
	for {
		es, err := s.Queue.Next(ctx, "drill", 1000)
		if err != nil || len(es) == 0 {
			return err
		}
		for i := range es {
			r.decideAgain(ctx, &es[i])
		}
		if err := s.Queue.Ack(ctx, "drill", es[len(es)-1].ID); err != nil {
			return err
		}
	}
}

func (r *drill) decideAgain(ctx context.Context, e *securemail.Event) {
	if e.Facts == nil || e.Decision == nil {
		return
	}
	d, err := r.d.Policy.Decide(ctx, *e.Facts)
	switch {
	case err != nil:
		r.out.find("parcel %s: its decision can't be made again", e.Status.ID)
	case d.Policy != e.Decision.Policy: // of another version
	case sameDecision(&d, e.Decision):
		r.out.Replayed++
	default:
		r.out.find("parcel %s: its decision does not come out the same", e.Status.ID)
	}
}

// sameDecision compares what decides: the reasons' order and texts are for people.
func sameDecision(a, b *securemail.Decision) bool {
	if a.Else != b.Else || a.Uncertain != b.Uncertain || a.Patience != b.Patience || len(a.Choices) != len(b.Choices) {
		return false
	}
	var x, y bytes.Buffer
	for i := range a.Choices {
		fmt.Fprintf(&x, "%+v\n", a.Choices[i])
		fmt.Fprintf(&y, "%+v\n", b.Choices[i])
	}
	return x.String() == y.String()
}

// record tells of the drill in the store's outbox.
func (r *drill) record(ctx context.Context) error {
	now := time.Now
	if r.o.Now != nil {
		now = r.o.Now
	}
	at := now()
	by := r.d.By
	if by.ID == "" {
		by = securemail.Actor{ID: "drill", Kind: "part"}
	}
	return r.desk.Add(ctx, nil, securemail.Event{
		ID: "drill-" + r.out.Backup.ID, Kind: "drill", Time: at, By: by,
		Detail: map[string]string{
			"backup": r.out.Backup.ID, "parcels": fmt.Sprint(r.out.Parcels), "entries": fmt.Sprint(r.out.Entries),
			"restore": r.out.RestoreTime.Round(time.Millisecond).String(), "findings": fmt.Sprint(len(r.out.Findings)),
		},
	})
}
