package portal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/securemail"
)

// page is the door, or the message for who has come through it.
func (v *visit) page() error {
	s, err := v.session()
	if err != nil {
		return err
	}
	if s.reads(v.now) {
		return v.message(s)
	}
	return v.door(s, http.StatusOK, "")
}

// refuse shows the door again and says why.
func (v *visit) refuse(s *session, code int, why string) error { return v.door(s, code, why) }

func (v *visit) door(s *session, code int, why string) error {
	d := &pageData{Error: why}
	if s != nil {
		d.Asked = s.asked
	}
	if d.Asked == askedQuestion {
		dep, err := v.p.e.Find(v.r.Context(), v.loc)
		if err != nil {
			return err
		}
		d.Hint = shown(dep.Question())
	}
	return v.write(code, "door", d)
}

// reader is the context in which the recipient reads.
func (v *visit) reader(d *escrow.Deposit, way string) context.Context {
	return securemail.WithActor(v.r.Context(), d.Reader(securemail.Auth{Method: "portal:" + way, At: v.now}))
}

// read opens the message and looks through all of it, so that a cut or changed one is an error here.
func (v *visit) read(ctx context.Context, d *escrow.Deposit) (*view, error) {
	r, err := d.Open(ctx)
	if err != nil {
		return nil, err
	}
	return look(r)
}

func (v *visit) message(s *session) error {
	d, err := v.p.e.Find(v.r.Context(), v.loc)
	if err != nil {
		return err
	}
	if !d.Live() {
		return v.write(http.StatusGone, "gone", &pageData{Title: "No longer available"})
	}
	if err := v.touch(s); err != nil {
		return err
	}
	ctx := v.reader(d, "session")
	view, err := v.read(ctx, d)
	if err != nil {
		return err
	}
	if err := d.Opened(ctx); err != nil { // recorded at sign-in already, unless that was cut short
		return err
	}
	return v.write(http.StatusOK, "message", &pageData{Path: v.p.prefix + string(v.loc), View: view})
}

// deposit is the live deposit of a signed-in session, recorded as read; nil: the answer was given.
func (v *visit) deposit() (*escrow.Deposit, error) {
	s, err := v.session()
	if err != nil {
		return nil, err
	}
	if s.reads(v.now) {
		d, err := v.p.e.Find(v.r.Context(), v.loc)
		if err != nil {
			return nil, err
		}
		if d.Live() {
			// Where sign-in could not record the reading, nothing may be read before that is made up for.
			return d, errors.Join(v.touch(s), d.Opened(v.reader(d, "session")))
		}
	}
	v.p.plain(v.w, v.r, http.StatusUnauthorized)
	return nil, nil
}

// bodyCSP is the second sandbox, for a browser that opens the frame's address by itself.
const bodyCSP = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; " +
	"style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

func (v *visit) body() error {
	d, err := v.deposit()
	if d == nil || err != nil {
		return err
	}
	r, err := d.Open(v.reader(d, "session"))
	if err != nil {
		return err
	}
	page, err := frame(r)
	if err != nil {
		return err
	}
	h := v.w.Header()
	h.Set("Content-Security-Policy", bodyCSP)
	h.Set("X-Frame-Options", "SAMEORIGIN")
	h.Set("Referrer-Policy", "no-referrer")
	v.whole(http.StatusOK, "text/html; charset=utf-8", page)
	return nil
}

// file streams one attachment.
func (v *visit) file(number string) error {
	d, err := v.deposit()
	if d == nil || err != nil {
		return err
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || strconv.Itoa(n) != number {
		v.p.plain(v.w, v.r, http.StatusNotFound)
		return nil
	}
	r, err := d.Open(v.reader(d, "session"))
	if err != nil {
		return err
	}
	started := false
	err = extract(r, n, func(p *part) error {
		started = true
		h := v.w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Type", p.download())
		h.Set("Content-Disposition", disposition(p.name))
		v.w.WriteHeader(http.StatusOK)
		if v.r.Method == http.MethodHead {
			return nil
		}
		_, err := io.Copy(v.w, p.body)
		return err
	})
	switch {
	case errors.Is(err, errNoPart):
		v.p.plain(v.w, v.r, http.StatusNotFound)
		return nil
	case err != nil && started:
		v.p.o.Logger.WarnContext(v.r.Context(), "portal: download cut short")
		panic(http.ErrAbortHandler) // the one way to tell the browser that the file is not whole
	case err != nil:
		return fmt.Errorf("portal: download: %w", err)
	}
	return nil
}
