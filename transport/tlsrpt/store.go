package tlsrpt

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Store keeps the accounts of days that are not reported yet. It is called from several goroutines and, where processes
// share it, from several processes.
type Store interface {
	// Update changes the accounts of keys in one step, all or none: fn gets what is stored for each key, an Account of
	// that Key alone where there is none, and changes it in place. An error of fn is returned as it is and changes
	// nothing. Fn may be run again from the start. Fn and the Store keep nothing of the Account afterwards.
	Update(ctx context.Context, keys []Key, fn func(*Account) error) error
	// Due gives at most max keys of accounts whose Next is set and not after now, the longest due first.
	Due(ctx context.Context, now time.Time, max int) ([]Key, error)
	// Remove drops the accounts of days before day and says how many there were.
	Remove(ctx context.Context, day Day) (int, error)
}

// Memory is a Store for tests and for programs that may forget. The zero value is empty and ready.
type Memory struct {
	mu       sync.Mutex // guards accounts
	accounts map[Key]*Account
}

var _ Store = (*Memory)(nil)

// Update implements [Store].
func (m *Memory) Update(ctx context.Context, keys []Key, fn func(*Account) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := make(map[Key]*Account, len(keys))
	for _, k := range keys {
		a := &Account{Key: k}
		if have := m.accounts[k]; have != nil {
			a = have.clone()
		}
		if err := fn(a); err != nil {
			return err
		}
		changed[k] = a
	}
	if m.accounts == nil {
		m.accounts = map[Key]*Account{}
	}
	for k, a := range changed {
		m.accounts[k] = a
	}
	return nil
}

// Due implements [Store].
func (m *Memory) Due(ctx context.Context, now time.Time, max int) ([]Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var due []*Account
	for _, a := range m.accounts {
		if !a.Next.IsZero() && !a.Next.After(now) {
			due = append(due, a)
		}
	}
	slices.SortFunc(due, func(a, b *Account) int { return a.Next.Compare(b.Next) })
	var keys []Key
	for _, a := range due[:min(max, len(due))] {
		keys = append(keys, a.Key)
	}
	return keys, ctx.Err()
}

// Remove implements [Store].
func (m *Memory) Remove(ctx context.Context, day Day) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for k := range m.accounts {
		if k.Day < day {
			delete(m.accounts, k)
			n++
		}
	}
	return n, ctx.Err()
}
