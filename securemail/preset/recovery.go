package preset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sort"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/queue"
)

// kindRestored is the kind of the event of a declared restore.
const kindRestored = "restored"

// auditKeyName is the key file of the audit log in a backup.
const auditKeyName = "audit.key"

// Backup writes a sealed backup of the System to w: database, blobs, audit log and wrapped keys; see package backup. Mail
// goes on meanwhile.
func (s *System) Backup(ctx context.Context, w io.Writer) (*backup.Report, error) {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	d := &Desk{Queue: s.Queue, db: s.DB, ring: s.KeyRing, path: s.path}
	return d.backup(ctx, w, s.Ledger.Publish)
}

// Backup is [System.Backup] while another process runs the store. The audit log is copied up to its newest checkpoint;
// events that it has no checkpoint for yet are given to it again when the restore is declared.
func (d *Desk) Backup(ctx context.Context, w io.Writer) (*backup.Report, error) {
	return d.backup(ctx, w, nil)
}

func (d *Desk) backup(ctx context.Context, w io.Writer, publish func(context.Context) error) (*backup.Report, error) {
	blobs, err := queue.Dir(d.path + ".blobs")
	if err != nil {
		return nil, err
	}
	set := &backup.Set{DB: d.db, Blobs: blobs, Named: d.Queue, Ring: d.ring, Publish: publish}
	keyFile := d.path + ".audit.key"
	switch b, err := os.ReadFile(keyFile); {
	case errors.Is(err, fs.ErrNotExist):
		// A store that nothing ran yet has no log.
	case err != nil:
		return nil, fmt.Errorf("preset: key file of the log: %w", bare(err))
	default:
		defer clear(b)
		set.Files = map[string][]byte{auditKeyName: b}
		set.Log = os.DirFS(d.path + ".audit")
		if set.LogKey, err = audit.ReadPublicKey(keyFile); err != nil {
			return nil, err
		}
	}
	return backup.Write(ctx, w, set)
}

// Split makes shares of the store's root key for n custodians, any m of whom can open its backups and have the store back;
// see keyring.File.Split.
func (d *Desk) Split(ctx context.Context, m, n int) ([]keyring.Share, error) {
	return d.ring.Split(ctx, m, n)
}

// RootFrom says where the root key is that opens a backup: the first that is set.
type RootFrom struct {
	// Shares are the custodians'.
	Shares []keyring.Share
	// KeyFile is a copy of the key file.
	KeyFile string
	// Root is the KMS or environment that the ring is under.
	Root keyring.Root
}

// key is the root key; nil where it is Root's.
func (f *RootFrom) key() (keyring.RootKey, error) {
	switch {
	case len(f.Shares) > 0:
		return keyring.Join(f.Shares...)
	case f.KeyFile != "":
		return keyring.ReadRootKey(f.KeyFile)
	case f.Root != nil:
		return nil, nil
	}
	return nil, errors.New("preset: where is the root key? give its file, the custodians' shares, or the KMS")
}

// opener opens backups.
func (f *RootFrom) opener(key keyring.RootKey) backup.Opener {
	return func(ctx context.Context, wrapped []byte) ([]byte, error) {
		if key == nil {
			return keyring.OpenBackupKeyUnder(ctx, f.Root, wrapped)
		}
		return keyring.OpenBackupKey(key, wrapped)
	}
}

// VerifyBackup reads a backup to its end and proves it; see backup.Verify. logKey may be empty.
func VerifyBackup(ctx context.Context, r io.Reader, root *RootFrom, logKey string) (*backup.Report, error) {
	key, err := root.key()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return backup.Verify(ctx, r, root.opener(key), logKey)
}

// DeclareOptions are who declares a restore, and what he knows.
type DeclareOptions struct {
	// By is the operator; required. Reason is why; it stands in the audit log, so it names no patient.
	By     securemail.Actor
	Reason string
	// NothingLeft says that surely nothing left after the backup was taken: open parcels stay as they are, where no newer log
	// tells otherwise.
	NothingLeft bool
}

// Declared is what a declaration did.
type Declared struct {
	// Backup is the backup's id, and Taken its time; empty for a database that was copied back by hand.
	Backup string    `json:"backup,omitempty"`
	Taken  time.Time `json:"taken,omitzero"`
	// LogSize counts the entries of the log that survived, News those that the database did not know.
	LogSize int64 `json:"log_size"`
	News    int64 `json:"news"`
	// Destroyed counts destructions of keys that were done again.
	Destroyed int `json:"destroyed"`
	*queue.Reconciled
}

