package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/securemail"
)

// The errors a caller branches on.
var (
	// ErrDestroyed says that a scope was destroyed, and with it every key wrapped under it. It is final.
	ErrDestroyed = errors.New("keyring: scope was destroyed")
	// ErrUnknown says that a scope key is in the ledger neither as a key nor as destroyed: the wrapped key is another
	// ring's, the ledger is older than it, or the scope was destroyed longer ago than Options.Remember.
	ErrUnknown = errors.New("keyring: scope key not in the ledger")
	// ErrCorrupt says that a stored file or a wrapped key is damaged, or not of this ring.
	ErrCorrupt = errors.New("keyring: damaged, or of another ring")
	// ErrExposed says that group or others can read the key file.
	ErrExposed = errors.New("keyring: key file can be read by others, its mode must be 0600")
	// ErrClosed says that the ring was closed.
	ErrClosed = errors.New("keyring: closed")
)

// Limits of what can be wrapped.
const (
	// MaxKey is the longest data key, in octets.
	MaxKey = 4096
	// MaxScopes is how many scopes one data key can have.
	MaxScopes = 255
)

var (
	errNoScope    = errors.New("keyring: a key needs a scope")
	errEmptyScope = errors.New("keyring: empty scope")
	errScopes     = fmt.Errorf("keyring: over %d scopes", MaxScopes)
	errKey        = fmt.Errorf("keyring: a key must have 1 to %d octets", MaxKey)
)

// Options configure a File. The zero value is the strictest.
type Options struct {
	// Window is how long a destroyed scope key may stay in the files, out of reach of this package, until the epoch key is
	// replaced. Zero: not at all, Destroy replaces it at once, in time linear in the number of scopes (0.2 to 0.5 s for
	// 1,000,000). Not zero: a Destroy costs one synced append; [File.Run] must run.
	Window time.Duration
	// Remember is how long a destroyed scope is remembered, at about 100 octets of memory each: its keys give ErrDestroyed
	// and it can't be used again. Zero: for ever. Afterwards its keys give ErrUnknown, and a Wrap makes the scope anew, with
	// a new key.
	Remember time.Duration
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

	mu sync.RWMutex // guards st and its contents
	st *state       // nil once closed
}

var (
	_ securemail.KeyRing = (*File)(nil)
	_ securemail.Runner  = (*File)(nil)
)

// OpenFile opens the ring whose root key is in the file path, making all its files where none is there. A nil o is
// the zero Options. Errors: ErrExposed; ErrCorrupt for a damaged, missing or older file; the file system's.
func OpenFile(path string, o *Options) (*File, error) {
	c, err := o.check()
	if err != nil {
		return nil, err
	}
	f := &File{path: path, o: c, writer: make(chan struct{}, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	err = f.exclusive(ctx, func() error {
		if err := f.createIfNone(); err != nil {
			return err
		}
		if f.st, err = f.load(); err != nil {
			return err
		}
		if now := c.Now().UnixNano(); f.st.due != 0 && (c.Window == 0 || now >= f.st.due) {
			return f.rewrite(&record{}, now, false)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
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

// Destroy destroys the key of scope, and with it every key wrapped under it, durably before it returns; concurrent
// calls share the work. The answer is the proof record. A scope that never was is destroyed as well: it can't come into
// being later. A repeat gives the first answer.
func (f *File) Destroy(ctx context.Context, scope string) (securemail.Destruction, error) {
	if scope == "" {
		return securemail.Destruction{}, errEmptyScope
	}
	if err := f.refresh(ctx); err != nil {
		return securemail.Destruction{}, err
	}
	id, end, ok, err := f.ended(scope)
	if err != nil {
		return securemail.Destruction{}, err
	}
	if !ok {
		b, err := f.commit(ctx, order{destroy: []scopeID{id}})
		if err != nil {
			return securemail.Destruction{}, err
		}
		end = b.ends[id]
	}
	return securemail.Destruction{Scope: scope, At: end.at(), EpochRetires: end.retires()}, nil
}

func (f *File) ended(scope string) (id scopeID, e ending, ok bool, err error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.st == nil {
		return id, e, false, ErrClosed
	}
	id = f.st.id(scope)
	e, ok = f.st.gone[id]
	return id, e, ok, nil
}

// RotateEpoch seals all scope keys under a new epoch key and destroys the old one, so that older copies of the ledger
// open nothing. Wrapped keys stay as they are.
func (f *File) RotateEpoch(ctx context.Context) error {
	_, err := f.commit(ctx, order{rotate: true})
	return err
}

// RotateRoot replaces the root key, and the epoch key with it. Wrapped keys stay as they are. Copies of the old key file
// open nothing that is in the files now: renew your back-up copies of all of them.
func (f *File) RotateRoot(ctx context.Context) error {
	_, err := f.commit(ctx, order{rotate: true, root: true})
	return err
}

// Run retires epoch keys in time where Options.Window is set. It blocks until ctx ends and then returns nil; any other
// return is an error of the file system, and means that a promised EpochRetires may pass.
func (f *File) Run(ctx context.Context) error {
	if f.o.Window == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(max(f.o.Window/8, time.Millisecond))
	defer tick.Stop()
	for {
		if f.retireSoon() {
			if err := f.RotateEpoch(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// retireSoon says whether half of the window of a destroyed scope has passed.
func (f *File) retireSoon() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.st != nil && f.st.due != 0 && f.o.Now().UnixNano() >= f.st.due-int64(f.o.Window/2)
}
