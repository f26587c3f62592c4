package posture

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
)

// Entry is one entry of a domain's history: what Checks looks from First to Last found alike.
type Entry struct {
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Checks int       `json:"checks"`
	Found  *Snapshot `json:"found"`
}

// Check looks at the domain now and stores what it found, with the alerts that follow from it, in one transaction. A look
// that finds nothing out is stored too; an error says that nothing was stored. The domain need not be watched. It asks for
// "read.posture".
func (m *Monitor) Check(ctx context.Context, tenant, domain string) (*Entry, error) {
	k, err := keyOf(tenant, domain)
	if err != nil {
		return nil, err
	}
	if _, err := m.may(ctx, actRead, k); err != nil {
		return nil, err
	}
	return m.visit(ctx, k, m.observe)
}

var errNoObserver = errors.New("posture: no observer yet")

// visit looks and stores.
func (m *Monitor) visit(ctx context.Context, k key, look func(context.Context, transport.Observer, key) *Snapshot) (*Entry, error) {
	o := m.look.Load().observer
	if o == nil {
		return nil, errNoObserver
	}
	s := look(ctx, o, k)
	if err := ctx.Err(); err != nil {
		return nil, err // nothing is known of the domain by that
	}
	return m.store(ctx, k, s)
}

// observe looks, within Timeout. Whatever goes wrong is "not known".
func (m *Monitor) observe(ctx context.Context, by transport.Observer, k key) *Snapshot {
	bounded, cancel := context.WithTimeout(ctx, m.o.Timeout)
	defer cancel()
	s := &Snapshot{Level: LevelUnknown, STS: STS{State: "unknown"}}
	rpt := LookupTLSRPT(bounded, m.o.Resolver, k.domain)
	o, err := by.Observe(bounded, k.tenant, k.domain)
	if err == nil && o != nil {
		s = NewSnapshot(o, rpt)
	} else {
		s.TLSRPT = rpt
		if ctx.Err() == nil {
			m.o.Logger.Warn("posture: a look found nothing out", "domain", k.domain, "err", err)
		}
	}
	s.Domain, s.Time = k.domain, m.now().Truncate(time.Second)
	return s
}

// domainRow is one row of posture_domain.
type domainRow struct {
	key
	watched, seen, due, checked, changed, seq int64
	state                                     string
}

const readDomain = "SELECT watched, seen, due, checked, changed, seq, state FROM posture_domain WHERE tenant=? AND domain=?"

func (r *domainRow) scan(row *sql.Row) error {
	return row.Scan(&r.watched, &r.seen, &r.due, &r.checked, &r.changed, &r.seq, &r.state)
}

func (r *domainRow) standing() (*standing, error) {
	st := new(standing)
	if r.state == "" {
		return st, nil
	}
	if err := json.Unmarshal([]byte(r.state), st); err != nil {
		return nil, errDamaged
	}
	return st, nil
}

// store writes s, what is known now, and the alerts.
func (m *Monitor) store(ctx context.Context, k key, s *Snapshot) (*Entry, error) {
	digest, err := s.digest()
	if err != nil {
		return nil, fmt.Errorf("posture: %w", err)
	}
	var out *Entry
	err = m.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		r, err := m.lockDomain(ctx, tx, k)
		if err != nil {
			return err
		}
		st, err := r.standing()
		if err != nil {
			return err
		}
		held, err := m.held(ctx, tx, k)
		if err != nil {
			return err
		}
		now := m.now()
		alerts := st.take(s, verdict{now, held.least(now), m.o.CertWarning})
		if out, err = m.note(ctx, tx, r, digest, s); err != nil {
			return err
		}
		state, err := json.Marshal(st)
		if err != nil {
			return err
		}
		if r.due > 0 {
			r.due = micros(now.Add(m.next(st.Failures > 0)))
		}
		_, err = m.exec(ctx, tx, `UPDATE posture_domain SET due=?, lease_owner='', lease_until=0, checked=?, changed=?, seq=?, state=?
			WHERE tenant=? AND domain=?`, r.due, micros(now), r.changed, r.seq, string(state), k.tenant, k.domain)
		if err != nil {
			return err
		}
		return m.tell(ctx, tx, events(k, now, alerts)...)
	})
	if err != nil {
		return nil, fmt.Errorf("posture: store: %w", err)
	}
	return out, nil
}