// ErrNothingToDeclare says that the database is as old as the audit log knows it, and was not restored.
var ErrNothingToDeclare = errors.New("preset: nothing to declare: the store was not restored, and is as new as its audit log")

// Declare declares that the store at path was restored, by [Restore] or by copying an older database back by hand, so that it
// may run again. Nobody may have it open. What the audit log knows and the database does not is done again: keys that were
// destroyed since are destroyed, outcomes are settled, so that nothing with a recorded outcome is sent again, and parcels
// accepted since are listed: the host sends them again. Where no log survived that is newer than the backup, every open
// parcel becomes uncertain unless NothingLeft is declared. Then the log has an entry "restored", before which
// nothing is asked of the database any more, and the store is free. It may be repeated where it was cut short.
//
// It is the way on, too, where the files of the key ring alone were replaced by older ones and the newest are lost: what was
// destroyed since is destroyed again. What was sealed under scopes that the old files lack stays unreadable, and where that
// is what the outbox holds, Declare says so and changes nothing: nobody could know what else was destroyed.
func Declare(ctx context.Context, path string, o *Options, d *DeclareOptions) (_ *Declared, err error) {
	if d == nil || d.By.ID == "" || d.Reason == "" {
		return nil, errors.New("preset: declare: who, and for what reason?")
	}
	if err := isFile(path); err != nil {
		return nil, err
	}
	var declaring Options
	if o != nil {
		declaring = *o
	}
	declaring.declaring = true
	s, err := Open(ctx, path, &declaring)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.declare(securemail.WithActor(ctx, d.By), d)
}

