package portal_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/encrypt/escrow/portal"
	"github.com/postseal/postseal/securemail"
)

func TestNewNamesFaults(t *testing.T) {
	p, err := portal.New(nil)
	require.Nil(t, p)
	require.ErrorContains(t, err, "no escrow")
	require.ErrorContains(t, err, "no sender")
	r := newRig(t)
	require.NoError(t, r.db.Close())
	_, err = portal.New(&portal.Options{Escrow: r.e, Sender: portal.SenderFunc(r.Send)})
	require.Error(t, err)
}

func TestReadWithMailedCode(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{}), r.browser()

	door := b.get(link)
	require.Equal(t, http.StatusOK, door.code)
	require.Empty(t, door.head.Values("Set-Cookie"))
	require.LessOrEqual(t, len(door.body), 50<<10)
	for _, c := range []string{canarySubject, canaryBody, canaryLocal, canaryName, "clinic.example", "<script"} {
		require.NotContains(t, door.body, c)
	}
	for _, want := range []string{`<html lang="en">`, "Example Clinic", "<label for=\"access_code\">"} {
		require.Contains(t, door.body, want)
	}

	sent := b.post(link, "action", "send")
	require.Equal(t, http.StatusSeeOther, sent.code)
	require.Equal(t, strings.TrimPrefix(link, r.srv.URL), sent.head.Get("Location"))
	require.Equal(t, 1, r.mailed())
	require.Equal(t, securemail.Actor{Tenant: "clinic", ID: "portal", Kind: "part"}, r.actors[0])
	d := r.mails[0]
	require.Equal(t, securemail.PurposeSystem, d.Purpose)
	require.Equal(t, canaryLocal+"@mail.example.com", d.To[0].Address.Reveal())
	require.Equal(t, "desk@clinic.example", d.From.Address.Reveal())
	require.NotContains(t, d.Subject, r.code())
	require.NotContains(t, d.Text+d.Subject, canaryName)
	require.Equal(t, r.clock().Add(10*time.Minute), d.UsefulUntil)

	asked := b.get(link)
	require.Contains(t, asked.body, `autocomplete="one-time-code"`)
	require.Contains(t, asked.body, `inputmode="numeric"`)

	code := r.code()
	opened := b.post(link, "code", " "+code[:4]+" "+code[4:]+" ")
	require.Equal(t, http.StatusSeeOther, opened.code)
	require.Equal(t, []string{"deposited", "read"}, r.kinds())
	require.Equal(t, "portal:code", r.events[1].By.Auth.Method)

	page := b.get(link)
	require.Equal(t, http.StatusOK, page.code)
	require.LessOrEqual(t, len(page.body), 50<<10)
	for _, want := range []string{canarySubject + " ✓", canaryName, "24 November 2026, 11:00", "report.pdf", "<iframe", "sandbox=\"allow-popups allow-popups-to-escape-sandbox\""} {
		require.Contains(t, page.body, want)
	}
	require.NotContains(t, page.body, "logo") // shown by the HTML itself
	require.NotContains(t, page.body, canaryBody)

	body := b.get(link + "/body")
	require.Equal(t, http.StatusOK, body.code)
	require.Contains(t, body.body, "<p>html "+canaryBody+"</p>")
	require.Contains(t, body.body, `src="data:image/png;base64,iVBORw0KGgo="`)

	file := b.get(link + "/file/3")
	require.Equal(t, "%PDF-1.4\n", file.body)
	require.Equal(t, `attachment; filename="report.pdf"`, file.head.Get("Content-Disposition"))
	require.Equal(t, "application/pdf", file.head.Get("Content-Type"))
	for _, n := range []string{"99", "-1", "03", "x", "3/4", ""} {
		require.Equal(t, http.StatusNotFound, b.get(link+"/file/"+n).code, n)
	}
	require.Equal(t, []string{"deposited", "read"}, r.kinds()) // reading again is no second receipt
}