// events makes them of alerts.
func events(k key, now time.Time, as []alert) []securemail.Event {
	var out []securemail.Event
	for _, a := range as {
		a.detail["domain"] = k.domain
		out = append(out, event(a.kind, part(k.tenant), now, a.detail))
	}
	return out
}

// lockDomain gives the domain's row, made where it is not there.
func (m *Monitor) lockDomain(ctx context.Context, tx *sql.Tx, k key) (*domainRow, error) {
	_, err := m.exec(ctx, tx, "INSERT INTO posture_domain (tenant, domain) VALUES (?, ?) ON CONFLICT (tenant, domain) DO NOTHING", k.tenant, k.domain)
	if err != nil {
		return nil, err
	}
	r := &domainRow{key: k}
	return r, r.scan(m.row(ctx, tx, readDomain, k.tenant, k.domain))
}

// note makes s an entry of history, or confirms the last one where it found the same.
func (m *Monitor) note(ctx context.Context, tx *sql.Tx, r *domainRow, digest string, s *Snapshot) (*Entry, error) {
	now := m.now()
	var last string
	err := m.row(ctx, tx, "SELECT digest FROM posture_check WHERE tenant=? AND domain=? AND seq=?", r.tenant, r.domain, r.seq).Scan(&last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	if err == nil && last == digest {
		_, err = m.exec(ctx, tx, "UPDATE posture_check SET last=?, checks=checks+1 WHERE tenant=? AND domain=? AND seq=?",
			micros(now), r.tenant, r.domain, r.seq)
		if err != nil {
			return nil, err
		}
		return m.entry(ctx, tx, r)
	}
	found, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	r.seq++
	r.changed = micros(now)
	_, err = m.exec(ctx, tx, "INSERT INTO posture_check (tenant, domain, seq, first, last, checks, digest, found) VALUES (?,?,?,?,?,1,?,?)",
		r.tenant, r.domain, r.seq, micros(now), micros(now), digest, string(found))
	return &Entry{now, now, 1, s}, err
}

const readEntry = "SELECT first, last, checks, found FROM posture_check WHERE tenant=? AND domain=?"

func (m *Monitor) entry(ctx context.Context, tx *sql.Tx, r *domainRow) (*Entry, error) {
	return scanEntry(m.row(ctx, tx, readEntry+" AND seq=?", r.tenant, r.domain, r.seq))
}

func scanEntry(row interface{ Scan(...any) error }) (*Entry, error) {
	var first, last int64
	var found string
	e := &Entry{Found: new(Snapshot)}
	if err := row.Scan(&first, &last, &e.Checks, &found); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(found), e.Found); err != nil {
		return nil, errDamaged
	}
	e.First, e.Last = fromMicros(first), fromMicros(last)
	return e, nil
}

// maxHistory bounds one answer of History.
const maxHistory = 1000

// History gives the newest entries of the domain, at most max and at most 1,000, newest first. It asks for "read.posture".
func (m *Monitor) History(ctx context.Context, tenant, domain string, max int) ([]Entry, error) {
	k, err := keyOf(tenant, domain)
	if err != nil {
		return nil, err
	}
	if _, err := m.may(ctx, actRead, k); err != nil {
		return nil, err
	}
	if max <= 0 {
		return nil, nil
	}
	rows, err := m.raw.QueryContext(ctx, m.d.Rebind(readEntry+" ORDER BY seq DESC LIMIT ?"), k.tenant, k.domain, min(max, maxHistory))
	if err != nil {
		return nil, fmt.Errorf("posture: history: %w", err)
	}
	defer rows.Close()
	var out []Entry
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return nil, fmt.Errorf("posture: history: %w", err)
		}
		out = append(out, *e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("posture: history: %w", err)
	}
	return out, nil
}
