package transport

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"time"

	"github.com/postseal/postseal/internal/sqldb"
)

const (
	limitBeat     = "UPDATE transport_limit_node SET beat=beat+1 WHERE node=?"
	limitRegister = "INSERT INTO transport_limit_node (node, beat) VALUES (?, 1)"
	limitNodes    = "SELECT node, beat FROM transport_limit_node ORDER BY node"
	limitBury     = "DELETE FROM transport_limit_node WHERE node=? AND beat=?"
	limitLeave    = "DELETE FROM transport_limit_node WHERE node=?"
	limitClear    = "DELETE FROM transport_limit_slot WHERE node=?"
	limitHungry   = `SELECT d.domain, d.hungry FROM transport_limit_slot s JOIN transport_limit_domain d ON d.domain=s.domain WHERE s.node=?`
	limitOthers   = "SELECT CAST(COALESCE(SUM(slots), 0) AS BIGINT) FROM transport_limit_slot WHERE domain=? AND node<>?"
	limitHold     = `INSERT INTO transport_limit_slot (domain, node, slots) VALUES (?, ?, ?)
		ON CONFLICT (domain, node) DO UPDATE SET slots=excluded.slots`
	limitDrop   = "DELETE FROM transport_limit_slot WHERE domain=? AND node=?"
	limitMake   = "INSERT INTO transport_limit_domain (domain, hungry, tokens, filled) VALUES (?, 0, ?, ?) ON CONFLICT (domain) DO NOTHING"
	limitSelect = "SELECT hungry, tokens, filled FROM transport_limit_domain WHERE domain=?"
	limitUpdate = "UPDATE transport_limit_domain SET hungry=?, tokens=?, filled=? WHERE domain=?"
	limitForget = `DELETE FROM transport_limit_domain WHERE filled<?
		AND NOT EXISTS (SELECT 1 FROM transport_limit_slot s WHERE s.domain=transport_limit_domain.domain)`

	micro       = 1_000_000
	forgetAfter = 24 * 3600 * micro // of domains, in microseconds
	forgetEach  = 100               // beats
)

// databaseTime is the database's clock, in microseconds since 1970.
func (s *SharedLimits) databaseTime(ctx context.Context, tx *sql.Tx) (now int64, err error) {
	q := "SELECT CAST((julianday('now')-2440587.5)*86400000000 AS INTEGER)"
	if s.db.Dialect == sqldb.Postgres {
		q = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp())*1000000 AS BIGINT)"
	}
	err = tx.QueryRowContext(ctx, q).Scan(&now)
	return now, err
}

// work is a transaction of this node. Its results are taken over once it is committed.
type work struct {
	s   *SharedLimits
	ctx context.Context
	tx  *sql.Tx

	node   string
	fenced bool // others took this node for dead
	nodes  int
	hungry map[string]int64
	dead   []string
	beats  map[string]int64
}