// A receipt that could not be recorded at sign-in is made up for when the message is shown.
func TestReceiptIsNotLost(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{factors: []securemail.Factor{withCode}}), r.browser()
	r.away = errors.New("outbox away")
	require.Equal(t, http.StatusInternalServerError, b.post(link, "access_code", accessCode).code)
	require.Equal(t, http.StatusInternalServerError, b.get(link).code)
	r.away = nil
	require.True(t, b.reads(link))
	require.True(t, b.reads(link))
	require.Equal(t, []string{"deposited", "read"}, r.kinds())
}

func TestHEADIsLikeGET(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode}})
	b := r.browser()
	same := func(path string) {
		g, h := b.get(link+path), b.ask(http.MethodHead, link+path)
		require.Empty(t, h.body)
		require.Equal(t, g.code, h.code)
		for _, f := range []string{"Content-Type", "Content-Security-Policy", "Content-Disposition", "Cache-Control"} {
			require.Equal(t, g.head.Get(f), h.head.Get(f), f)
		}
		if path != "/file/3" {
			require.Equal(t, fmt.Sprint(len(g.body)), h.head.Get("Content-Length"))
		}
	}
	same("")
	same("/body")
	b.in(link)
	for _, path := range []string{"", "/body", "/file/3", "/file/9", "/nowhere"} {
		same(path)
	}
}

func TestReadWithAccessCodeAndQuestion(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode, withQuestion}})
	require.True(t, r.browser().in(link).reads(link))

	b := r.browser()
	require.NotContains(t, b.get(link).body, "first dog")
	require.Equal(t, http.StatusSeeOther, b.post(link, "action", "question").code)
	require.Contains(t, b.get(link).body, "Your first dog?")
	require.Equal(t, http.StatusForbidden, b.post(link, "answer", "zq-rex").code)
	require.False(t, b.reads(link))
	require.Equal(t, http.StatusSeeOther, b.post(link, "answer", " ZQ-Rover ").code)
	require.True(t, b.reads(link))
	require.Zero(t, r.mailed())

	// Where factors are on file and mail was not chosen, no code leaves; the answer is the same.
	other := r.browser()
	require.Equal(t, http.StatusSeeOther, other.post(link, "action", "send").code)
	require.Zero(t, r.mailed())
}

func TestMountedBelowAPath(t *testing.T) {
	r := newRig(t)
	r.path = "/secure/mail"
	r.start()
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode}})
	b := r.browser()
	res := b.post(link, "access_code", accessCode)
	require.Equal(t, strings.TrimPrefix(link, r.srv.URL), res.head.Get("Location"))
	page := b.get(link)
	require.Contains(t, page.body, `src="`+strings.TrimPrefix(link, r.srv.URL)+`/body"`)
	require.Equal(t, http.StatusOK, b.get(link+"/body").code)
}

func TestInsecureLoopback(t *testing.T) {
	r := newRig(t)
	e, err := escrow.New(t.Context(), r.db, r.ring, &escrow.Options{BaseURL: "http://127.0.0.1:1", InsecureLoopback: true})
	require.NoError(t, err)
	p, err := portal.New(&portal.Options{Escrow: e, Sender: r})
	require.NoError(t, err)
	w := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPost, "/m/"+strings.Repeat("0", 32), strings.NewReader("action=question"))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	p.ServeHTTP(w, req)
	c := w.Result().Cookies()
	require.Len(t, c, 1)
	require.False(t, c[0].Secure)
	require.NotContains(t, c[0].Name, "__Host-")
	require.Empty(t, w.Header().Get("Strict-Transport-Security"))

	w = httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/elsewhere", nil))
	require.Equal(t, http.StatusNotFound, w.Code)
}

