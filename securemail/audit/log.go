package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/postseal/postseal/internal/durable"
	"github.com/postseal/postseal/internal/seal"
	"github.com/postseal/postseal/securemail"
)

// The errors a caller branches on.
var (
	// ErrUnknown says that no event of that id is in the log.
	ErrUnknown = errors.New("audit: event not in the log")
	// ErrCorrupt says that a file of the log is damaged, cut or missing.
	ErrCorrupt = errors.New("audit: damaged log")
	// ErrRollback says that the log is older than, or another than, one that a checkpoint proves to have been.
	ErrRollback = errors.New("audit: log was rolled back or forked")
	// ErrLocked says that another process has the log open.
	ErrLocked = errors.New("audit: another process has the log open")
	// ErrClosed says that the log was closed.
	ErrClosed = errors.New("audit: closed")
)

// Options configure a Log. The zero value is ready to use.
type Options struct {
	// Origin is the log's name, in each checkpoint: a schema-less URL, no space and no plus. Empty: that of the key file,
	// or a random one under postseal.invalid where it is made.
	Origin string
	// KeyFile has the signing key and the pseudonym key; it is made once, mode 0600. Empty: FOLDER.key.
	KeyFile string
	// Signer signs checkpoints in place of the key file's key; VerifierKey is then its public key in note form, and
	// PseudonymKey must be set.
	Signer      note.Signer
	VerifierKey string
	// PseudonymKey, 32 octets, is used in place of the key file's. It must never change: events under another one would not
	// be known as repeats.
	PseudonymKey []byte
	// Seen is the file that keeps the newest checkpoint outside of the folder; Open refuses a log that is older. Empty:
	// KeyFile with ".seen" behind it. After a restore that was meant, and recorded, remove it.
	Seen string
	// Interval is how long an entry may wait for a checkpoint; 0: 1 s.
	Interval time.Duration
	// Witnesses cosign checkpoints, asked by Run and Upkeep; audit/witness has a client of one. Entries and proofs never wait for them. Quorum
	// is how many of them make a checkpoint a cosigned one (Cosigned); 0: all.
	Witnesses []Witness
	Quorum    int
	// Stamper has the first checkpoint of each day (UTC) stamped, asked likewise; audit/timestamp has a client of RFC 3161.
	// Nil: none is.
	Stamper Stamper
	// Trouble is told, by Run and Upkeep, whenever what keeps the newest checkpoint from being cosigned, or the day from being
	// stamped, becomes another; nil: nothing does any more. One that Is ErrRollback says that a witness knows more than the log
	// has, or another history: look at once.
	Trouble func(error)
	// Now nil: time.Now.
	Now func() time.Time
}

func (o *Options) check(dir string) (Options, error) {
	if o == nil {
		o = &Options{}
	}
	c := *o
	if c.KeyFile == "" {
		c.KeyFile = dir + ".key"
	}
	if c.Seen == "" {
		c.Seen = c.KeyFile + ".seen"
	}
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	var errs []error
	if c.Quorum == 0 {
		c.Quorum = len(c.Witnesses)
	}
	if c.Quorum < 0 || c.Quorum > len(c.Witnesses) {
		errs = append(errs, errors.New("audit: Options.Quorum must be among the Witnesses"))
	}
	if c.Interval < 0 {
		errs = append(errs, errors.New("audit: negative Options.Interval"))
	}
	if c.PseudonymKey != nil && len(c.PseudonymKey) != seal.KeySize {
		errs = append(errs, fmt.Errorf("audit: Options.PseudonymKey must have %d octets", seal.KeySize))
	}
	if (c.Signer == nil) != (c.VerifierKey == "") || c.Signer != nil && c.PseudonymKey == nil {
		errs = append(errs, errors.New("audit: Options.Signer, VerifierKey and PseudonymKey go together"))
	}
	return c, errors.Join(errs...)
}

// Log is the tamper-evident log; see the package comment. It is safe for concurrent use. One process at a time can have
// it open.
type Log struct {
	dir      string
	o        Options
	keys     *keys
	verifier note.Verifier
	lock     *durable.Lock

	qmu  sync.Mutex // guards next
	next *batch     // collects entries while the batch before is being made durable

	// sequencer is held by who changes the log; it guards these fields.
	sequencer   chan struct{}
	closed      bool
	failed      error // a sync failed: nothing more is written
	unpublished error // why the last checkpoint could not be published
	tree        tree
	journal     *journal
	files       durable.Tree
	lastPublish time.Time
	indexSaved  int64          // entries in the stored index
	partials    map[int]string // by level: the partial tile written last

	catalogMu sync.Mutex // held by who reads or makes a page of the catalogue

	upperMu sync.Mutex // guards upper
	upper   map[upperTile]subtree

	mu        sync.RWMutex // guards these fields; changed under sequencer only
	index     index
	published *checkpoint
	outside   outside
	tail      [][]byte // the entries from number tailStart on
	tailStart int64    // a multiple of tileWidth
}

