package portal_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/encrypt/escrow/portal"
	"github.com/postseal/postseal/securemail"
)

// within fails where work takes longer than a request may.
func within(t *testing.T, d time.Duration, work func()) {
	t.Helper()
	start := time.Now()
	work()
	require.Less(t, time.Since(start), d)
}

// One style value kept bluemonday's own handlers busy for ever, each word three times as long as the one before.
func TestStyleValuesCostNothing(t *testing.T) {
	var all strings.Builder
	for _, property := range []string{"border", "border-top", "text-decoration", "font-family", "margin", "list-style-type"} {
		for _, word := range []string{"inherit", "initial", "red", "0"} {
			fmt.Fprintf(&all, `<p style="%s: %szz">x</p>`, property, strings.Repeat(word+" ", 24))
		}
	}
	within(t, 10*time.Second, func() { harmless(t, frame(t, htmlMail(all.String()))) })
}

// A text that names one large image many times made a page of gigabytes.
func TestInlineImagesDoNotMultiply(t *testing.T) {
	raw := "Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n" +
		strings.Repeat("<img src=cid:a>\r\n", 1000) +
		"--b\r\nContent-Type: image/png\r\nContent-ID: <a>\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 28_000) + "\r\n--b--\r\n"
	page := frame(t, raw)
	require.Less(t, len(page), 24<<20)
	require.Positive(t, strings.Count(page, "data:image/png"))
}

func TestHeadersOfPartsAreBounded(t *testing.T) {
	wrap := func(header string) string {
		return "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nfirst\r\n--b\r\n" + header + "\r\n\r\nsecond\r\n--b--\r\n"
	}
	require.Contains(t, look(t, wrap("X: y")).Text, "second")
	for name, raw := range map[string]string{
		"long field":  wrap("X: " + strings.Repeat("y", 24<<20)),
		"many fields": wrap(strings.TrimSpace(strings.Repeat("X: y\r\n", 4<<20))),
		"many parts":  "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nfirst\r\n" + strings.Repeat("--b\r\nContent-Type: multipart/mixed; boundary=c\r\n"+strings.Repeat("X: y\r\n", 9000)+"\r\n--c--\r\n", 900) + "--b--\r\n",
		"preamble":    "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("no part\r\n", 1<<20) + "--b\r\n\r\nfirst\r\n--b--\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			within(t, 5*time.Second, func() {
				v := look(t, raw)
				require.True(t, v.Partial)
				require.NotContains(t, v.Text, "second")
			})
		})
	}
}

// What sign-in could not record was not read by way of the frame or a download either.
func TestNothingIsReadUnrecorded(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{factors: []securemail.Factor{withCode}}), r.browser()
	r.away = errors.New("outbox away")
	require.Equal(t, http.StatusInternalServerError, b.post(link, "access_code", accessCode).code)
	for _, sub := range []string{"", "/body", "/file/2", "/file/3"} {
		got := b.get(link + sub)
		require.Equal(t, http.StatusInternalServerError, got.code, sub)
		require.NotContains(t, got.body, canaryBody)
	}
	r.away = nil
	require.Equal(t, http.StatusOK, b.get(link+"/body").code)
	require.Equal(t, []string{"deposited", "read"}, r.kinds())
}

// Who has the link alone can't close the way of the mailed code for weeks; guesses of what does not change are bounded so.
func TestMailedCodeSurvivesStrangers(t *testing.T) {
	r := newRig(t)
	require.Equal(t, 10*time.Minute, r.p.LongestLimit("code"))
	require.Equal(t, 30*24*time.Hour, r.p.LongestLimit("access_code"))
	require.Equal(t, 30*24*time.Hour, r.p.LongestLimit("answer"))
}

func TestTypedCodes(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{})
	to := func(zero rune) func(string) string {
		return func(s string) string {
			return strings.Map(func(c rune) rune { return zero + c - '0' }, s)
		}
	}
	for name, typed := range map[string]func(string) string{
		"blanks":      func(s string) string { return " " + s[:4] + "\u00a0" + s[4:] + "\u200b\r\n" },
		"full width":  to('\uff10'),
		"Arabic":      to('\u0660'),
		"Devanagari":  to('\u0966'),
		"mathematics": to(0x1d7d8),
	} {
		t.Run(name, func(t *testing.T) {
			b := r.browser()
			b.post(link, "action", "send")
			require.Equal(t, http.StatusSeeOther, b.post(link, "code", typed(r.code())).code)
			r.pass(time.Hour)
		})
	}
}