func TestSessionCookie(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{factors: []securemail.Factor{withCode}}), r.browser()
	cookie := func(a answered) *http.Cookie {
		c, err := http.ParseSetCookie(a.head.Get("Set-Cookie"))
		require.NoError(t, err)
		require.Equal(t, "__Host-postseal", c.Name)
		require.True(t, c.Secure)
		require.True(t, c.HttpOnly)
		require.Equal(t, http.SameSiteStrictMode, c.SameSite)
		require.Equal(t, "/", c.Path)
		require.Empty(t, c.Domain)
		return c
	}
	before := cookie(b.post(link, "action", "question"))
	require.Len(t, before.Value, 43)
	after := cookie(b.post(link, "access_code", accessCode))
	require.NotEqual(t, before.Value, after.Value) // rotated
	require.True(t, b.reads(link))

	// The token from before the proof is worth nothing.
	old := r.browser()
	u, _ := url.Parse(r.srv.URL)
	old.Jar.SetCookies(u, []*http.Cookie{{Name: before.Name, Value: before.Value, Path: "/", Secure: true}})
	require.False(t, old.reads(link))

	// Nor are made-up ones, however many.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	require.NoError(t, err)
	for range 50 {
		req.AddCookie(&http.Cookie{Name: after.Name, Value: strings.Repeat("A", 43)})
	}
	require.Equal(t, http.StatusOK, old.do(req).code)

	out := b.post(link, "action", "leave")
	require.Equal(t, http.StatusSeeOther, out.code)
	require.Contains(t, out.head.Get("Clear-Site-Data"), `"cache"`)
	require.Negative(t, cookie(out).MaxAge)
	require.False(t, b.reads(link))
	b.Jar.SetCookies(u, []*http.Cookie{{Name: after.Name, Value: after.Value, Path: "/", Secure: true}})
	require.False(t, b.reads(link)) // ended on our side too
	require.Equal(t, http.StatusSeeOther, r.browser().post(link, "action", "leave").code)
}

func TestSessionLimits(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode}})
	b := r.browser().in(link)
	r.pass(14 * time.Minute)
	require.True(t, b.reads(link)) // use puts the idle limit off
	r.pass(14 * time.Minute)
	require.True(t, b.reads(link))
	r.pass(15 * time.Minute)
	require.False(t, b.reads(link))
	require.Equal(t, http.StatusUnauthorized, b.get(link+"/body").code)
	require.Equal(t, http.StatusUnauthorized, b.get(link+"/file/3").code)

	b.in(link)
	for range 8*60/10 - 1 {
		r.pass(10 * time.Minute)
		require.True(t, b.reads(link))
	}
	r.pass(10 * time.Minute)
	require.False(t, b.reads(link)) // 8 hours, used or not

	b.in(link)
	r.pass(-48 * time.Hour) // a clock that jumps back ends sessions rather than lengthen them
	require.False(t, b.reads(link))
}

func TestOneSessionManyMessages(t *testing.T) {
	r := newRig(t)
	one := r.put("p1", deposit{factors: []securemail.Factor{withCode}})
	two := r.put("p2", deposit{factors: []securemail.Factor{withCode}})
	b := r.browser().in(one)
	require.True(t, b.reads(one))
	require.False(t, b.reads(two)) // a proof is for one message
	require.Equal(t, http.StatusUnauthorized, b.get(two+"/body").code)
	b.in(two)
	require.True(t, b.reads(one))
	require.True(t, b.reads(two))
}

func TestWrongCodes(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{}), r.browser()
	require.Equal(t, http.StatusForbidden, b.post(link, "code", "12345678").code) // none is out
	b.post(link, "action", "send")
	code := r.code()

	wrong := b.post(link, "code", "00000000")
	require.Equal(t, http.StatusForbidden, wrong.code)
	require.Contains(t, wrong.body, `role="alert"`)
	require.Contains(t, wrong.body, `aria-describedby="error"`)

	other := r.browser() // knows link and code, and did not ask for it
	require.Equal(t, http.StatusForbidden, other.post(link, "code", code).code)
	other.post(link, "action", "send")
	require.Equal(t, 1, r.mailed()) // within the minute
	require.Equal(t, http.StatusForbidden, other.post(link, "code", code).code)
	require.False(t, other.reads(link))

	require.Equal(t, http.StatusSeeOther, b.post(link, "code", code).code)
	require.Equal(t, http.StatusForbidden, b.post(link, "code", code).code) // used
	require.True(t, b.reads(link))                                          // and nothing lost by that
	require.Equal(t, http.StatusUnprocessableEntity, b.post(link).code)
	require.Equal(t, http.StatusUnprocessableEntity, b.post(link, "code", "  ").code)
}

