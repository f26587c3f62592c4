package throttle

import "time"

// state is what is known of one key. Times are those of Throttle.clock; the Throttle's mutex guards all of it.
type state struct {
	key     string
	limit   float64
	full    bool // all places were taken since the limit rose
	active  int
	waiting int
	epoch   uint32 // goes up when the limit goes down
	closes  uint32 // goes up at each Stop
	stops   uint8  // Stops since the last Good

	closed bool          // by a Stop
	until  time.Duration // until then
	tokens float64       // at the time filled
	filled time.Duration

	first, last *waiter

	resting      bool // in the queue of idle keys
	used         time.Duration
	older, newer *state
}

// waiter is a caller in the queue of a key.
type waiter struct {
	wake       chan struct{} // holds one token
	end        time.Duration
	queued     bool
	prev, next *waiter
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (s *state) allowed() int { return max(1, int(s.limit)) }
func (s *state) room() bool   { return s.active < s.allowed() }

// signal wakes the first waiter.
func (s *state) signal() {
	if s.first != nil {
		s.first.signal()
	}
}

// pause is how long s is closed by a Stop. The clock may stand before the Throttle's beginning, so that no time means never.
func (s *state) pause(now time.Duration) time.Duration {
	if !s.closed {
		return 0
	}
	s.closed = s.until > now
	return max(0, s.until-now)
}

func (s *state) push(w *waiter) {
	w.queued = true
	w.prev = s.last
	if s.last == nil {
		s.first = w
	} else {
		s.last.next = w
	}
	s.last = w
	s.waiting++
}

func (s *state) remove(w *waiter) {
	if w.prev == nil {
		s.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		s.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
	s.waiting--
}

// judge changes the limit by what the caller of from found. It counts only if that caller came in after the last change of
// the kind.
func (s *state) judge(v Verdict, from *lease, now time.Duration) {
	l := &from.t.limits
	switch {
	case v == Good && from.epoch == s.epoch:
		s.stops = 0
		if !s.full { // a limit that nobody reaches is not proved
			return
		}
		was := s.allowed()
		s.limit = min(float64(l.Max), s.limit+1/s.limit)
		s.full = s.allowed() == was
	case v == Slow && from.epoch == s.epoch:
		s.limit = max(1, s.limit/2)
		s.epoch++
	case v == Stop && from.closes == s.closes:
		s.limit = 1
		s.epoch++
		s.closes++
		pause := l.MaxPause
		if l.Pause < l.MaxPause>>s.stops {
			pause = l.Pause << s.stops
		}
		s.closed, s.until = true, now+pause
		s.stops = min(s.stops+1, 62)
	}
}

// state finds or makes what is known of key. The caller holds mu.
func (t *Throttle) state(key string, now time.Duration) *state {
	s := t.keys[key]
	if s == nil {
		s = &state{key: key, limit: float64(t.limits.Connections), tokens: float64(t.limits.Burst), filled: now}
		t.keys[key] = s
	}
	return s
}

// rest notes that s has become idle, if it has. The caller holds mu.
func (t *Throttle) rest(s *state, now time.Duration) {
	if s.active == 0 && s.first == nil {
		s.used = now
		t.idle.push(s)
	}
}

// forget drops keys that were idle for long, a few at a time; one that is still closed, or would get more by being
// forgotten than its rate allows, stays for another round. The caller holds mu.
func (t *Throttle) forget(now time.Duration) {
	for range 4 {
		s := t.idle.oldest
		if s == nil || now-s.used < t.limits.Forget {
			return
		}
		t.idle.remove(s)
		if t.gate(s, now); s.pause(now) > 0 || (t.limits.Rate > 0 && s.tokens < float64(t.limits.Burst)) {
			s.used = now
			t.idle.push(s)
			continue
		}
		delete(t.keys, s.key)
	}
}

// queue holds idle keys, the one that is idle longest first.
type queue struct{ oldest, newest *state }

func (q *queue) push(s *state) {
	q.remove(s)
	s.resting = true
	s.older = q.newest
	if q.newest == nil {
		q.oldest = s
	} else {
		q.newest.newer = s
	}
	q.newest = s
}

func (q *queue) remove(s *state) {
	if !s.resting {
		return
	}
	if s.older == nil {
		q.oldest = s.newer
	} else {
		s.older.newer = s.newer
	}
	if s.newer == nil {
		q.newest = s.older
	} else {
		s.newer.older = s.older
	}
	s.older, s.newer, s.resting = nil, nil, false
}
