package posture

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
)

const (
	passEvery  = time.Minute
	purgeEvery = time.Hour
)

// Run looks at the domains that are due, a pass a minute, until ctx ends; it then stops the looks in flight and returns nil.
// Several processes may Run on one database: each domain is leased by one of them. A pass that fails is logged and made
// again.
func (m *Monitor) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if _, err := m.Refresh(ctx); err != nil && ctx.Err() == nil {
			m.o.Logger.Error("posture: a pass failed; trying again", "err", err)
		}
		t := time.NewTimer(passEvery/2 + m.spread(passEvery))
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// Refresh makes one pass: it looks at up to PerPass domains that are due, removes what is older than Retention and AutoKeep
// say, and tells how many looks it stored. It is for timers, commands and tests.
func (m *Monitor) Refresh(ctx context.Context) (int, error) {
	if m.look.Load().observer == nil {
		return 0, errNoObserver
	}
	ks, err := m.claim(ctx)
	if err != nil {
		return 0, fmt.Errorf("posture: claim: %w", err)
	}
	var (
		mu     sync.Mutex // guards what follows
		n      int
		errs   []error
		undone []key
		wg     sync.WaitGroup
	)
	work := make(chan key, len(ks))
	for _, k := range ks {
		work <- k
	}
	close(work)
	for range min(m.o.Concurrency, len(ks)) {
		wg.Go(func() {
			for k := range work {
				_, err := m.visit(ctx, k, m.share)
				mu.Lock()
				if err == nil {
					n++
				} else {
					errs, undone = append(errs, err), append(undone, k)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(undone) > 0 {
		errs = append(errs, m.giveBack(ctx, undone))
	}
	if ctx.Err() == nil {
		errs = append(errs, m.purge(ctx))
	}
	return n, errors.Join(errs...)
}

// lease is how long a pass may take.
func (m *Monitor) lease() time.Duration {
	rounds := (m.o.PerPass + m.o.Concurrency - 1) / m.o.Concurrency
	return time.Duration(rounds+1) * m.o.Timeout
}

// claim leases domains that are due. A due date or a lease too far ahead was written by a clock that was wrong.
func (m *Monitor) claim(ctx context.Context) ([]key, error) {
	q := `SELECT tenant, domain FROM posture_domain WHERE due>0 AND (due<=? OR due>?) AND (lease_until<=? OR lease_until>?)
		ORDER BY due, tenant, domain LIMIT ?`
	if m.d.Dialect == sqldb.Postgres {
		q += " FOR UPDATE SKIP LOCKED"
	}
	var ks []key
	err := m.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		now := m.now()
		rows, err := m.d.Prepared(tx).QueryContext(ctx, m.d.Rebind(q), micros(now), micros(now.Add(2*m.o.Interval+wrongClock)),
			micros(now), micros(now.Add(m.lease()+wrongClock)), m.o.PerPass)
		if err != nil {
			return err
		}
		if ks, err = scanKeys(rows); err != nil {
			return err
		}
		for _, k := range ks {
			_, err := m.exec(ctx, tx, "UPDATE posture_domain SET lease_owner=?, lease_until=? WHERE tenant=? AND domain=?",
				m.me, micros(now.Add(m.lease())), k.tenant, k.domain)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return ks, err
}

func scanKeys(rows *sql.Rows) ([]key, error) {
	defer rows.Close()
	var ks []key
	for rows.Next() {
		var k key
		if err := rows.Scan(&k.tenant, &k.domain); err != nil {
			return nil, err
		}
		ks = append(ks, k)
	}
	return ks, rows.Err()
}

// giveBack ends leases of domains that were not looked at because ctx has ended, so that another process need not wait. A
// look that could not be stored is made again later, so that it stands in nobody's way.
func (m *Monitor) giveBack(ctx context.Context, ks []key) error {
	query, args := "UPDATE posture_domain SET lease_owner='', lease_until=0", []any{}
	if ctx.Err() == nil {
		query, args = query+", due=?", []any{micros(m.now().Add(m.next(true)))}
	}
	query += " WHERE tenant=? AND domain=? AND lease_owner=?"
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return m.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, k := range ks {
			if _, err := m.exec(ctx, tx, query, append(slices.Clone(args), k.tenant, k.domain, m.me)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// The statements of purge. What is older than the first argument goes.
const (
	forgetQuiet   = "UPDATE posture_domain SET seen=0, due=CASE WHEN watched=1 THEN due ELSE 0 END WHERE seen>0 AND seen<?"
	forgetChecks  = "DELETE FROM posture_check WHERE last<? AND NOT EXISTS (" + itsDomain + " AND d.seq=posture_check.seq AND d.due>0)"
	itsDomain     = "SELECT 1 FROM posture_domain d WHERE d.tenant=posture_check.tenant AND d.domain=posture_check.domain"
	forgetDomains = "DELETE FROM posture_domain WHERE due=0 AND checked<? AND NOT EXISTS (" + itsCheck + ")"
	itsCheck      = "SELECT 1 FROM posture_check c WHERE c.tenant=posture_domain.tenant AND c.domain=posture_domain.domain"
	forgetRatchet = "DELETE FROM posture_ratchet WHERE override=-1 AND last<?"
)

// purge removes, once an hour, history that is too old, but for the last entry of what is watched, stops watching where no
// mail goes any more, and drops what is empty then. A ratchet is kept as long as history, far beyond its end.
func (m *Monitor) purge(ctx context.Context) error {
	now := m.now()
	if last := m.purged.Load(); last != 0 && now.Sub(fromMicros(last)).Abs() < purgeEvery {
		return nil
	}
	old, quiet := micros(now.Add(-m.o.Retention)), micros(now.Add(-m.o.AutoKeep))
	ratchets := micros(now.Add(-max(m.o.Retention, 2*hold)))
	for _, s := range []struct {
		query  string
		before int64
	}{{forgetQuiet, quiet}, {forgetChecks, old}, {forgetDomains, old}, {forgetRatchet, ratchets}} {
		err := m.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := m.exec(ctx, tx, s.query, s.before)
			return err
		})
		if err != nil {
			return fmt.Errorf("posture: purge: %w", err)
		}
	}
	m.purged.Store(micros(now))
	return nil
}