func TestCodeExpires(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{}), r.browser()
	b.post(link, "action", "send")
	r.pass(10 * time.Minute)
	require.Equal(t, http.StatusForbidden, b.post(link, "code", r.code()).code)
	b.post(link, "action", "send")
	r.pass(10*time.Minute - time.Second)
	require.Equal(t, http.StatusSeeOther, b.post(link, "code", r.code()).code)
}

func TestCodeWorksOnceAtOnce(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{}), r.browser()
	b.post(link, "action", "send")
	code := r.code()
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[int]int{}
	for range 4 {
		wg.Go(func() {
			a := b.post(link, "code", code)
			mu.Lock()
			defer mu.Unlock()
			got[a.code]++
		})
	}
	wg.Wait()
	require.Equal(t, 1, got[http.StatusSeeOther], got)
	require.Equal(t, []string{"deposited", "read"}, r.kinds())
}

func TestMailLimits(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{})
	second := r.put("p2", deposit{}) // the same address
	for range 5 {
		r.browser().post(link, "action", "send")
		r.browser().post(second, "action", "send")
	}
	require.Equal(t, 1, r.mailed())
	r.start() // a restart forgets nothing
	r.browser().post(link, "action", "send")
	require.Equal(t, 1, r.mailed())
	for range 3 {
		r.pass(61 * time.Second)
		r.browser().post(second, "action", "send")
	}
	require.Equal(t, 3, r.mailed())
	r.pass(time.Hour)
	r.browser().post(link, "action", "send")
	require.Equal(t, 4, r.mailed())
}

func TestCodeStaysGoodWhenAnotherIsRefused(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{}), r.browser()
	b.post(link, "action", "send")
	b.post(link, "action", "send")
	require.Equal(t, 1, r.mailed())
	require.Equal(t, http.StatusSeeOther, b.post(link, "code", r.code()).code)
}

func TestCodeThatCannotBeMailed(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{}), r.browser()
	r.fail = errors.New("queue away")
	require.Equal(t, http.StatusServiceUnavailable, mustFail(b.post(link, "action", "send")))
	r.fail = nil
	b.post(link, "action", "send") // it did not count
	require.Equal(t, 1, r.mailed())

	r.pass(2 * time.Minute)
	r.route = securemail.Route{Known: true} // TLS was lost since the deposit
	require.Equal(t, http.StatusSeeOther, b.post(link, "action", "send").code)
	require.Equal(t, 1, r.mailed())
	r.route = securemail.Route{} // not known: delivery proves the floor
	r.pass(2 * time.Minute)
	b.post(link, "action", "send")
	require.Equal(t, 2, r.mailed())
}

// mustFail maps the two answers for a fault of ours onto one.
func mustFail(a answered) int {
	if a.code == http.StatusInternalServerError {
		return http.StatusServiceUnavailable
	}
	return a.code
}

func TestThrottlePerSession(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{factors: []securemail.Factor{withCode}}), r.browser()
	for range 5 {
		require.Equal(t, http.StatusForbidden, b.post(link, "access_code", "guess-1").code)
	}
	r.start()
	a := b.post(link, "access_code", accessCode)
	require.Equal(t, http.StatusTooManyRequests, a.code)
	require.Equal(t, "600", a.head.Get("Retry-After"))
	require.True(t, r.browser().in(link).reads(link)) // another session is not touched
	r.pass(10 * time.Minute)
	b.in(link)
}

