package transport

import (
	"context"
	"database/sql"
	"time"
)

// Acquire takes a slot as a Limiter does.
func (s *SharedLimits) Acquire(ctx context.Context, domain string, most int, rate float64, burst int, wait time.Duration) (func(), error) {
	return s.acquire(ctx, domain, sharedLimit{most, rate, burst}, wait)
}

// Beat beats once, as Run does from time to time.
func (s *SharedLimits) Beat(ctx context.Context, last bool) error { return s.beat(ctx, last) }

// SetDatabaseClock replaces the database's clock.
func (s *SharedLimits) SetDatabaseClock(now func() int64) {
	s.clock = func(context.Context, *sql.Tx) (int64, error) { return now(), nil }
}

// Domains is how many domains the node knows.
func (s *SharedLimits) Domains() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.domains)
}

// Unreachable is the error of a database that is down.
type Unreachable = unreachable

// Valid says whether what the node holds may be used.
func (s *SharedLimits) Valid() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.valid(s.now())
}
