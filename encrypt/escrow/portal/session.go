package portal

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/postseal/postseal/encrypt/escrow"
)

const (
	idleFor    = 15 * time.Minute // OWASP ASVS 5.0 item 7.3.1; 45 CFR 164.312(a)(2)(iii)
	sessionFor = 8 * time.Hour    // item 7.3.2
	codeFor    = 10 * time.Minute // item 6.5.5
	touchEvery = 30 * time.Second
	tokenSize  = 32 // octets; item 7.2.3 asks for 16
)

// What a browser session has asked for, for one message.
const (
	askedNothing  = ""
	askedCode     = "code"
	askedQuestion = "question"
)

// session is one browser's, with what it may do to one message.
type session struct {
	id    string
	token string // as it is in the cookie
	fresh bool   // made by this request: the cookie must be set

	created, seen time.Time

	asked     string
	code      []byte
	codeUntil time.Time
	verified  time.Time
}

// reads says that the session has proved to be the recipient's.
func (s *session) reads(now time.Time) bool {
	return s != nil && !s.verified.IsZero() && within(now, s.verified, sessionFor)
}

// hasCode says that a mailed code is waited for.
func (s *session) hasCode(now time.Time) bool {
	return len(s.code) > 0 && within(now, s.codeUntil.Add(-codeFor), codeFor)
}

// within says that less than d has passed since t; a clock that was set back counts as over.
func within(now, t time.Time, d time.Duration) bool {
	age := now.Sub(t)
	return age > -d && age < d
}

func (p *Portal) cookieName() string {
	if p.secure {
		return "__Host-postseal"
	}
	return "postseal-insecure-loopback"
}

func (p *Portal) setCookie(w http.ResponseWriter, token string) {
	c := &http.Cookie{
		Name: p.cookieName(), Value: token, Path: "/", Secure: p.secure, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
	if token == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

func tokenHash(token string) []byte {
	h := sha256.Sum256([]byte("postseal/portal/token/v1\x00" + token))
	return h[:]
}

func newToken() string {
	b := make([]byte, tokenSize)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return base64.RawURLEncoding.EncodeToString(b)
}

// session finds the browser's session, nil without a live one.
func (v *visit) session() (*session, error) {
	c, err := v.r.Cookie(v.p.cookieName())
	if err != nil || len(c.Value) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return nil, nil
	}
	s, err := v.p.store.load(v.r.Context(), c.Value, v.loc)
	if s == nil || err != nil {
		return nil, err
	}
	if !within(v.now, s.seen, idleFor) || !within(v.now, s.created, sessionFor) {
		return nil, nil
	}
	return s, nil
}

// ensure is session, or a new one that has proved nothing. Only an explicit act of the visitor (a POST) makes one.
func (v *visit) ensure() (*session, error) {
	s, err := v.session()
	if s != nil || err != nil {
		return s, err
	}
	s = &session{id: rand.Text(), token: newToken(), fresh: true, created: v.now, seen: v.now}
	err = v.p.store.tx(v.r.Context(), "make session", func(x execer) error {
		_, err := x.run("INSERT INTO portal_session (id, token, created, seen) VALUES (?, ?, ?, ?)",
			s.id, tokenHash(s.token), v.now.UnixMicro(), v.now.UnixMicro())
		return err
	})
	if err != nil {
		return nil, err
	}
	v.p.setCookie(v.w, s.token)
	return s, nil
}

func (s *store) load(ctx context.Context, token string, loc escrow.Locator) (*session, error) {
	out := &session{token: token}
	var created, seen, until, verified int64
	err := s.db.QueryRowContext(ctx, s.sql.Rebind(`SELECT s.id, s.created, s.seen, COALESCE(g.asked, ''), g.code,
		COALESCE(g.code_until, 0), COALESCE(g.verified, 0)
		FROM portal_session s LEFT JOIN portal_grant g ON g.session=s.id AND g.locator=? WHERE s.token=?`),
		loc.Hash(), tokenHash(token)).Scan(&out.id, &created, &seen, &out.asked, &out.code, &until, &verified)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("portal: read session: %w", err)
	}
	out.created, out.seen = time.UnixMicro(created), time.UnixMicro(seen)
	out.codeUntil = time.UnixMicro(until)
	if verified != 0 {
		out.verified = time.UnixMicro(verified)
	}
	return out, nil
}