func TestThrottlePerMessage(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{profile: "code-by-mail", factors: []securemail.Factor{withCode}})
	reader := r.browser().in(link)
	waiting := r.browser()
	waiting.post(link, "action", "send")
	for range 20 {
		require.Equal(t, http.StatusForbidden, r.browser().post(link, "access_code", "guess-1").code)
		r.browser().post(link, "code", "12345678")
	}
	require.Equal(t, http.StatusTooManyRequests, r.browser().post(link, "access_code", accessCode).code)
	require.True(t, reader.reads(link)) // who has come in stays in
	require.Equal(t, http.StatusSeeOther, waiting.post(link, "code", r.code()).code)

	// Over weeks: 100 tries in all.
	for range 4 {
		r.pass(11 * time.Minute)
		for range 20 {
			require.Equal(t, http.StatusForbidden, r.browser().post(link, "access_code", "guess-1").code)
		}
	}
	r.pass(24 * time.Hour)
	require.Equal(t, http.StatusTooManyRequests, r.browser().post(link, "access_code", accessCode).code)
	r.pass(30 * 24 * time.Hour)
	link = r.put("p9", deposit{factors: []securemail.Factor{withCode}})
	r.browser().in(link)
	var n int
	require.NoError(t, r.db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM portal_hit").Scan(&n))
	require.Zero(t, n) // swept
}

func TestParallelGuessesCountToo(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{factors: []securemail.Factor{withCode}}), r.browser()
	b.post(link, "action", "question")
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[int]int{}
	for range 12 {
		wg.Go(func() {
			a := b.post(link, "access_code", "guess-1")
			mu.Lock()
			defer mu.Unlock()
			got[a.code]++
		})
	}
	wg.Wait()
	require.Equal(t, map[int]int{http.StatusForbidden: 5, http.StatusTooManyRequests: 7}, got)
}

// Unknown, expired, revoked, destroyed and malformed links answer every request with the bytes of a live one.
func TestLinksCannotBeToldApart(t *testing.T) {
	r := newRig(t)
	links := map[string]string{
		"live":      r.put("p1", deposit{}),
		"coded":     r.put("p2", deposit{factors: []securemail.Factor{withCode}}),
		"expired":   r.put("p3", deposit{until: r.clock().Add(time.Second)}),
		"revoked":   r.put("p4", deposit{}),
		"undone":    r.put("p5", deposit{}),
		"unknown":   r.srv.URL + "/m/" + strings.Repeat("a", 32),
		"malformed": r.srv.URL + "/m/nothing",
		"empty":     r.srv.URL + "/m/",
	}
	ctx := securemail.WithActor(t.Context(), securemail.Actor{Tenant: "clinic", ID: "boss", Kind: "operator", Roles: []string{"admin"}})
	require.NoError(t, r.e.Revoke(ctx, "p4"))
	require.NoError(t, r.e.Undo(ctx, "p5"))
	r.pass(time.Minute)

	steps := []func(b *browser, link string) answered{
		func(b *browser, link string) answered { return b.get(link) },
		func(b *browser, link string) answered { return b.get(link + "/body") },
		func(b *browser, link string) answered { return b.get(link + "/file/0") },
		func(b *browser, link string) answered { return b.post(link, "code", "12345678") },
		func(b *browser, link string) answered { return b.post(link, "action", "send") },
		func(b *browser, link string) answered { return b.get(link) },
		func(b *browser, link string) answered { return b.post(link, "code", "12345678") },
		func(b *browser, link string) answered { return b.post(link, "access_code", "guess-1") },
		func(b *browser, link string) answered { return b.post(link, "answer", "guess") },
		func(b *browser, link string) answered { return b.post(link, "action", "question") },
		func(b *browser, link string) answered { return b.get(link) },
		func(b *browser, link string) answered { return b.post(link) },
		func(b *browser, link string) answered { return b.post(link, "action", "leave") },
	}
	want := make([]answered, len(steps))
	first := r.browser()
	for i, step := range steps {
		want[i] = step(first, links["live"])
	}
	for name, link := range links {
		b := r.browser()
		for i, step := range steps {
			if name == "empty" && (i == 1 || i == 2) {
				continue // /m//body is cleaned by the mux
			}
			got := step(b, link)
			require.Equal(t, want[i].code, got.code, "%s, step %d", name, i)
			require.Equal(t, want[i].body, got.body, "%s, step %d", name, i)
			require.Equal(t, comparable(want[i].head), comparable(got.head), "%s, step %d", name, i)
		}
	}
	require.Equal(t, 1, r.mailed()) // all of them are one address
}

