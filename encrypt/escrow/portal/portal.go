// Package portal is the web page where a recipient fetches a deposited message (package escrow) with any browser:
// no account, no JavaScript, two page loads and one typed secret.
//
// [New] makes an [http.Handler] that mounts by
//
//	mux.Handle(p.Pattern(), p)
//
// on the host's own mux, best on a host name that serves nothing else (OWASP ASVS 5.0 item 3.5.4). Time-outs are the
// host's http.Server's.
//
// # Routes and form fields
//
// These are stable; all paths are below BaseURL's own path.
//
//	GET  /m/{locator}             the page: proof of identity, or, for a browser that gave it, the message
//	POST /m/{locator}             a form, as application/x-www-form-urlencoded of at most 4 KiB:
//	       action=send            mail a code of 8 digits
//	       action=question        show the question on file
//	       action=leave           sign out
//	       code=...               the mailed code
//	       access_code=...        the access code
//	       answer=...             the answer to the question
//	GET  /m/{locator}/body        the message's HTML, for the sandboxed frame
//	GET  /m/{locator}/file/{n}    attachment n, as a download
//
// A form that was right, or that only asks for something, answers 303 to the page; one that was wrong answers 403, one too
// many 429, each with the page. GET and HEAD change nothing; a signed-in session's puts off its idle limit, and makes up
// for a receipt that sign-in could not record.
//
// # Security properties
//
// A link proves nothing. Before the proof the page's bytes do not depend on the locator at all, and unknown, expired,
// revoked and malformed ones take each request, each throttle and each argon2id as a known one does; asking for a code
// takes at least [Options].Floor for all of them. The one exception: who asks for the question of a live message is
// shown its hint.
//
// A code is drawn from crypto/rand, lives 10 minutes, works once and only in the browser session that asked, and is kept
// as argon2id. Tries are counted in the database before they are checked: 5 per session and message, 20 per message in 10
// minutes and, but for mailed codes, 100 in 30 days (NIST SP 800-63B-4 section 3.2.2), each way of proof on its own; a code is mailed once a minute and three times an hour to an
// address. A browser that has signed in is never throttled by others.
//
// Sessions are 256 random bits in a __Host- cookie, kept as a hash, renewed on proof, ended after 15 minutes without use,
// after 8 hours, or by signing out. The database learns no address, no code and no content in clear.
//
// Foreign HTML passes bluemonday and is shown in a frame that is sandboxed twice, without scripts, forms, remote content
// or an origin. Inline images travel inside that page as data: URLs, since a sandboxed frame has no origin whose
// cookies or resource policy could fetch them. Attachments are downloads only.
//
// # What it does not do
//
// Secure reply, remembered browsers, passkeys, OIDC, SMS, languages other than English and per-tenant branding are not
// built yet. It does not count by network address: that is the host's, who knows its proxies.
package portal

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/securemail"
)

// Sender mails the codes; *securemail.Mailer is one. It is called with the Actor {tenant, "portal", "part"} and a Draft
// of PurposeSystem, which the Policy sends at ChannelEncrypted or better, and must have it durable when it returns.
type Sender interface {
	Send(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error)
}

// SenderFunc makes a Sender of a function.
type SenderFunc func(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error)

// Send calls f.
func (f SenderFunc) Send(ctx context.Context, d *securemail.Draft) (*securemail.Submission, error) {
	return f(ctx, d)
}

// Options of New.
type Options struct {
	// Escrow holds the deposits, base URL, brand and database; required.
	Escrow *escrow.Escrow
	// Sender mails the codes; required.
	Sender Sender
	// Floor is the least time that a request for a code takes, so that its duration does not tell whether one was mailed;
	// 0: 400 ms, negative: none.
	Floor time.Duration
	// Now nil: time.Now. Logger nil: slog.Default().
	Now    func() time.Time
	Logger *slog.Logger
}

// Portal is the handler. It is safe for concurrent use, starts no goroutine and needs no closing.
type Portal struct {
	e       *escrow.Escrow
	o       Options
	store   *store
	cross   *http.CrossOriginProtection
	prefix  string // with the slash behind "m"
	secure  bool
	brand   string
	pageCSP string
}

var _ http.Handler = (*Portal)(nil)

// migrateWithin bounds the start-up work of New.
const migrateWithin = time.Minute