// touch puts the idle limit off; reading is use.
func (v *visit) touch(s *session) error {
	if within(v.now, s.seen, touchEvery) {
		return nil
	}
	return v.p.store.tx(v.r.Context(), "touch session", func(x execer) error {
		_, err := x.run("UPDATE portal_session SET seen=? WHERE id=?", v.now.UnixMicro(), s.id)
		return err
	})
}

// ask records what the session asked for. A nil code leaves the one that is out; an empty one takes it back.
func (v *visit) ask(s *session, asked string, code []byte) error {
	until := v.now.Add(codeFor).UnixMicro()
	return v.p.store.tx(v.r.Context(), "record request", func(x execer) error {
		_, err := x.run("UPDATE portal_session SET seen=? WHERE id=?", v.now.UnixMicro(), s.id)
		if err != nil {
			return err
		}
		_, err = x.run(`INSERT INTO portal_grant (session, locator, asked, code, code_until, verified)
			VALUES (?, ?, ?, ?, 0, 0) ON CONFLICT (session, locator) DO UPDATE SET asked=excluded.asked`,
			s.id, v.loc.Hash(), asked, []byte{})
		if err != nil || code == nil {
			return err
		}
		_, err = x.run("UPDATE portal_grant SET code=?, code_until=? WHERE session=? AND locator=?",
			code, until, s.id, v.loc.Hash())
		return err
	})
}

// admit makes the session the recipient's, under a new token (OWASP ASVS 5.0 item 7.2.4). usedCode is the hash of the code
// that proved it, nil for another proof: where it is not out any more, another request has used it, and admit is false.
func (v *visit) admit(s *session, usedCode []byte) (bool, error) {
	token, now := newToken(), v.now.UnixMicro()
	err := v.p.store.tx(v.r.Context(), "admit session", func(x execer) error {
		n, err := x.run("UPDATE portal_session SET token=?, created=?, seen=? WHERE id=? AND token=?",
			tokenHash(token), now, now, s.id, tokenHash(s.token))
		if err != nil {
			return err
		}
		if n != 1 {
			return errNo
		}
		if usedCode != nil {
			n, err = x.run(`UPDATE portal_grant SET verified=?, asked='', code=?, code_until=0
				WHERE session=? AND locator=? AND code=?`, now, []byte{}, s.id, v.loc.Hash(), usedCode)
		} else {
			n, err = x.run(`INSERT INTO portal_grant (session, locator, asked, code, code_until, verified)
				VALUES (?, ?, '', ?, 0, ?) ON CONFLICT (session, locator)
				DO UPDATE SET verified=excluded.verified, asked='', code=excluded.code, code_until=0`,
				s.id, v.loc.Hash(), []byte{}, now)
		}
		if err == nil && n != 1 {
			return errNo
		}
		return err
	})
	if errors.Is(err, errNo) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	v.p.setCookie(v.w, token)
	return true, nil
}

// leave signs out, for all messages that the browser has open.
func (v *visit) leave() error {
	s, err := v.session()
	if err != nil {
		return err
	}
	if s != nil {
		err := v.p.store.tx(v.r.Context(), "end session", func(x execer) error {
			if _, err := x.run("DELETE FROM portal_grant WHERE session=?", s.id); err != nil {
				return err
			}
			_, err := x.run("DELETE FROM portal_session WHERE id=?", s.id)
			return err
		})
		if err != nil {
			return err
		}
	}
	// The cookie goes by its own name: "cookies" here would sign the visitor out of every program on the whole domain, and
	// "storage", of which the portal has none, would empty that of other programs on the host.
	v.w.Header().Set("Clear-Site-Data", `"cache"`)
	v.p.setCookie(v.w, "")
	return v.toPage()
}