// comparable is h with what must differ taken out of its values.
func comparable(h http.Header) http.Header {
	h = h.Clone()
	for _, f := range []string{"Set-Cookie", "Location", "Date"} {
		if h.Get(f) != "" {
			h.Set(f, "there")
		}
	}
	return h
}

func TestFloorHidesWhetherMailLeft(t *testing.T) {
	r := newRig(t)
	p, err := portal.New(&portal.Options{Escrow: r.e, Sender: r, Floor: 150 * time.Millisecond})
	require.NoError(t, err)
	r.mux = http.NewServeMux()
	r.mux.Handle(p.Pattern(), p)
	start := time.Now()
	r.browser().post(r.srv.URL+"/m/"+strings.Repeat("a", 32), "action", "send")
	require.GreaterOrEqual(t, time.Since(start), 150*time.Millisecond)
}

func TestRevokedWhileReading(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode}})
	b := r.browser().in(link)
	ctx := securemail.WithActor(t.Context(), securemail.Actor{Tenant: "clinic", ID: "boss", Kind: "operator", Roles: []string{"admin"}})
	require.NoError(t, r.e.Revoke(ctx, "p1"))
	a := b.get(link)
	require.Equal(t, http.StatusGone, a.code)
	require.NotContains(t, a.body, canarySubject)
	require.Equal(t, http.StatusUnauthorized, b.get(link+"/body").code)
	require.Equal(t, http.StatusUnauthorized, b.get(link+"/file/3").code)
}

func TestScannersConsumeNothing(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{profile: "code-by-mail", factors: []securemail.Factor{withCode, withQuestion}})
	action := regexp.MustCompile(`name="([a-z_]+)"(?: type="[a-z]+")?(?: value="([a-z]*)")?`)
	for round := range 8 {
		b := r.browser()
		b.ask(http.MethodHead, link)
		page := b.get(link)
		require.NotContains(t, page.body, "src=") // no assets to fetch
		for _, path := range []string{"/body", "/file/0", "/favicon.ico", "/../robots.txt"} {
			b.get(link + path)
		}
		// Submit every form of each page that comes up, as it stands and filled with rubbish.
		for range 2 {
			for _, f := range strings.Split(b.get(link).body, "<form")[1:] {
				m := action.FindStringSubmatch(f)
				require.NotNil(t, m, f)
				b.post(link, m[1], m[2])
				if m[2] == "" {
					b.post(link, m[1], "test")
				}
			}
		}
		require.False(t, b.reads(link))
		if round%7 == 0 {
			r.pass(time.Second)
		}
	}
	require.Equal(t, []string{"deposited"}, r.kinds()) // no receipt
	require.LessOrEqual(t, r.mailed(), 1)
	var n int
	require.NoError(t, r.db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM portal_grant WHERE verified<>0").Scan(&n))
	require.Zero(t, n) // no session that reads
	r.pass(11 * time.Minute)
	require.True(t, r.browser().in(link).reads(link)) // and the message is there for its recipient
}

func TestHeaders(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode}})
	b := r.browser()
	all := map[string]string{
		"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		"Strict-Transport-Security": "max-age=31536000; includeSubDomains", "X-Robots-Tag": "noindex, nofollow",
	}
	check := func(a answered) string {
		for k, v := range all {
			require.Equal(t, v, a.head.Get(k), k)
		}
		require.Contains(t, a.head.Get("Permissions-Policy"), "camera=()")
		csp := a.head.Get("Content-Security-Policy")
		require.Contains(t, csp, "default-src 'none'")
		require.NotContains(t, csp, "script-src")
		require.NotContains(t, csp, "allow-scripts")
		require.NotContains(t, csp, "allow-same-origin")
		require.Contains(t, []string{"same-origin", "no-referrer"}, a.head.Get("Referrer-Policy"))
		return csp
	}
	door := check(b.get(link))
	for _, want := range []string{"style-src 'sha256-", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'", "object-src 'none'"} {
		require.Contains(t, door, want)
	}
	require.NotContains(t, door, "unsafe")
	check(b.post(link, "access_code", "guess-1"))
	check(b.post(link, "access_code", accessCode))
	require.Equal(t, door, check(b.get(link)))
	body := check(b.get(link + "/body"))
	for _, want := range []string{"sandbox allow-popups", "img-src data:", "form-action 'none'", "frame-ancestors 'self'"} {
		require.Contains(t, body, want)
	}
	check(b.get(link + "/file/3"))
	check(b.get(link + "/nowhere"))
}

