package posture

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Watch enters the domain: Run looks at it soon, and then about once in Interval. One that is watched already stays so.
// It asks for "write.posture".
func (m *Monitor) Watch(ctx context.Context, tenant, domain string) error {
	return m.enter(ctx, tenant, domain, func(r *domainRow, now time.Time) {
		r.watched = 1
		if r.due == 0 {
			r.due = micros(now)
		}
	})
}

// Unwatch takes the domain out, also where it was watched because mail goes there; mail that goes there later enters it
// again. History stays for Retention; standing alerts are forgotten. It asks for "write.posture".
func (m *Monitor) Unwatch(ctx context.Context, tenant, domain string) error {
	return m.enter(ctx, tenant, domain, func(r *domainRow, _ time.Time) {
		r.watched, r.seen, r.due, r.state = 0, 0, 0, ""
	})
}

func (m *Monitor) enter(ctx context.Context, tenant, domain string, change func(*domainRow, time.Time)) error {
	k, err := keyOf(tenant, domain)
	if err != nil {
		return err
	}
	if _, err := m.may(ctx, actWrite, k); err != nil {
		return err
	}
	err = m.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		r, err := m.lockDomain(ctx, tx, k)
		if err != nil {
			return err
		}
		change(r, m.now())
		return m.writeWatch(ctx, tx, r)
	})
	if err != nil {
		return fmt.Errorf("posture: watch: %w", err)
	}
	m.seen.forget(k)
	return nil
}

func (m *Monitor) writeWatch(ctx context.Context, tx *sql.Tx, r *domainRow) error {
	_, err := m.exec(ctx, tx, "UPDATE posture_domain SET watched=?, seen=?, due=?, state=? WHERE tenant=? AND domain=?",
		r.watched, r.seen, r.due, r.state, r.tenant, r.domain)
	return err
}

// mailed notes that mail goes to the domain. A new one is entered within MaxAuto, and looked at within Jitter, so that bulk
// mail to many domains does not make many looks at once.
func (m *Monitor) mailed(ctx context.Context, tx *sql.Tx, k key) error {
	now := m.now()
	r := &domainRow{key: k}
	err := r.scan(m.row(ctx, tx, readDomain, k.tenant, k.domain))
	if errors.Is(err, sql.ErrNoRows) || err == nil && r.due == 0 {
		var n int
		err := m.d.Prepared(tx).QueryRowContext(ctx, m.d.Rebind("SELECT count(*) FROM posture_domain WHERE tenant=? AND seen>0"), k.tenant).Scan(&n)
		if err != nil || n >= m.o.MaxAuto {
			return err
		}
		if r, err = m.lockDomain(ctx, tx, k); err != nil {
			return err
		}
		if r.due == 0 {
			r.due = micros(now.Add(m.spread(m.o.Jitter)))
		}
	} else if err != nil {
		return err
	}
	r.seen = micros(now)
	return m.writeWatch(ctx, tx, r)
}

// spread is a random part of d.
func (m *Monitor) spread(d time.Duration) time.Duration {
	return time.Duration(m.o.Rand() * float64(d))
}

// next is the wait for the next look.
func (m *Monitor) next(failed bool) time.Duration {
	wait, jitter := m.o.Interval, m.o.Jitter
	if failed {
		wait, jitter = wait/12, jitter/12
	}
	return wait - jitter/2 + m.spread(jitter)
}
