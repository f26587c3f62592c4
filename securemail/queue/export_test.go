package queue

import "context"

// Sweep is what Run does once an hour.
func (q *Queue) Sweep(ctx context.Context) { q.sweep(ctx) }

// DefaultLease is that of Options.
const DefaultLease = defaultLease