func TestRefusedRequests(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode}})
	b := r.browser()
	for _, c := range []struct {
		name, method, path, kind, body string
		head                           http.Header
		code                           int
	}{
		{name: "method", method: http.MethodPut, code: http.StatusMethodNotAllowed},
		{name: "options", method: http.MethodOptions, code: http.StatusMethodNotAllowed},
		{name: "other site", method: http.MethodPost, kind: "application/x-www-form-urlencoded", body: "action=send",
			head: http.Header{"Sec-Fetch-Site": {"cross-site"}}, code: http.StatusForbidden},
		{name: "other origin", method: http.MethodPost, kind: "application/x-www-form-urlencoded", body: "action=send",
			head: http.Header{"Origin": {"https://evil.example"}}, code: http.StatusForbidden},
		{name: "own origin behind a proxy", method: http.MethodPost, kind: "application/x-www-form-urlencoded", body: "action=send",
			head: http.Header{"Origin": {r.srv.URL}}, code: http.StatusSeeOther},
		{name: "json", method: http.MethodPost, kind: "application/json", body: "{}", code: http.StatusUnsupportedMediaType},
		{name: "multipart", method: http.MethodPost, kind: "multipart/form-data; boundary=x", body: "--x--", code: http.StatusUnsupportedMediaType},
		{name: "large", method: http.MethodPost, kind: "application/x-www-form-urlencoded", body: "code=" + strings.Repeat("1", 5000), code: http.StatusRequestEntityTooLarge},
		{name: "broken", method: http.MethodPost, kind: "application/x-www-form-urlencoded", body: "code=%zz", code: http.StatusBadRequest},
		{name: "sub-path", method: http.MethodPost, path: "/code", kind: "application/x-www-form-urlencoded", body: "action=send", code: http.StatusNotFound},
		{name: "query is no form", method: http.MethodPost, path: "?access_code=" + accessCode, kind: "application/x-www-form-urlencoded", code: http.StatusUnprocessableEntity},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, link+c.path, strings.NewReader(c.body))
		require.NoError(t, err)
		if c.kind != "" {
			req.Header.Set("Content-Type", c.kind)
		}
		for k, v := range c.head {
			req.Header[k] = v
		}
		require.Equal(t, c.code, b.do(req).code, c.name)
	}
	require.Zero(t, r.mailed())
	// A lying Host leads nowhere.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, link, strings.NewReader("action=question"))
	require.NoError(t, err)
	req.Host = "evil.example"
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	require.True(t, strings.HasPrefix(b.do(req).head.Get("Location"), "/m/"))
}

func TestAtRestNothingIsReadable(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{profile: "code-by-mail", factors: []securemail.Factor{withCode, withQuestion}}), r.browser()
	b.post(link, "access_code", "zq-typed-wrong")
	b.post(link, "action", "question")
	b.post(link, "action", "send")
	code := r.code()
	r.grep(code, link)
	b.post(link, "code", code)
	require.True(t, b.reads(link))
	r.grep(code, link)
}

