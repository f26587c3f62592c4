package mtasts

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Entry is a policy as a [Store] keeps it.
type Entry struct {
	// Domain is the mail domain: A-labels, lower case, no final dot. It is the key.
	Domain string
	// ID is the id of the record that led to the policy.
	ID string
	// Mode is the policy's mode, which Text holds too; a Store that can't keep everything keeps Enforce.
	Mode Mode
	// Text is the policy as it was fetched, at most [MaxPolicy] octets.
	Text []byte
	// Fetched is when. For one domain it never goes back: where the clock was set back, it is a second after the one before.
	Fetched time.Time
	// Expires is when it stops to bind.
	Expires time.Time
	// Used is when the policy was last asked for, to about a day.
	Used time.Time
}

// ErrNoEntry says that a [Store] surely has no entry.
var ErrNoEntry = errors.New("mtasts: no entry")

// Store keeps entries where they survive a restart. Its methods are called from many goroutines. It may keep no slice it is
// given and must return slices of its own. Times may be rounded to a second, down.
//
// A Store that drops entries to stay small must drop expired ones first and never one with Mode Enforce that has not
// expired while there is another: domains that strangers choose must not push policies out.
type Store interface {
	// Load returns the entry of a domain, even an expired one. [ErrNoEntry] means that there surely is none; any other
	// error means that it is not known now.
	Load(ctx context.Context, domain string) (Entry, error)
	// Save puts an entry in place of the one with its Domain. It may leave one alone whose Fetched is later: another process
	// was faster.
	Save(ctx context.Context, e Entry) error
	// List returns at most max entries whose Domain sorts behind after, byte by byte, in that order. An empty list means
	// that there are no more. "" sorts before every domain.
	List(ctx context.Context, after string, max int) ([]Entry, error)
}

// Sweeper is an ability of a [Store]: to remove what is of no more use. [Cache.Refresh] calls it where it is there.
type Sweeper interface {
	// Sweep removes entries with Expires before the time, and says how many.
	Sweep(ctx context.Context, before time.Time) (int, error)
}

// Memory is a [Store] that forgets with the process: for one-shot tools and tests. It holds at most the number of entries
// given to [NewMemory]. When full it drops, in this order, an expired entry, one whose mode is not Enforce, the one unused
// for the longest time.
type Memory struct {
	mu  sync.Mutex // guards all
	m   map[string]Entry
	max int
	now func() time.Time
}

var (
	_ Store   = (*Memory)(nil)
	_ Sweeper = (*Memory)(nil)
)

// MemoryOptions are the options of [NewMemory]; nil and zero fields mean the defaults.
type MemoryOptions struct {
	// Max is the greatest number of entries; 0 is 10000.
	Max int
	// Now is the clock; nil is [time.Now].
	Now func() time.Time
}

// NewMemory makes an empty Memory.
func NewMemory(o *MemoryOptions) *Memory {
	if o == nil {
		o = &MemoryOptions{}
	}
	m := &Memory{m: map[string]Entry{}, max: o.Max, now: o.Now}
	if m.max <= 0 {
		m.max = 10000
	}
	if m.now == nil {
		m.now = time.Now
	}
	return m
}

// Load implements [Store].
func (s *Memory) Load(_ context.Context, domain string) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.m[domain]
	if !ok {
		return Entry{}, ErrNoEntry
	}
	return e.clone(), nil
}

// Save implements [Store].
func (s *Memory) Save(_ context.Context, e Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[e.Domain] = e.clone()
	if len(s.m) > s.max {
		s.drop()
	}
	return nil
}

// drop removes the entry that is missed least. It looks at all of them, which only a full store pays for.
func (s *Memory) drop() {
	now := s.now()
	rank := func(e Entry) int {
		switch {
		case !now.Before(e.Expires):
			return 0
		case e.Mode != Enforce:
			return 1
		}
		return 2
	}
	var worst *Entry
	for _, e := range s.m {
		if worst == nil || cmp.Or(cmp.Compare(rank(e), rank(*worst)), e.Used.Compare(worst.Used), cmp.Compare(e.Domain, worst.Domain)) < 0 {
			worst = &e
		}
	}
	delete(s.m, worst.Domain)
}

// List implements [Store].
func (s *Memory) List(_ context.Context, after string, max int) ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var es []Entry
	for d, e := range s.m {
		if d > after {
			es = append(es, e.clone())
		}
	}
	slices.SortFunc(es, func(a, b Entry) int { return cmp.Compare(a.Domain, b.Domain) })
	return es[:min(max, len(es))], nil
}

// Sweep implements [Sweeper].
func (s *Memory) Sweep(_ context.Context, before time.Time) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.m)
	for d, e := range s.m {
		if e.Expires.Before(before) {
			delete(s.m, d)
		}
	}
	return n - len(s.m), nil
}

func (e Entry) clone() Entry {
	e.Text = slices.Clone(e.Text)
	return e
}
