package posture

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/postseal/postseal/securemail"
)

// maxReasonText bounds an Override's Reason, in octets.
const maxReasonText = 200

// Override is what somebody set in place of what was learned.
type Override struct {
	// Tenant and Domain are whom it binds.
	Tenant string `json:"-"`
	Domain string `json:"-"`
	// Channel is the answer of Least while it holds. Mind that the zero value is the strictest, ChannelVerified; ChannelAny
	// makes the ratchet forget.
	Channel securemail.Channel `json:"-"`
	// Reason is required, at most 200 octets of printable text. Events show it: it must name no person.
	Reason string `json:"reason"`
	// Until is its end; zero: until it is cleared.
	Until time.Time `json:"until,omitzero"`
	// By and At are set by SetOverride: the Actor's ID, and when.
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// SetOverride binds o.Tenant and o.Domain to o.Channel, above or below what was learned, in place of an override that is
// there, and mends a stored row that is damaged. The event "posture.override-set" is recorded in the same transaction, with domain, level, end and reason. It asks for "write.posture".
func (m *Monitor) SetOverride(ctx context.Context, o Override) error {
	k, err := keyOf(o.Tenant, o.Domain)
	now := m.now()
	switch {
	case err != nil:
		return err
	case o.Channel > securemail.ChannelAny:
		return errors.New("posture: override: unknown channel")
	case !o.Until.IsZero() && !now.Before(o.Until):
		return errors.New("posture: override: it has ended already")
	}
	if err := checkReason(o.Reason); err != nil {
		return err
	}
	detail := map[string]string{"domain": k.domain, "level": string(LevelOf(o.Channel)), "reason": o.Reason}
	if !o.Until.IsZero() {
		detail["until"] = o.Until.UTC().Format(time.RFC3339)
	}
	return m.override(ctx, k, "override-set", detail, func(by string) []any {
		return []any{int(o.Channel), o.Reason, by, micros(now), micros(o.Until)}
	})
}

// ClearOverride takes an override away, so that what was learned counts again; where there is none it changes and records
// nothing. It asks for "write.posture" and records "posture.override-cleared".
func (m *Monitor) ClearOverride(ctx context.Context, tenant, domain, reason string) error {
	k, err := keyOf(tenant, domain)
	if err != nil {
		return err
	}
	if err := checkReason(reason); err != nil {
		return err
	}
	return m.override(ctx, k, "override-cleared", map[string]string{"domain": k.domain, "reason": reason}, func(string) []any {
		return []any{-1, "", "", 0, 0}
	})
}

func checkReason(s string) error {
	if strings.TrimSpace(s) == "" || len(s) > maxReasonText || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("posture: override: a reason is required, at most 200 octets of printable text")
	}
	return nil
}

// override writes the columns that values gives for the Actor, and records it.
func (m *Monitor) override(ctx context.Context, k key, kind string, detail map[string]string, values func(by string) []any) error {
	by, err := m.may(ctx, actWrite, k)
	if err != nil {
		return err
	}
	err = m.d.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := m.exec(ctx, tx, "INSERT INTO posture_ratchet (tenant, domain) VALUES (?, ?) ON CONFLICT (tenant, domain) DO NOTHING", k.tenant, k.domain)
		if err != nil {
			return err
		}
		_, had, err := scanRatchet(m.row(ctx, tx, readRatchet, k.tenant, k.domain))
		if errors.Is(err, errDamaged) {
			had = new(Override) // what was learned is lost, and the override stands in its place
			_, err = m.exec(ctx, tx, "UPDATE posture_ratchet SET learned='' WHERE tenant=? AND domain=?", k.tenant, k.domain)
		}
		if err != nil {
			return err
		}
		args := append(values(by.ID), k.tenant, k.domain)
		if had == nil && args[0] == -1 {
			return nil
		}
		if _, err = m.exec(ctx, tx, "UPDATE posture_ratchet SET override=?, reason=?, actor=?, set_at=?, until=? WHERE tenant=? AND domain=?", args...); err != nil {
			return err
		}
		return m.tell(ctx, tx, event(kind, by, m.now(), detail))
	})
	m.memo.forget(k)
	if err != nil {
		return fmt.Errorf("posture: override: %w", err)
	}
	return nil
}

// Held is what the ratchet remembers of a domain.
type Held struct {
	// Least is what binds now: the override while it holds, else what was learned.
	Least Level `json:"least"`
	// Learned is what deliveries proved, and Until when it ends, zero where nothing is.
	Learned Level     `json:"learned"`
	Until   time.Time `json:"until,omitzero"`
	// Override is in force; nil: none.
	Override *Override `json:"override,omitempty"`
}

// Ratchet explains what Least answers. It asks for "read.posture".
func (m *Monitor) Ratchet(ctx context.Context, tenant, domain string) (Held, error) {
	k, err := keyOf(tenant, domain)
	if err != nil {
		return Held{}, err
	}
	if _, err := m.may(ctx, actRead, k); err != nil {
		return Held{}, err
	}
	l, o, err := scanRatchet(m.raw.QueryRowContext(ctx, m.d.Rebind(readRatchet), k.tenant, k.domain))
	if err != nil {
		return Held{}, fmt.Errorf("posture: ratchet: %w", err)
	}
	return explain(k, l, o, m.now()), nil
}

func explain(k key, l *learned, o *Override, now time.Time) Held {
	h := heldOf(l, o)
	c := h.learned(now)
	out := Held{Least: LevelOf(h.least(now)), Learned: LevelOf(c)}
	if c < securemail.ChannelAny {
		out.Until = h.ends[c]
	}
	if o.holds(now) {
		o.Tenant, o.Domain = k.tenant, k.domain
		out.Override = o
	}
	return out
}