func (r *rig) grep(code, link string) {
	r.t.Helper()
	u, err := url.Parse(r.srv.URL)
	require.NoError(r.t, err)
	_, err = r.db.ExecContext(r.t.Context(), "PRAGMA wal_checkpoint(FULL)")
	require.NoError(r.t, err)
	files, err := filepath.Glob(filepath.Join(r.dir, "*"))
	require.NoError(r.t, err)
	all := r.log.String()
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(r.t, err)
		all += string(b)
	}
	all = strings.ToLower(all)
	secrets := []string{canarySubject, canaryBody, canaryLocal, canaryName, accessCode, "ZQ773141", answer, code, "first dog",
		"zq-typed-wrong", link[len(link)-32:]}
	for _, b := range []*browser{r.browser()} {
		for _, c := range b.Jar.Cookies(u) {
			secrets = append(secrets, c.Value)
		}
	}
	for _, s := range secrets {
		require.NotContains(r.t, all, strings.ToLower(s))
	}
}

func TestTokensAreKeptAsHashes(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{factors: []securemail.Factor{withCode}}), r.browser()
	b.in(link)
	u, err := url.Parse(r.srv.URL)
	require.NoError(t, err)
	cookies := b.Jar.Cookies(u)
	require.Len(t, cookies, 1)
	_, err = r.db.ExecContext(t.Context(), "PRAGMA wal_checkpoint(FULL)")
	require.NoError(t, err)
	for _, f := range []string{"mail.db", "mail.db-wal"} {
		file, err := os.ReadFile(filepath.Join(r.dir, f))
		require.NoError(t, err)
		require.NotContains(t, string(file), cookies[0].Value)
	}
}

func TestDamagedDeposit(t *testing.T) {
	r := newRig(t)
	link, late := r.put("p1", deposit{factors: []securemail.Factor{withCode}}), r.browser()
	late.in(link)
	_, err := r.db.ExecContext(t.Context(), "UPDATE escrow_body SET part=substr(part, 1, length(part)-1)")
	require.NoError(t, err)
	a := r.browser().post(link, "access_code", accessCode)
	require.Equal(t, http.StatusInternalServerError, a.code)
	require.Equal(t, http.StatusInternalServerError, late.get(link).code)
	require.Equal(t, http.StatusInternalServerError, late.get(link+"/body").code)
	require.Equal(t, http.StatusInternalServerError, late.get(link+"/file/3").code)
	require.NotContains(t, r.log.String(), link[len(link)-32:])
	require.Equal(t, []string{"deposited", "read"}, r.kinds())
}

// A download whose end can't be proved must not look whole to the browser.
func TestDownloadCutShort(t *testing.T) {
	r := newRig(t)
	raw := strings.Replace(message, "JVBERi0xLjQK", strings.Repeat(strings.Repeat("QUFB", 19)+"\r\n", 8000), 1)
	link, b := r.put("p1", deposit{raw: raw, factors: []securemail.Factor{withCode}}), r.browser()
	b.in(link)
	whole := b.get(link + "/file/3")
	require.Len(t, whole.body, 8000*19*3)
	_, err := r.db.ExecContext(t.Context(), "DELETE FROM escrow_body WHERE n=(SELECT MAX(n) FROM escrow_body)")
	require.NoError(t, err)
	res, err := b.Get(link + "/file/3")
	if err == nil {
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
	}
	require.Error(t, err)
}

func TestDatabaseAway(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{factors: []securemail.Factor{withCode}}), r.browser()
	b.in(link)
	for _, table := range []string{"portal_hit", "portal_grant", "portal_session", "escrow_deposit"} {
		_, err := r.db.ExecContext(t.Context(), "ALTER TABLE "+table+" RENAME TO "+table+"_away")
		require.NoError(t, err)
		r.pass(2 * time.Minute)
		for _, kv := range [][]string{{"action", "send"}, {"action", "question"}, {"action", "leave"}, {"access_code", accessCode}} {
			a := b.post(link, kv...)
			require.NotEqual(t, http.StatusOK, a.code)
			require.NotContains(t, a.body, table)
		}
		if table != "portal_hit" {
			b.get(link)
			b.get(link + "/body")
			b.get(link + "/file/3")
		}
	}
	require.Equal(t, http.StatusInternalServerError, b.get(link).code)
	require.NotContains(t, r.log.String(), canaryLocal)
}