var (
	_ securemail.Ledger = (*Log)(nil)
	_ securemail.Runner = (*Log)(nil)
)

// item is one entry on its way into the log.
type item struct {
	event string
	hash  uint64
	data  []byte
}

// batch is the entries of all callers that came while the batch before was being made durable. Its first caller leads.
type batch struct {
	items []*item
	done  chan struct{}
	// The fields below are set before done is closed.
	err error
	// orphaned: the leader's context ended before he began; another caller must lead.
	orphaned bool
}

// Emit records e and returns once the entry survives a power cut. An event whose id is in the log already is nil and
// changes nothing. Concurrent calls share a sync. Errors: an event without id, ErrClosed, ErrCorrupt, the file system's;
// after any of them the event may or may not be recorded, and should be emitted again.
func (l *Log) Emit(ctx context.Context, e securemail.Event) error { return l.EmitAll(ctx, e) }

// EmitAll is Emit for many events, recorded in their order with one sync. On an error none, some or all are recorded.
func (l *Log) EmitAll(ctx context.Context, es ...securemail.Event) error {
	items := make([]*item, len(es))
	for i := range es {
		data, err := formatEntry(l.keys.mac, &es[i])
		if err != nil {
			return err
		}
		id := eventID(es[i].ID)
		items[i] = &item{event: id, hash: idHash(l.keys.mac, id), data: data}
	}
	for {
		l.qmu.Lock()
		b, lead := l.next, l.next == nil
		if lead {
			b = &batch{done: make(chan struct{})}
			l.next = b
		}
		b.items = append(b.items, items...)
		l.qmu.Unlock()
		if lead {
			l.lead(ctx, b)
			return b.err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.done:
		}
		if !b.orphaned {
			return b.err
		}
	}
}

func (l *Log) lead(ctx context.Context, b *batch) {
	if err := l.acquire(ctx); err != nil {
		l.take(b)
		b.err, b.orphaned = err, true
		close(b.done)
		return
	}
	defer l.release()
	l.take(b)
	b.err = l.record(b.items)
	close(b.done)
	if b.err == nil && l.due() {
		// The entries are durable whatever comes of this; the next one tries again.
		_ = l.publish()
	}
}

// take closes b to further entries.
func (l *Log) take(b *batch) {
	l.qmu.Lock()
	defer l.qmu.Unlock()
	if l.next == b {
		l.next = nil
	}
}

func (l *Log) acquire(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case l.sequencer <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Log) release() { <-l.sequencer }

// Entries that wait for a checkpoint: publishAfter are published at once, however young; beyond maxWaiting, where
// publishing fails, nothing more is taken.
const (
	publishAfter = 1 << 13
	maxWaiting   = 1 << 16
)

func (l *Log) waiting() int64 { return l.tree.size - l.published.N }

func (l *Log) due() bool {
	return l.waiting() >= publishAfter || l.waiting() > 0 && l.o.Now().Sub(l.lastPublish) >= l.o.Interval
}