func (w *work) exec(q string, args ...any) (int64, error) {
	r, err := w.tx.ExecContext(w.ctx, w.s.db.Rebind(q), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// begin runs fn in a transaction that counts this node's beat up. Where the node is not registered, or was taken for dead, it
// registers anew, with what it has in use. The caller holds op.
func (s *SharedLimits) begin(ctx context.Context, fn func(w *work) error) (*work, error) {
	from := s.now()
	s.mu.Lock()
	node := s.node
	inUse := map[string]int{}
	for name, d := range s.domains {
		if d.active > 0 {
			inUse[name] = d.active
		}
	}
	s.mu.Unlock()
	var w *work
	err := s.db.Tx(ctx, func(ctx context.Context, tx *sql.Tx) error {
		w = &work{s: s, ctx: ctx, tx: tx, node: node, hungry: map[string]int64{}, beats: map[string]int64{}}
		if err := w.alive(inUse); err != nil {
			return err
		}
		return fn(w)
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node, s.from = w.node, from
	if w.fenced {
		for name, d := range s.domains {
			d.held, d.stored, d.tokens = inUse[name], inUse[name], 0
		}
	}
	return w, nil
}

// alive counts the beat up.
func (w *work) alive(inUse map[string]int) error {
	if w.node != "" {
		n, err := w.exec(limitBeat, w.node)
		if err != nil || n > 0 {
			return err
		}
	}
	w.node, w.fenced = newNode(), true
	if _, err := w.exec(limitRegister, w.node); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(inUse)) {
		if _, err := w.exec(limitHold, name, w.node, inUse[name]); err != nil {
			return err
		}
	}
	return nil
}

// refill asks the database for a slot, and for tokens, where this node lacks them. A retry of 0: look again; else nothing is to
// be had before.
func (s *SharedLimits) refill(ctx context.Context, domain string, d *sharedDomain, l sharedLimit) (retry time.Duration, err error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if s.due() {
		if err := s.beatNow(ctx, false); err != nil {
			return 0, err
		}
	}
	now := s.now()
	s.mu.Lock()
	if s.valid(now) && d.active < d.held && (l.rate == 0 || d.hasToken(now)) {
		s.mu.Unlock()
		return 0, nil // somebody refilled it meanwhile
	}
	has := grant{slots: d.held, active: d.active, waiting: d.waiting, nodes: s.nodes, share: l.max}
	if d.share > 0 {
		has.share = d.share
	}
	if d.hasToken(now) {
		has.tokens = d.tokens
	}
	s.mu.Unlock()
	var g grant
	_, err = s.begin(ctx, func(w *work) error {
		g = has
		if w.fenced {
			g.slots, g.tokens = g.active, 0
		}
		return w.grant(domain, l, &g)
	})
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.held, d.stored = g.slots, max(g.slots, g.active)
	if g.got > 0 {
		d.tokens, d.fresh = g.tokens+g.got, s.now()
	}
	d.refusals = g.refusals // its own is none that it must give back for
	return g.retry, nil
}

// grant is what a node has of a domain, and gets.
type grant struct {
	slots, active, waiting int
	nodes, share           int // that live; and what this one may have of the slots
	tokens, got            int
	refusals               int64 // that the domain's row has seen
	retry                  time.Duration
}

// grant gives g a slot more than it uses and a token, or some of each while there are plenty. The domain's row is locked
// first, so that no two nodes are given the same.
func (w *work) grant(domain string, l sharedLimit, g *grant) error {
	now, err := w.s.clock(w.ctx, w.tx)
	if err != nil {
		return err
	}
	if _, err := w.exec(limitMake, domain, int64(l.burst)*micro, now); err != nil {
		return err
	}
	q := limitSelect
	if w.s.db.Dialect == sqldb.Postgres {
		q += " FOR UPDATE"
	}
	var hungry, tokens, filled int64
	if err := w.tx.QueryRowContext(w.ctx, w.s.db.Rebind(q), domain).Scan(&hungry, &tokens, &filled); err != nil {
		return err
	}
	var others int
	if err := w.tx.QueryRowContext(w.ctx, w.s.db.Rebind(limitOthers), domain, w.node).Scan(&others); err != nil {
		return err
	}
	hungry += g.ask(l.max - others - g.active)
	if l.rate > 0 && g.retry == 0 {
		tokens = refilled(tokens, now-filled, l)
		g.take(&tokens, l)
		filled = now
	}
	if l.rate == 0 {
		filled = now
	}
	if _, err := w.exec(limitHold, domain, w.node, max(g.slots, g.active)); err != nil {
		return err
	}
	g.refusals = hungry
	_, err = w.exec(limitUpdate, hungry, tokens, filled, domain)
	return err
}

// ask takes slots of those that are free, where there is none left to use, and tells whether it was refused. Plenty is shared out
// in halves, so that the last ones go one by one.
func (g *grant) ask(free int) (refused int64) {
	if g.slots > g.active {
		return 0
	}
	mine := min(free, g.share-g.active)
	if mine <= 0 {
		g.retry = askAgain
		if free <= 0 {
			refused = 1
		}
		return refused
	}
	g.slots = g.active + min(mine, max(1, min(free/(2*g.nodes), g.waiting+free/8)))
	return 0
}

// refilled is what a bucket holds after so many microseconds. A clock that was set back fills nothing.
func refilled(tokens, elapsed int64, l sharedLimit) int64 {
	full := float64(l.burst) * micro
	return int64(min(full, float64(max(0, tokens))+max(0, float64(elapsed))*l.rate))
}

// take takes tokens for about a tenth of a second, one at least.
func (g *grant) take(tokens *int64, l sharedLimit) {
	if g.tokens > 0 {
		return
	}
	n := min(*tokens/micro, int64(max(1, l.rate/10)))
	if n == 0 {
		g.retry = time.Duration(float64(micro-*tokens)/l.rate)*time.Microsecond + time.Millisecond
		return
	}
	*tokens -= n * micro
	g.got = int(n)
}

// beat says that this node lives, gives back what it does not use, and takes for dead who did not beat for long. With last it
// gives back all that is not in use.
func (s *SharedLimits) beat(ctx context.Context, last bool) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return s.beatNow(ctx, last)
}

// due says whether a beat was forgotten, as where Run does not run. The caller holds op.
func (s *SharedLimits) due() bool {
	passed := s.now().Sub(s.beaten)
	return s.node != "" && (passed < 0 || passed >= s.lease/2)
}

// beatNow is beat by one who holds op.
func (s *SharedLimits) beatNow(ctx context.Context, last bool) error {
	changed, busy := s.shrink(last)
	if s.node == "" {
		return nil // nothing was ever asked for
	}
	s.beats++
	s.beaten = s.now()
	w, err := s.begin(ctx, func(w *work) error {
		if !w.fenced {
			if err := w.store(changed); err != nil {
				return err
			}
		}
		if err := w.look(); err != nil {
			return err
		}
		if last && !busy {
			return w.leave()
		}
		if s.beats%forgetEach == 0 {
			return w.forget()
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.learn(w, changed)
	if last && !busy {
		s.mu.Lock()
		s.node = ""
		s.mu.Unlock()
	}
	return nil
}

// shrink lowers what may be used to what was used since the last beat, and says what the database must be told.
func (s *SharedLimits) shrink(last bool) (changed map[string]int, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = map[string]int{}
	for name, d := range s.domains {
		d.held = min(d.held, d.peak)
		if last {
			d.held = 0
		}
		d.peak = d.active
		busy = busy || d.active > 0
		if n := max(d.held, d.active); n != d.stored {
			changed[name] = n
		}
	}
	return changed, busy
}

func (w *work) store(changed map[string]int) error {
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		q, args := limitHold, []any{name, w.node, changed[name]}
		if changed[name] == 0 {
			q, args = limitDrop, args[:2]
		}
		if _, err := w.exec(q, args...); err != nil {
			return err
		}
	}
	return nil
}

// look reads who lives and who is refused, and buries who is dead.
func (w *work) look() error {
	if err := w.pairs(limitNodes, w.beats); err != nil {
		return err
	}
	// Who lived longer than a lease without a beat can't use anything any more; a quarter more is for clocks that don't run alike.
	patience := w.s.lease + w.s.lease/4
	now := w.s.now()
	for _, node := range slices.Sorted(maps.Keys(w.beats)) {
		seen, ok := w.s.observed[node]
		if node == w.node || !ok || seen.n != w.beats[node] || now.Sub(seen.since) < patience {
			continue
		}
		n, err := w.exec(limitBury, node, seen.n)
		if err != nil {
			return err
		}
		if n == 0 {
			continue // it did beat
		}
		if _, err := w.exec(limitClear, node); err != nil {
			return err
		}
		w.dead = append(w.dead, node)
	}
	w.nodes = len(w.beats) - len(w.dead)
	return w.pairs(limitHungry, w.hungry, w.node)
}

// pairs reads names and numbers.
func (w *work) pairs(q string, into map[string]int64, args ...any) error {
	rows, err := w.tx.QueryContext(w.ctx, w.s.db.Rebind(q), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return err
		}
		into[name] = n
	}
	return rows.Err()
}

func (w *work) leave() error {
	if _, err := w.exec(limitClear, w.node); err != nil {
		return err
	}
	_, err := w.exec(limitLeave, w.node)
	return err
}

// forget drops domains that had no mail for a day.
func (w *work) forget() error {
	now, err := w.s.clock(w.ctx, w.tx)
	if err != nil {
		return err
	}
	_, err = w.exec(limitForget, now-forgetAfter)
	return err
}

// learn takes over what a beat found. The caller holds op.
func (s *SharedLimits) learn(w *work, changed map[string]int) {
	now := s.now()
	seen := map[string]beat{}
	for node, n := range w.beats {
		b, ok := s.observed[node]
		if !ok || b.n != n {
			b = beat{n, now}
		}
		if !slices.Contains(w.dead, node) {
			seen[node] = b
		}
	}
	s.observed = seen
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes = max(1, w.nodes)
	for name, d := range s.domains {
		if n, ok := changed[name]; ok && !w.fenced {
			d.stored = n
		}
		if n, ok := w.hungry[name]; ok {
			d.share = 0
			if n > d.refusals {
				d.share = max(1, d.limit.max/s.nodes)
				d.held = min(d.held, d.share)
			}
			d.refusals = n
		}
		if d.held == 0 && d.stored == 0 && d.active == 0 && d.waiting == 0 {
			delete(s.domains, name)
		}
	}
}