// New checks the options, naming every fault at once, and makes the tables where they are missing.
func New(o *Options) (*Portal, error) {
	if o == nil {
		o = &Options{}
	}
	var faults []error
	if o.Escrow == nil {
		faults = append(faults, errors.New("portal: no escrow"))
	}
	if o.Sender == nil {
		faults = append(faults, errors.New("portal: no sender for codes"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), migrateWithin)
	defer cancel()
	st, err := newStore(ctx, o.Escrow.DB())
	if err != nil {
		return nil, err
	}
	base := o.Escrow.BaseURL()
	p := &Portal{
		e: o.Escrow, o: o.defaults(), store: st, cross: http.NewCrossOriginProtection(),
		prefix: base.Path + "/m/", secure: base.Scheme == "https", brand: o.Escrow.Brand().Name,
	}
	if err := p.cross.AddTrustedOrigin((&url.URL{Scheme: base.Scheme, Host: base.Host}).String()); err != nil {
		return nil, fmt.Errorf("portal: origin: %w", err)
	}
	sum := sha256.Sum256([]byte(style))
	p.pageCSP = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; frame-src 'self'; form-action 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'"
	return p, nil
}

func (o Options) defaults() Options {
	if o.Floor == 0 {
		o.Floor = 400 * time.Millisecond
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Pattern is where the portal must be mounted.
func (p *Portal) Pattern() string { return p.prefix }

// visit is one request.
type visit struct {
	p   *Portal
	w   http.ResponseWriter
	r   *http.Request
	loc escrow.Locator
	// sub is the path behind the locator, without a slash in front.
	sub string
	now time.Time
}

// noLocator stands for every malformed one, so that they are unknown like the others.
var noLocator = escrow.Locator(strings.Repeat("0", 32))

// ServeHTTP implements [http.Handler].
func (p *Portal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.headers(w.Header())
	rest, ok := strings.CutPrefix(r.URL.Path, p.prefix)
	if !ok {
		p.plain(w, r, http.StatusNotFound)
		return
	}
	first, sub, _ := strings.Cut(rest, "/")
	loc, err := escrow.ParseLocator(first)
	if err != nil {
		loc = noLocator
	}
	v := &visit{p: p, w: w, r: r, loc: loc, sub: sub, now: p.o.Now()}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		err = v.get()
	case http.MethodPost:
		err = v.post()
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		p.plain(w, r, http.StatusMethodNotAllowed)
		return
	}
	if err != nil {
		v.failed(err)
	}
}

// failed answers an error that is ours, not the visitor's. The log gets no path: it holds the locator.
func (v *visit) failed(err error) {
	if errors.Is(err, escrow.ErrBusy) || v.r.Context().Err() != nil {
		v.w.Header().Set("Retry-After", "5")
		v.p.plain(v.w, v.r, http.StatusServiceUnavailable)
		return
	}
	v.p.o.Logger.ErrorContext(v.r.Context(), "portal: request failed", slog.Any("err", err))
	v.p.plain(v.w, v.r, http.StatusInternalServerError)
}

func (v *visit) get() error {
	kind, n, _ := strings.Cut(v.sub, "/")
	switch {
	case v.sub == "":
		return v.page()
	case kind == "body" && n == "":
		return v.body()
	case kind == "file":
		return v.file(n)
	}
	v.p.plain(v.w, v.r, http.StatusNotFound)
	return nil
}

// maxForm bounds what a form may hold, in octets.
const maxForm = 4 << 10

func (v *visit) post() error {
	if err := v.p.cross.Check(v.r); err != nil {
		v.p.plain(v.w, v.r, http.StatusForbidden)
		return nil
	}
	if v.sub != "" {
		v.p.plain(v.w, v.r, http.StatusNotFound)
		return nil
	}
	kind, _, _ := strings.Cut(v.r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		v.p.plain(v.w, v.r, http.StatusUnsupportedMediaType)
		return nil
	}
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		code := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			code = http.StatusRequestEntityTooLarge
		}
		v.p.plain(v.w, v.r, code)
		return nil
	}
	v.p.store.sweep(v.r.Context(), v.now, v.p.o.Logger)
	switch v.r.PostForm.Get("action") {
	case "leave":
		return v.leave()
	case "send":
		return v.send()
	case "question":
		return v.question()
	}
	return v.unlock()
}

// headers are those of OWASP ASVS 5.0 section 3.4; pages that need another CSP set it themselves.
func (p *Portal) headers(h http.Header) {
	h.Set("Content-Security-Policy", p.pageCSP)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	// Not "no-referrer": that makes a browser send "Origin: null" with our own forms (Fetch standard, section 3.1), which
	// one that has no Sec-Fetch-Site is then refused for. Other sites get nothing in either case.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "accelerometer=(), camera=(), display-capture=(), fullscreen=(), geolocation=(), gyroscope=(), "+
		"magnetometer=(), microphone=(), midi=(), payment=(), publickey-credentials-get=(), usb=()")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	if p.secure {
		h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	}
}

// toPage sends the browser to the page by GET.
func (v *visit) toPage() error {
	v.w.Header().Set("Location", v.p.prefix+string(v.loc))
	v.w.WriteHeader(http.StatusSeeOther)
	return nil
}
