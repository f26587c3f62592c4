package posture

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postseal/postseal/securemail"
)

// Emit implements [securemail.Sink]: a delivery's receipt is evidence for the ratchet of its tenant and domain. The same
// event, or another of the same delivery, again changes nothing.
func (m *Monitor) Emit(ctx context.Context, e securemail.Event) error { return m.EmitAll(ctx, e) }

// EmitAll is Emit for many events, in one transaction.
func (m *Monitor) EmitAll(ctx context.Context, es ...securemail.Event) error {
	found, ks := m.gather(es)
	if len(ks) == 0 {
		return nil
	}
	err := m.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, k := range ks {
			if m.o.AutoWatch && !m.seen.has(k, m.now()) {
				if err := m.mailed(ctx, tx, k); err != nil {
					return err
				}
			}
			if err := m.learn(ctx, tx, k, found[k]); err != nil {
				return err
			}
		}
		return nil
	})
	for _, k := range ks {
		m.memo.forget(k) // whatever the outcome is
		if err == nil {
			m.seen.add(k, m.now())
		}
	}
	if err != nil {
		return fmt.Errorf("posture: learn: %w", err)
	}
	return nil
}

// gather reads the events: the evidence of each domain that mail went to, and the domains in a fixed order, so that two
// processes lock rows in the same one.
func (m *Monitor) gather(es []securemail.Event) (map[key][]evidence, []key) {
	found := map[key][]evidence{}
	for i := range es {
		e := &es[i]
		k := key{e.By.Tenant, e.Recipient.Address.Domain()}
		if k.domain == "" || e.Receipt == nil && e.Failure == "" || e.Actor.Tenant != e.By.Tenant {
			continue
		}
		ev, ok := evidenceOf(e.Receipt)
		switch {
		case ok:
			found[k] = append(found[k], ev)
		case m.o.AutoWatch:
			found[k] = append([]evidence{}, found[k]...) // none of its own, but mail goes there
		}
	}
	var ks []key
	for k := range found {
		ks = append(ks, k)
	}
	slices.SortFunc(ks, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.domain, b.domain))
	})
	return found, ks
}

// learn adds evs to what is known, and tells where the ratchet has risen by them.
func (m *Monitor) learn(ctx context.Context, tx *sql.Tx, k key, evs []evidence) error {
	if len(evs) == 0 {
		return nil
	}
	_, err := m.exec(ctx, tx, "INSERT INTO posture_ratchet (tenant, domain) VALUES (?, ?) ON CONFLICT (tenant, domain) DO NOTHING", k.tenant, k.domain)
	if err != nil {
		return err
	}
	l, o, err := scanRatchet(m.row(ctx, tx, readRatchet, k.tenant, k.domain))
	if errors.Is(err, errDamaged) {
		// Least says so for this domain until an override mends it; the others' evidence must not wait for that.
		m.o.Logger.Error("posture: a stored ratchet is damaged", "domain", k.domain)
		return nil
	}
	if err != nil {
		return err
	}
	now, before := m.now(), heldOf(l, o)
	for _, e := range evs {
		l.add(e, now)
	}
	after := heldOf(l, o)
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	last := time.Unix(l[securemail.ChannelEncrypted].Last, 0) // all evidence counts for the weakest
	_, err = m.exec(ctx, tx, "UPDATE posture_ratchet SET learned=?, last=? WHERE tenant=? AND domain=?", string(b), micros(last), k.tenant, k.domain)
	if err != nil {
		return err
	}
	if c := after.learned(now); c < before.learned(now) {
		return m.tell(ctx, tx, event("ratchet-raised", part(k.tenant), now, map[string]string{
			"domain": k.domain, "level": string(LevelOf(c)), "until": after.ends[c].Format(time.RFC3339),
		}))
	}
	return nil
}

const readRatchet = "SELECT learned, override, reason, actor, set_at, until FROM posture_ratchet WHERE tenant=? AND domain=?"

var errDamaged = errors.New("posture: what is stored of a domain is damaged")

// scanRatchet reads a row of posture_ratchet; none is nothing learned.
func scanRatchet(row interface{ Scan(...any) error }) (*learned, *Override, error) {
	var (
		text, reason, actor string
		channel             int
		at, until           int64
	)
	l := new(learned)
	err := row.Scan(&text, &channel, &reason, &actor, &at, &until)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return l, nil, nil
	case err != nil:
		return nil, nil, err
	}
	if text != "" {
		if err := json.Unmarshal([]byte(text), l); err != nil {
			return nil, nil, errDamaged
		}
	}
	if channel < 0 {
		return l, nil, nil
	}
	if channel > int(securemail.ChannelAny) {
		return nil, nil, errDamaged
	}
	return l, &Override{Channel: securemail.Channel(channel), Reason: reason, By: actor, At: fromMicros(at), Until: fromMicros(until)}, nil
}

// held reads what binds k, inside a transaction.
func (m *Monitor) held(ctx context.Context, tx *sql.Tx, k key) (held, error) {
	l, o, err := scanRatchet(m.d.Prepared(tx).QueryRowContext(ctx, m.d.Rebind(readRatchet), k.tenant, k.domain))
	if err != nil {
		return held{}, err
	}
	return heldOf(l, o), nil
}
