package smtp

import (
	"sync"
	"time"
)

// shelf is a small cache: each entry has its own end, and where it is full the expired and then any entries go.
type shelf[V any] struct {
	max int
	now func() time.Time

	mu sync.Mutex // guards m
	m  map[string]shelved[V]
}

type shelved[V any] struct {
	v           V
	from, until time.Time
}

// over says that an entry has ended. One from the future was made by a clock that was set back since, and would last too
// long.
func (e shelved[V]) over(now time.Time) bool { return now.Before(e.from) || !now.Before(e.until) }

func newShelf[V any](limit int, now func() time.Time) *shelf[V] {
	return &shelf[V]{max: limit, now: now, m: map[string]shelved[V]{}}
}

func (s *shelf[V]) get(key string) (V, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.m[key]
	if ok && e.over(s.now()) {
		delete(s.m, key)
		e, ok = shelved[V]{}, false
	}
	return e.v, ok
}

func (s *shelf[V]) put(key string, v V, keep time.Duration) {
	if keep <= 0 {
		return
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.m) >= s.max {
		s.sweep(now)
	}
	s.m[key] = shelved[V]{v, now, now.Add(keep)}
}

func (s *shelf[V]) sweep(now time.Time) {
	for k, e := range s.m {
		if e.over(now) {
			delete(s.m, k)
		}
	}
	for k := range s.m {
		if len(s.m) < s.max {
			return
		}
		delete(s.m, k)
	}
}