// record makes the new ones of items durable. The caller is the sequencer.
func (l *Log) record(items []*item) error {
	switch {
	case l.closed:
		return ErrClosed
	case l.failed != nil:
		return l.failed
	case l.unpublished != nil && l.waiting() >= maxWaiting:
		return l.unpublished
	}
	fresh, err := l.unknown(items)
	if err != nil || len(fresh) == 0 {
		return err
	}
	if l.tree.size+int64(len(fresh)) > maxEntries {
		return errors.New("audit: log is full")
	}
	if err := l.journal.append(fresh); err != nil {
		if errors.Is(err, errSync) {
			l.failed = err
		}
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, it := range fresh {
		l.index.add(it.hash, l.tree.size)
		l.tail = append(l.tail, it.data)
		l.tree.add(tlog.RecordHash(it.data))
	}
	return nil
}

// unknown returns those of items whose event is not in the log, each once.
func (l *Log) unknown(items []*item) ([]*item, error) {
	var fresh []*item
	seen := make(map[string]bool, len(items))
	for _, it := range items {
		if seen[it.event] {
			continue
		}
		seen[it.event] = true
		_, _, err := l.find(it.event, it.hash)
		switch {
		case errors.Is(err, ErrUnknown):
			fresh = append(fresh, it)
		case err != nil:
			return nil, err
		}
	}
	return fresh, nil
}

// find returns the number of the entry of an event, and its octets.
func (l *Log) find(event string, hash uint64) (int64, []byte, error) {
	l.mu.RLock()
	candidates := l.index.find(hash)
	l.mu.RUnlock()
	for _, n := range candidates {
		data, err := l.entryAt(int64(n))
		if err != nil {
			return 0, nil, err
		}
		if e, err := parseEntry(data); err != nil || e.Event == event {
			return int64(n), data, err
		}
	}
	return 0, nil, ErrUnknown
}

// Prove returns a proof for the entry of the event: https://c2sp.org/tlog-proof@v1 with the entry as its extra data,
// under a checkpoint that is published for it where none covers it yet (ErrClosed where the log was closed). [Verify]
// checks it. Other errors: ErrUnknown, ErrCorrupt, the file system's.
func (l *Log) Prove(ctx context.Context, event string) ([]byte, error) {
	event = eventID(event)
	n, entry, err := l.find(event, idHash(l.keys.mac, event))
	if err != nil {
		return nil, err
	}
	cp := l.newest()
	if n >= cp.N {
		if err := l.Publish(ctx); err != nil {
			return nil, err
		}
		cp = l.newest()
	}
	hashes, err := tlog.ProveRecord(cp.N, n, l.tilesOf(cp.N))
	if err != nil {
		return nil, corrupt("prove", err)
	}
	if tlog.CheckRecord(hashes, cp.N, cp.Hash, n, tlog.RecordHash(entry)) != nil {
		return nil, fmt.Errorf("audit: prove: %w", ErrCorrupt)
	}
	p := &proof{entry: entry, index: n, hashes: hashes, checkpoint: cp.note}
	return p.format(), nil
}

// corrupt makes ErrCorrupt of what tlog says of bad tiles, and keeps errors of ours and of the file system.
func corrupt(what string, err error) error {
	return fmt.Errorf("audit: %s: %w", what, errors.Join(ErrCorrupt, err))
}

func (l *Log) newest() *checkpoint {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.published
}

// Publish signs a checkpoint over every entry that is durable now, unless the newest does. Run and the next Emit do so in
// time; call it before the folder is copied.
func (l *Log) Publish(ctx context.Context) error {
	if err := l.acquire(ctx); err != nil {
		return err
	}
	defer l.release()
	if l.closed {
		return ErrClosed
	}
	return l.publish()
}

// Run publishes checkpoints in time while no events come, and has them cosigned and stamped beside that, until ctx ends;
// then it publishes once more and returns nil. Any other return is the error of a checkpoint that could not be published.
func (l *Log) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asking.Go(func() { l.ask(ctx) })
	tick := time.NewTicker(l.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return l.Publish(context.WithoutCancel(ctx))
		case <-tick.C:
			if err := l.Publish(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// Upkeep publishes a checkpoint over every entry, and has it cosigned and stamped where that is asked for. A witness or
// stamper that can't be reached is no error: see Cosigned; the next call asks again. One that says that it has signed more than
// there is, or another history, is ErrRollback.
func (l *Log) Upkeep(ctx context.Context) error {
	if err := l.Publish(ctx); err != nil {
		return err
	}
	return l.askOthers(ctx)
}

// Checkpoint returns the newest checkpoint, a signed note. Keep some where the log can't reach them; see [Log.Extends].
func (l *Log) Checkpoint() []byte { return append([]byte(nil), l.newest().note...) }

// Verifier returns what [Verify] needs.
func (l *Log) Verifier() note.Verifier { return l.verifier }

// PublicKey is the verifier's key in note form, for note.NewVerifier; it may be published.
func (l *Log) PublicKey() string { return l.keys.public }

// Pseudonym returns what stands in entries for value: 128 bits in hex, "" for "". Kind is "address" (value is
// securemail.Address.Reveal), "subject", "ref", "label", "session", "peer", "domain" or "remote"; tenant is the event's By.Tenant.
func (l *Log) Pseudonym(kind, tenant, value string) string {
	return pseudonym(l.keys.mac, kind, tenant, value)
}

// FactsHash returns what stands in an entry for f: HMAC-SHA256 in hex over its canonical octets, under the pseudonym key.
func (l *Log) FactsHash(f *securemail.Facts) (string, error) { return factsHash(l.keys.mac, f) }

// Close publishes a checkpoint, stores the index and frees the folder. Later calls that would
// write are ErrClosed; a repeat is nil.
func (l *Log) Close() error {
	l.sequencer <- struct{}{}
	defer l.release()
	if l.closed {
		return nil
	}
	l.closed = true
	err := l.failed
	if err == nil {
		err = l.publish()
	}
	if err == nil {
		err = l.saveIndex()
	}
	return errors.Join(err, l.journal.file.Close(), l.lock.Unlock())
}
