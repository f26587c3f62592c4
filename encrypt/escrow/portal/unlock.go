package portal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/securemail"
)

// The ways of proof, by the name of their form field.
const (
	wayCode   = "code"
	wayAccess = "access_code"
	wayAnswer = "answer"
)

// newCode is 8 digits: 26 bits (OWASP ASVS 5.0 item 6.5.4 asks for 20).
func newCode() string {
	n, err := rand.Int(rand.Reader, big.NewInt(100_000_000))
	if err != nil {
		panic("portal: no randomness: " + err.Error()) // can't happen: crypto/rand does not fail
	}
	return fmt.Sprintf("%08d", n)
}

// bound ties a code to the browser session that asked for it and to the message (OWASP ASVS 5.0 item 6.6.2).
func (v *visit) bound(code string, s *session) securemail.Secret {
	return securemail.NewSecret(code + "\x00" + s.id + "\x00" + string(v.loc))
}

// send mails a code, if the locator finds a message and its address has not had too many; the answer is the same if not.
func (v *visit) send() error {
	floor := time.NewTimer(max(v.p.o.Floor, 0))
	defer floor.Stop()
	err := v.sendCode()
	select {
	case <-floor.C:
	case <-v.r.Context().Done():
	}
	if err != nil {
		return err
	}
	return v.toPage()
}

func (v *visit) sendCode() error {
	s, err := v.ensure()
	if err != nil {
		return err
	}
	ctx := v.r.Context()
	d, err := v.p.e.Find(ctx, v.loc)
	if err != nil {
		return err
	}
	mails := d.TakesMailCode()
	to := "locator " + string(v.loc)
	if mails {
		to = strings.ToLower(d.Recipient().Reveal())
		if err := v.mailRoute(ctx, d); errors.Is(err, securemail.ErrHold) {
			v.p.o.Logger.WarnContext(ctx, "portal: no code mailed: the route does not meet the floor now", slog.String("deposit", d.ID()))
			mails = false
		}
	}
	hits, ok, err := v.reserve(time.Hour, v.mailLimits(to)...)
	if err != nil {
		return err
	}
	if !ok {
		return v.ask(s, askedCode, nil)
	}
	if err := v.makeCode(s, d, mails); err != nil {
		return errors.Join(err, v.release(hits))
	}
	return nil
}

// mailRoute is d's, asked for within half of the floor: a longer look would tell that there is a message. What it can't
// tell by then, delivery proves.
func (v *visit) mailRoute(ctx context.Context, d *escrow.Deposit) error {
	if v.p.o.Floor > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, v.p.o.Floor/2)
		defer cancel()
	}
	return d.MailRoute(ctx)
}

// makeCode draws a code, remembers it and, if mails, hands it to the Sender. Without a mail it is never known to anybody.
func (v *visit) makeCode(s *session, d *escrow.Deposit, mails bool) error {
	code := newCode()
	hash, err := v.p.e.Hash(v.r.Context(), v.bound(code, s))
	if err != nil {
		return err
	}
	if err := v.ask(s, askedCode, hash); err != nil {
		return err
	}
	if !mails {
		return nil
	}
	ctx := securemail.WithActor(v.r.Context(), securemail.Actor{Tenant: d.Tenant(), ID: "portal", Kind: "part"})
	if _, err := v.p.o.Sender.Send(ctx, v.codeMail(d, code)); err != nil {
		return errors.Join(fmt.Errorf("portal: mail code: %w", err), v.ask(s, askedCode, []byte{}))
	}
	return nil
}

// codeMail is a fixed template. The code is not in the subject, which a locked telephone shows.
func (v *visit) codeMail(d *escrow.Deposit, code string) *securemail.Draft {
	brand := v.p.brand
	if brand == "" {
		brand = d.Sender().Domain()
	}
	text := "Your code for the secure message:\n\n    " + code + "\n\n" +
		"Type it on the page where you asked for it. It works once, in that browser\n" +
		"only, until " + v.now.Add(codeFor).UTC().Format("15:04 UTC") + ".\n\n" +
		"If you did not ask for it, do nothing: nobody can read the message without\n" +
		"this code. Do not tell it to anybody who calls or writes to you.\n\n" + brand + "\n"
	return &securemail.Draft{
		From:    securemail.Contact{Name: v.p.brand, Address: d.Sender()},
		To:      []securemail.Recipient{{Contact: securemail.Contact{Address: d.Recipient()}}},
		Subject: "Code for your secure message", Text: text,
		Purpose: securemail.PurposeSystem, UsefulUntil: v.now.Add(codeFor), Priority: 100,
	}
}