func TestCodeIsOverWhenTheClockGoesBack(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{}), r.browser()
	b.post(link, "action", "send")
	r.pass(-11 * time.Minute)
	require.Equal(t, http.StatusForbidden, b.post(link, "code", r.code()).code)
}

// A slow look at the route must not tell that there is a message.
func TestSlowRouteIsHiddenByTheFloor(t *testing.T) {
	r := newRig(t)
	slow := &slowProber{r: r}
	e, err := escrow.New(t.Context(), r.db, r.ring, &escrow.Options{BaseURL: r.srv.URL, Prober: slow, Now: r.clock, Logger: r.logger()})
	require.NoError(t, err)
	p, err := portal.New(&portal.Options{Escrow: e, Sender: r, Now: r.clock, Logger: r.logger(), Floor: 600 * time.Millisecond})
	require.NoError(t, err)
	r.e, r.mux = e, http.NewServeMux()
	r.mux.Handle(p.Pattern(), p)
	link := r.put("p1", deposit{})
	slow.hang = true
	start := time.Now()
	require.Equal(t, http.StatusSeeOther, r.browser().post(link, "action", "send").code)
	require.Less(t, time.Since(start), 20*time.Second) // the probe hangs for ever
	require.Equal(t, 1, r.mailed())                    // delivery proves the route
}

type slowProber struct {
	r    *rig
	hang bool
}

func (s *slowProber) Probe(ctx context.Context, tenant, domain string) (securemail.Route, error) {
	if s.hang {
		<-ctx.Done()
		return securemail.Route{}, ctx.Err()
	}
	return s.r.Probe(ctx, tenant, domain)
}

// 200 wrong codes at once from one session: five are looked at, and the right one is not among what got through.
func TestTwoHundredGuessesAtOnce(t *testing.T) {
	r := newRig(t)
	link, b := r.put("p1", deposit{}), r.browser()
	b.post(link, "action", "send")
	var mu sync.Mutex
	got := map[int]int{}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			a := b.post(link, "code", fmt.Sprintf("%08dx", i))
			mu.Lock()
			defer mu.Unlock()
			got[a.code]++
		})
	}
	wg.Wait()
	require.LessOrEqual(t, got[http.StatusForbidden], 5, got)
	require.Zero(t, got[http.StatusSeeOther])
	require.Equal(t, http.StatusTooManyRequests, b.post(link, "code", r.code()).code)
}

// A session is nobody's but for the message that it proved, whatever else it holds.
func TestSessionOpensOneMessageOnly(t *testing.T) {
	r := newRig(t)
	mine := r.put("p1", deposit{profile: "code-by-mail", factors: []securemail.Factor{withCode}})
	other := r.put("p2", deposit{profile: "code-by-mail"}) // same address
	b := r.browser().in(mine)
	for _, sub := range []string{"", "/body", "/file/0", "/file/3"} {
		require.NotContains(t, b.get(other+sub).body, canaryBody)
	}
	b.post(mine, "action", "send")
	require.Equal(t, http.StatusForbidden, b.post(other, "code", r.code()).code)
}

