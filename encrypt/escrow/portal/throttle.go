package portal

import (
	"crypto/rand"
	"errors"
	"time"
)

const (
	tryWindow  = 10 * time.Minute
	longWindow = 30 * 24 * time.Hour

	perSession = 5   // wrong tries of one session at one message in tryWindow
	perMessage = 20  // of all sessions
	perLong    = 100 // of all sessions in longWindow, so that a short access code can't be guessed in weeks
)

// limit is at most n hits on bucket in any window of that length.
type limit struct {
	bucket []byte
	n      int64
	window time.Duration
}

// reserve counts one hit against all of ls, or none where one is full. It is called before the work, so that a hundred
// guesses at once are no way around; keep is how long the hits are kept. The ids take them back.
func (v *visit) reserve(keep time.Duration, ls ...limit) (ids []string, ok bool, err error) {
	err = v.p.store.tx(v.r.Context(), "count", func(x execer) error {
		ids = ids[:0]
		for _, l := range ls {
			id, err := x.hit(l, v.now, keep)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return nil
	})
	if errors.Is(err, errNo) {
		return nil, false, nil
	}
	return ids, err == nil, err
}

func (x execer) hit(l limit, now time.Time, keep time.Duration) (string, error) {
	// The bucket's row is the lock: PostgreSQL would let two transactions count side by side.
	_, err := x.run(`INSERT INTO portal_bucket (bucket, touched) VALUES (?, ?)
		ON CONFLICT (bucket) DO UPDATE SET touched=excluded.touched`, l.bucket, now.UnixMicro())
	if err != nil {
		return "", err
	}
	n, err := x.count("SELECT COUNT(*) FROM portal_hit WHERE bucket=? AND made>?", l.bucket, now.Add(-l.window).UnixMicro())
	if err != nil {
		return "", err
	}
	if n >= l.n {
		return "", errNo
	}
	id := rand.Text()
	_, err = x.run("INSERT INTO portal_hit (id, bucket, made, keep) VALUES (?, ?, ?, ?)",
		id, l.bucket, now.UnixMicro(), now.Add(min(l.window, keep)).UnixMicro())
	return id, err
}

// release takes hits back.
func (v *visit) release(ids []string) error {
	return v.p.store.tx(v.r.Context(), "uncount", func(x execer) error {
		for _, id := range ids {
			if _, err := x.run("DELETE FROM portal_hit WHERE id=?", id); err != nil {
				return err
			}
		}
		return nil
	})
}

// tryLimits are those of one try at a way of proof. A code that nobody waits for counts against the session alone, so
// that strangers can't use up the recipient's tries. A mailed code has no limit over weeks: three an hour with five tries
// each find one of 10^8 in a month with 1 chance in 10,000, and the limit would let who has the link close this way.
func (v *visit) tryLimits(way string, s *session) []limit {
	p, hash := v.p.e.Pseudonym, string(v.loc.Hash())
	mine := limit{p("try", way, hash, s.id), perSession, tryWindow}
	if way == wayCode && !s.hasCode(v.now) {
		return []limit{mine}
	}
	all := []limit{mine, {p("tries", way, hash), perMessage, tryWindow}}
	if way != wayCode {
		all = append(all, limit{p("tries-long", way, hash), perLong, longWindow})
	}
	return all
}

// mailLimits are those of one mailed code: to the address, or, where nothing will be mailed, to the locator.
func (v *visit) mailLimits(to string) []limit {
	b := v.p.e.Pseudonym
	return []limit{
		{b("mail-minute", to), 1, time.Minute},
		{b("mail-hour", to), 3, time.Hour},
	}
}