// question lets the page show the hint. That it makes a session is what keeps it out of a crawler's way.
func (v *visit) question() error {
	s, err := v.ensure()
	if err != nil {
		return err
	}
	if err := v.ask(s, askedQuestion, nil); err != nil {
		return err
	}
	return v.toPage()
}

// unlock checks what was typed and, where it is right, makes the session the recipient's.
func (v *visit) unlock() error {
	way, value := typed(v.r)
	if way == "" {
		return v.refuse(nil, http.StatusUnprocessableEntity, msgEmpty)
	}
	s, err := v.ensure()
	if err != nil {
		return err
	}
	d, err := v.p.e.Find(v.r.Context(), v.loc)
	if err != nil {
		return err
	}
	keep := tryWindow
	if d.Live() {
		keep = longWindow // else strangers could fill the table for weeks
	}
	hits, ok, err := v.reserve(keep, v.tryLimits(way, s)...)
	if err != nil {
		return err
	}
	if !ok {
		v.w.Header().Set("Retry-After", "600")
		return v.refuse(s, http.StatusTooManyRequests, msgTooMany)
	}
	right, err := v.right(s, d, way, value)
	if err != nil {
		return errors.Join(err, v.release(hits))
	}
	if !right {
		return v.refuse(s, http.StatusForbidden, msgWrong)
	}
	if err := v.release(hits); err != nil {
		return err
	}
	return v.enter(s, d, way)
}

// typed is the first field that holds anything.
func typed(r *http.Request) (way, value string) {
	for _, way := range []string{wayCode, wayAccess, wayAnswer} {
		if value := strings.TrimSpace(r.PostForm.Get(way)); value != "" {
			return way, value
		}
	}
	return "", ""
}

func (v *visit) right(s *session, d *escrow.Deposit, way, value string) (bool, error) {
	ctx := v.r.Context()
	switch way {
	case wayCode:
		if !s.hasCode(v.now) {
			return false, nil
		}
		ok, err := v.p.e.Match(ctx, s.code, v.bound(digits(value), s))
		return ok && d.Live(), err
	case wayAccess:
		return d.Check(ctx, escrow.FactorCode, securemail.NewSecret(value))
	default:
		return d.Check(ctx, escrow.FactorQuestion, securemail.NewSecret(value))
	}
}

// digits is a typed code as it was mailed: keyboards have digits of other scripts, and what was pasted may hold blanks.
func digits(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Nd, r):
			return '0' + digitOf(r)
		case r == '-' || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, s)
}

// digitOf counts from the zero of r's script: Unicode has them in runs of ten (The Unicode Standard, section 4.6).
func digitOf(r rune) rune {
	for _, x := range unicode.Nd.R16 {
		if r >= rune(x.Lo) && r <= rune(x.Hi) {
			return (r - rune(x.Lo)) % 10
		}
	}
	for _, x := range unicode.Nd.R32 {
		if r >= rune(x.Lo) && r <= rune(x.Hi) {
			return (r - rune(x.Lo)) % 10
		}
	}
	return 0
}

// enter proves that the message opens, signs the browser in and records the reading. The page then is a GET that
// changes nothing.
func (v *visit) enter(s *session, d *escrow.Deposit, way string) error {
	ctx := v.reader(d, way)
	if _, err := v.read(ctx, d); err != nil {
		return err
	}
	var used []byte
	if way == wayCode {
		used = s.code
	}
	ok, err := v.admit(s, used)
	if err != nil {
		return err
	}
	if !ok {
		return v.refuse(s, http.StatusForbidden, msgWrong)
	}
	if err := d.Opened(ctx); err != nil {
		return err
	}
	return v.toPage()
}