var hostile2 = []string{
	`<math><mtext><table><mglyph><style><math><img src=x onerror=alert(1)>`,
	`<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>`,
	`<svg></p><style><a id="</style><img src=1 onerror=alert(1)>">`,
	`<svg><style>&lt;img src=x onerror=alert(1)&gt;</style></svg>`,
	`<svg><title><a id="</title><img src=x onerror=alert(1)>"></title></svg>`,
	`<svg><use href="data:image/svg+xml,<svg id=x><script>alert(1)</script></svg>#x"/></svg>`,
	`<svg><animate attributeName=href values=javascript:alert(1) /><a id=x><rect></a></svg>`,
	`<svg><set attributeName=onmouseover to=alert(1)></svg><svg><image href=//evil.example></svg>`,
	`<math><annotation-xml encoding="text/html"><script>alert(1)</script></annotation-xml></math>`,
	`<math><maction actiontype="statusline#http://evil.example" xlink:href="javascript:alert(1)">x</maction></math>`,
	`<noembed><img src="</noembed><iframe onload=alert(1)>"></noembed>`,
	`<noframes><style></noframes><img src=x onerror=alert(1)></style>`,
	`<select><template><style><!--</style><a rel="--></style></template></select><img src=x onerror=alert(1)>">`,
	`<table><td><form><table><tr><input onfocus=alert(1) autofocus>`,
	`<a href="//evil.example/x">x</a><a href="/\evil.example">x</a><a href="\\evil.example">x</a><a href="/m/x" target=_top>x</a>`,
	`<a href="http:evil.example">x</a><a href="https:///evil.example" rel=opener target=foo>x</a>`,
	`<a href="&#1;javascript:alert(1)">x</a><a href="&#x6a;avascript&colon;alert(1)">x</a><a href="jav&Tab;ascript:alert(1)">x</a>`,
	"<a href=\"java\u0000script:alert(1)\">x</a><a href='\u2028javascript:alert(1)'>x</a><a href=\"javascript&NewLine;:alert(1)\">x</a>",
	`<a href="view-source:https://evil.example">x</a><a href="intent://x#Intent;end">x</a><a href="ms-msdt:/id">x</a><a href="search-ms:query=x">x</a>`,
	`<a href="data:text/html;base64,PHNjcmlwdD4=">x</a><a href="filesystem:https://x">x</a><a href="about:blank">x</a>`,
	`<img src="cid:x" usemap="#m"><map name=m><area href="javascript:alert(1)" shape=default></map>`,
	`<img src="cid:&quot;onerror=alert(1)"><img src='cid:x" onerror="alert(1)'><img src=cid:x onerror=alert(1) loading=lazy>`,
	"<img src=`cid:x` onerror=alert(1)><img/src=//evil.example/onerror=alert(1)>",
	`<img sizes=auto srcset="https://evil.example 1x" src=cid:x imagesrcset=//evil.example>`,
	`<p style="background:red url( 'https://evil.example' )">x</p><p style="background-color:url(//evil.example)">x</p>`,
	`<p style="color:\75\72\6c(//evil.example)">x</p><p style="color:u\rl(//evil.example)">x</p><p style="color:red/**/;}body{background:url(//evil.example)}">x</p>`,
	`<p style="width:calc(1px + expression(alert(1)))">x</p><p style="color:expr/**/ession(alert(1))">x</p>`,
	`<p style="background-color:image-set('//evil.example' 1x)">x</p><p style="color:-webkit-image-set(url(//evil.example))">x</p>`,
	`<p style="border:1px solid var(--x);color:attr(title url);font-family:env(evil)">x</p>`,
	`<p style="font-family:'</style><img src=x onerror=alert(1)>'">x</p><p style='color:red" onmouseover="alert(1)'>x</p>`,
	`<p style="margin:-9999px;position:sticky;inset:0;z-index:1;top:0">x</p><p style="display:block;clip-path:url(#x);filter:url(//evil.example)">x</p>`,
	`<p style="@import '//evil.example'">x</p><p style="color:red;behavior:url(#default#time2)">x</p>`,
	`<font color="expression(alert(1))" face="x;background:url(//evil.example)">x</font><td bgcolor="url(//evil.example)">`,
	`<p lang="&quot; onload=alert(1)">x</p><p dir=javascript:alert(1)>x</p><ol start="1 onload=alert(1)">`,
	`<p title="<img src=x onerror=alert(1)>" alt="</p><script>alert(1)</script>">x</p>`,
	`<q cite="javascript:alert(1)">x</q><blockquote cite="https://evil.example/ping">x</blockquote><del cite=//evil.example>x</del>`,
	`<bgsound src=//evil.example><layer src=//evil.example><ilayer src=x><xml src=//evil.example id=x><comment><img src=x onerror=alert(1)></comment>`,
	`<p is="x-y" slot=a part=b exportparts=c popover popovertarget=x itemscope itemid=//evil.example>x</p>`,
	`<button popovertarget=x formaction=javascript:alert(1) commandfor=x command=show-modal>x</button><search><meter><output>`,
	`<html manifest=//evil.example><head profile=//evil.example><body link=red onpageshow=alert(1)><head><base target=_top>`,
	`<link rel=modulepreload href=//evil.example><script type=speculationrules>{"prefetch":[{"urls":["//evil.example"]}]}</script>`,
	`<style>p::after{content:url(//evil.example)}</style><style media="x"><!--</style><img src=//evil.example>--></style>`,
	"<\x00script>alert(1)</script><s\u0130cript>alert(1)</s\u0130cript><\u017fcript>alert(1)</\u017fcript><\uff1cscript\uff1e>",
	"\x1b$B<script>alert(1)</script>\x1b(B+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
	`<!--><img src=x onerror=alert(1)>--><!--!><img src=x onerror=alert(1)>--><!-- --!><img src=x onerror=alert(1)>-->`,
	`<!DOCTYPE html [<!ENTITY x "<script>alert(1)</script>">]>&x;<?php echo 1 ?><%= x %><![if gte IE 4]><script>alert(1)</script><![endif]>`,
	`</p x="><img src=x onerror=alert(1)>"></br><img src=x onerror=alert(1)></plaintext><script>alert(1)</script>`,
}