func (s *System) declare(ctx context.Context, d *DeclareOptions) (*Declared, error) {
	mark, err := backup.Pending(ctx, s.DB)
	if err != nil {
		return nil, err
	}
	oldest, err := s.oldestEvent(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Ledger.Publish(ctx); err != nil {
		return nil, err
	}
	out := &Declared{}
	n := &news{mark: mark, oldest: oldest}
	if mark != nil {
		out.Backup, out.Taken = mark.Backup, mark.Taken
	}
	if err := s.readNews(ctx, n); err != nil {
		return nil, err
	}
	if out.LogSize, out.News = n.size, n.count; mark == nil && n.count == 0 && !s.oldRing {
		return nil, ErrNothingToDeclare
	}
	if s.oldRing {
		if out.Destroyed, err = s.renewRing(ctx); err != nil {
			return nil, err
		}
	}
	for _, e := range n.keys {
		did, err := s.KeyRing.Replay(ctx, e)
		if err != nil && !errors.Is(err, keyring.ErrUnrecorded) {
			return nil, err
		}
		if did {
			out.Destroyed++
		}
	}
	if mark == nil && n.count == 0 { // the key ring alone was older
		out.Reconciled = &queue.Reconciled{}
		return out, s.record(ctx, d, out)
	}
	ro := &queue.ReconcileOptions{NothingLeft: d.NothingLeft}
	if mark != nil {
		ro.Rewind = mark.Taken.Add(-time.Hour)
	}
	if n.count > 0 || mark == nil {
		ro.Told = n.told
	}
	if out.Reconciled, err = s.Queue.Reconcile(ctx, ro); err != nil {
		return nil, err
	}
	if ro.Told != nil && mark != nil && !n.newer {
		// The backup's own log tells of the moments in which it was made, and nobody of what came then.
		rest, err := s.Queue.Reconcile(ctx, &queue.ReconcileOptions{NothingLeft: d.NothingLeft})
		if err != nil {
			return nil, err
		}
		out.Uncertain = append(out.Uncertain, rest.Uncertain...)
	}
	return out, s.record(ctx, d, out)
}

// record makes the entry, notes where the key ring stands and frees the store, in this order.
func (s *System) record(ctx context.Context, d *DeclareOptions, out *Declared) error {
	now := s.now()
	e := securemail.Event{
		ID: "restored-" + cmp.Or(out.Backup, "copy") + "-" + fmt.Sprint(now.UnixMilli()), Kind: kindRestored, Time: now, By: d.By,
		Detail: map[string]string{
			"backup": out.Backup, "reason": d.Reason, "log_size": fmt.Sprint(out.LogSize), "news": fmt.Sprint(out.News),
			"destroyed": fmt.Sprint(out.Destroyed), "uncertain": fmt.Sprint(len(out.Uncertain)), "unknown": fmt.Sprint(len(out.Unknown)),
		},
	}
	if !out.Taken.IsZero() {
		e.Detail["taken"] = out.Taken.UTC().Format(time.RFC3339)
	}
	if d.NothingLeft {
		e.Detail["nothing_left"] = "declared"
	}
	if err := s.Queue.Add(ctx, nil, e); err != nil {
		return err
	}
	seq, id, err := s.Queue.Head(ctx)
	if err != nil {
		return err
	}
	if id == e.ID {
		e.Seq = seq
	}
	if err := s.Ledger.Emit(ctx, e); err != nil {
		return err
	}
	if err := s.noteRing(ctx); err != nil {
		return err
	}
	return backup.Declare(ctx, s.DB, now)
}

// news is what the log knows and the database does not.
type news struct {
	mark *backup.Mark
	// oldest is the number of the oldest event in the database.
	oldest int64
	size   int64
	count  int64
	newer  bool // some of it is behind the backup's log
	keys   []securemail.Event
	tolds  []queue.Told
}

// candidate says whether e may have come after the database's moment; whether it did, the database is asked. The log in a
// backup is a little newer than the rows.
func (n *news) candidate(e *backup.Entry) bool {
	return n.behind(e) || e.Seq >= n.oldest && e.Seq > 0
}

// behind says that e is not in the backup's log.
func (n *news) behind(e *backup.Entry) bool { return n.mark != nil && e.Number >= n.mark.LogSize }

// oldestEvent is the number of the oldest event that the database still has: entries before it are no news.
func (s *System) oldestEvent(ctx context.Context) (int64, error) {
	head, _, err := s.Queue.Head(ctx)
	if err != nil {
		return 0, err
	}
	oldest := sort.Search(int(head), func(i int) bool {
		known, _, herr := s.Queue.Holds(ctx, int64(i)+1, "")
		err = errors.Join(err, herr)
		return known
	})
	return int64(oldest) + 1, err
}

func (n *news) told(yield func(queue.Told, error) bool) {
	for _, t := range n.tolds {
		if !yield(t, nil) {
			return
		}
	}
}

// readNews reads the whole log, and keeps what is new once it is proved.
func (s *System) readNews(ctx context.Context, n *news) error {
	for e, err := range backup.Entries(ctx, os.DirFS(s.path+".audit"), s.Ledger.PublicKey(), 0) {
		if err != nil {
			return err
		}
		n.size = e.Number + 1
		if !n.candidate(&e) && e.Kind != kindRestored {
			continue
		}
		known, holds, err := s.Queue.Holds(ctx, e.Seq, e.Event)
		switch {
		case err != nil:
			return err
		case e.Kind == kindRestored && (holds || !known && !n.behind(&e)):
			n.forget() // what came before it was settled when that restore was declared, which may be long ago
		case !holds && e.Kind != kindRestored:
			n.add(&e)
		}
	}
	return nil
}

// forget drops what was collected.
func (n *news) forget() { n.count, n.newer, n.keys, n.tolds = 0, false, nil, nil }

func (n *news) add(e *backup.Entry) {
	n.count++
	n.newer = n.newer || n.behind(e)
	switch state := securemail.State(e.Kind); {
	case e.Kind == keyring.EventKind:
		n.keys = append(n.keys, securemail.Event{
			ID: e.Event, Kind: e.Kind, Time: e.Time, Detail: e.Detail, By: securemail.Actor{Tenant: e.By.Tenant},
		})
	case e.Parcel != "" && slices.Contains(states, state):
		n.tolds = append(n.tolds, queue.Told{
			Event: e.Event, Seq: e.Seq, Parcel: securemail.ParcelID(e.Parcel), Submission: e.Submission, Tenant: e.By.Tenant,
			State: state, Time: e.Time, Next: e.Next,
		})
	}
}

// states are the kinds of events that enter a state.
var states = []securemail.State{
	securemail.StateAccepted, securemail.StateAttempting, securemail.StateDeferred, securemail.StateHeld, securemail.StateDelivered,
	securemail.StateBounced, securemail.StateDropped, securemail.StateUncertain, securemail.StateRefused, securemail.StateCancelled,
	securemail.StateExpired,
}

// declared is nil where the store may run.
func (s *System) declared(ctx context.Context) error {
	mark, err := backup.Pending(ctx, s.DB)
	if err != nil || mark == nil {
		return err
	}
	return backup.ErrUndeclared
}
