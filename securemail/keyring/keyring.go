package keyring

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Limits of what can be wrapped.
const (
	// MaxKey is the longest data key, in octets.
	MaxKey = 4096
	// MaxScopes is how many scopes one data key can have.
	MaxScopes = 255
)

// Options configure a File. The zero value is the strictest.
type Options struct {
	// Window is how long a destroyed scope key may stay in the files, out of reach of this package, until the epoch key is
	// replaced. Zero: not at all, Destroy replaces it at once, in time linear in the number of scopes (0.2 to 0.5 s for
	// 1,000,000). Not zero, as 24 h: a Destroy costs one synced append, whatever their number; Run must run, or Upkeep be
	// called several times a window. What comes due while neither does is made good when the ring is next opened or changed.
	Window time.Duration
	// Remember is how long a destroyed scope is remembered, at about 100 octets of memory each: its keys give ErrDestroyed
	// and it can't be used again. Zero: for ever. Afterwards its keys give ErrUnknown, and a Wrap makes the scope anew, with
	// a new key.
	Remember time.Duration
	// Root holds the root key where it is not to lie in a file: EnvRoot, package keyring/kms. Nil: the key file at the ring's
	// path. A ring that exists changes its root by File.MoveRoot only.
	Root Root
	// Expect is the newest File.State that was recorded outside of the ring, as in the audit log: a ring that is older, or
	// whose past is another, is a *RollbackError. Zero: not checked.
	Expect State
	// Restored says that the ring was restored from a copy that may be older than Expect, and that this was declared: it is
	// opened nevertheless, under a new epoch key, and its later states count as newer than Expect. Then Replay the key
	// events since the copy, before anybody else uses it.
	Restored bool
	// Outbox takes an event for each act on keys, before it and after it; see EventKind. Nil: none, unless RecordTo sets it;
	// then Destroy is recorded by its answer alone.
	Outbox Outbox
	// Now nil: time.Now.
	Now func() time.Time
}

func (o *Options) check() (Options, error) {
	if o == nil {
		o = &Options{}
	}
	c := *o
	if c.Now == nil {
		c.Now = time.Now
	}
	var errs []error
	if c.Window < 0 {
		errs = append(errs, errors.New("keyring: negative Options.Window"))
	}
	if c.Remember < 0 {
		errs = append(errs, errors.New("keyring: negative Options.Remember"))
	}
	return c, errors.Join(errs...)
}

// File is the key ring on files; see the package comment. It is safe for concurrent use, also by several processes. Wrap
// and Unwrap on scopes in use touch no disk: they ask the system whether the ledger changed, and compute.
type File struct {
	path string
	o    Options

	// writer serialises, within this process, everything that takes the lock between processes; it guards failed.
	writer chan struct{}
	failed error // a sync failed: nothing more is written
	// writing: the files differ from st because this process is changing them.
	writing atomic.Bool

	qmu  sync.Mutex // guards next
	next *batch     // collects orders while the one before is being made durable

	mu sync.RWMutex // guards the fields below and the contents of st; changing them takes writer too
	st *state       // nil once closed
	// root nil: the key file.
	root Root
	// floor is the epoch number that the next one must be above.
	floor  uint64
	outbox Outbox
	busy   map[actID]int // acts under way in this process
}

var (
	_ securemail.KeyRing = (*File)(nil)
	_ securemail.Runner  = (*File)(nil)
)

// OpenFile opens the ring at path, making all its files where none is there: its root key is the file path itself or, with
// Options.Root, not there. A nil o is the zero Options. A window that passed while no process had the ring open is made
// good. Errors: ErrExposed; ErrCorrupt for a damaged or older file, with ErrLost where one is missing; ErrUnavailable,
// ErrDenied and ErrLost of the Root; ErrOtherRoot; *RollbackError; the file system's. None of them changes a file.
func OpenFile(path string, o *Options) (*File, error) {
	c, err := o.check()
	if err != nil {
		return nil, err
	}
	f := &File{path: path, o: c, root: c.Root, outbox: c.Outbox, writer: make(chan struct{}, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	err = f.exclusive(ctx, func() error {
		if err := f.createIfNone(ctx); err != nil {
			return err
		}
		return f.firstLoad(ctx)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// firstLoad reads the files, checks them against what is expected, and makes good what is overdue.
func (f *File) firstLoad(ctx context.Context) (err error) {
	if f.st, err = f.load(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.st.forget())
		}
	}()
	now := f.o.Now().UnixNano()
	renew := f.st.due != 0 && (f.o.Window == 0 || now >= f.st.due)
	if err := f.st.covers(f.o.Expect); err != nil {
		if !f.o.Restored {
			return err
		}
		renew, f.floor = true, f.o.Expect.Epoch
	}
	if renew {
		return f.rewrite(ctx, &record{}, now)
	}
	return nil
}

// openTimeout bounds how long OpenFile waits for another process that is writing.
const openTimeout = 30 * time.Second

// Close forgets all keys, overwriting them in memory. Later calls are ErrClosed.
func (f *File) Close() error {
	f.writer <- struct{}{}
	defer func() { <-f.writer }()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.st == nil {
		return nil
	}
	err := f.st.forget()
	f.st = nil
	return err
}

// Wrap seals key (1 to MaxKey octets) under all scopes at once: it can be had back only while every one of them exists.
// The order and repetition of scopes don't matter. A scope that is new gets its key here, durable before Wrap returns;
// concurrent calls share one sync. Under a destroyed scope it is ErrDestroyed; without scopes, or with an empty one, an
// error. The result is about 190 octets, and 16 more for each scope, longer than key.
func (f *File) Wrap(ctx context.Context, key []byte, scopes ...string) ([]byte, error) {
	if err := checkWrap(key, scopes); err != nil {
		return nil, err
	}
	if err := f.refresh(ctx); err != nil {
		return nil, err
	}
	for {
		wrapped, missing, err := f.wrapCached(key, scopes)
		if err != nil || len(missing) == 0 {
			return wrapped, err
		}
		if _, err := f.commit(ctx, order{create: missing}); err != nil {
			return nil, err
		}
	}
}

func checkWrap(key []byte, scopes []string) error {
	switch {
	case len(scopes) == 0:
		return errNoScope
	case len(scopes) > MaxScopes:
		return errScopes
	case slices.Contains(scopes, ""):
		return errEmptyScope
	case len(key) == 0 || len(key) > MaxKey:
		return errKey
	}
	return nil
}

func (f *File) wrapCached(key []byte, scopes []string) (wrapped []byte, missing []scopeID, err error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return nil, nil, ErrClosed
	}
	ids := make([]scopeID, 0, len(scopes))
	for _, s := range scopes {
		ids = append(ids, f.st.id(s))
	}
	slices.SortFunc(ids, scopeID.compare)
	ids = slices.Compact(ids)
	for _, id := range ids {
		if _, gone := f.st.gone[id]; gone {
			return nil, nil, ErrDestroyed
		}
		if _, ok := f.st.live[id]; !ok {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		return nil, missing, nil
	}
	wrapped, err = f.st.wrap(key, ids)
	return wrapped, nil, err
}

// Unwrap returns the key that Wrap sealed. Errors: ErrDestroyed, ErrUnknown, ErrCorrupt, ErrClosed, and those of the
// file system where the ledger changed and can't be read.
func (f *File) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	if err := f.refresh(ctx); err != nil {
		return nil, err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return nil, ErrClosed
	}
	return f.st.unwrap(wrapped)
}