func TestMoreHostileHTML(t *testing.T) {
	for _, h := range hostile2 {
		for _, before := range []string{"", "<table><tr><td>", "<svg>", "<math><mtext>", "<select>", "<p style='color:red'>"} {
			harmless(t, frame(t, htmlMail(before+h)))
		}
	}
	harmless(t, frame(t, htmlMail(strings.Join(hostile2, "\n"))))
}

func TestExpiredWhileReading(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode}, until: r.clock().Add(time.Minute)})
	b := r.browser().in(link)
	require.True(t, b.reads(link))
	r.pass(time.Minute)
	require.Equal(t, http.StatusGone, b.get(link).code)
	for _, sub := range []string{"/body", "/file/0", "/file/3"} {
		require.Equal(t, http.StatusUnauthorized, b.get(link+sub).code)
	}
}

// An attacker's page, a sandboxed frame and a browser without Sec-Fetch-Site all name an origin that is not ours.
func TestForeignFormsChangeNothing(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode}})
	b := r.browser().in(link)
	for _, head := range []http.Header{
		{"Origin": {"null"}}, {"Origin": {"null"}, "Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}},
		{"Origin": {r.srv.URL + ".evil.example"}}, {"Origin": {strings.Replace(r.srv.URL, "https", "http", 1) + "0"}},
		{"Sec-Fetch-Site": {"nonsense"}},
	} {
		for _, form := range []string{"action=leave", "action=send", "access_code=x"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, link, strings.NewReader(form))
			require.NoError(t, err)
			req.Header = head.Clone()
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			require.Equal(t, http.StatusForbidden, b.do(req).code, "%v", head)
		}
	}
	require.Zero(t, r.mailed())
	require.True(t, b.reads(link))
}

// Whatever the path is, the answer stays below our own prefix, and a coded slash is no way to another file.
func TestPathsOfStrangers(t *testing.T) {
	r := newRig(t)
	link := r.put("p1", deposit{factors: []securemail.Factor{withCode}})
	loc := link[strings.LastIndexByte(link, '/')+1:]
	for _, path := range []string{
		"//evil.example", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/x", "/" + loc + "%2fbody", "/" + loc + "%00", "/" + strings.ToUpper(loc),
		"/" + loc + "/file/-1", "/" + loc + "/file/0x1", "/" + loc + "/file/99999999999999999999", "/" + loc + "/file/1/2", "/%5cevil.example",
		"/" + strings.Repeat("a", 8000), "/" + loc + "%0d%0aSet-Cookie:%20x=y",
	} {
		got := r.browser().get(r.srv.URL + "/m" + path)
		require.NotContains(t, got.body, canaryBody, path)
		require.Empty(t, got.head.Get("Set-Cookie"), path)
		if to := got.head.Get("Location"); to != "" {
			require.Regexp(t, `^/[^/\\]`, to, path)
		}
		post := r.browser().post(r.srv.URL+"/m"+path, "action", "question")
		if to := post.head.Get("Location"); to != "" {
			require.Regexp(t, `^/[^/\\]`, to, path)
		}
	}
}
