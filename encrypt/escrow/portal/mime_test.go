package portal_test

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/postseal/postseal/encrypt/escrow/portal"
	"github.com/postseal/postseal/securemail"
)

func look(t *testing.T, raw string) *portal.View {
	t.Helper()
	v, err := portal.Look(strings.NewReader(raw))
	require.NoError(t, err)
	return v
}

func frame(t *testing.T, raw string) string {
	t.Helper()
	b, err := portal.Frame(strings.NewReader(raw))
	require.NoError(t, err)
	return string(b)
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

func names(v *portal.View) (ns []string) {
	for _, f := range v.Files {
		ns = append(ns, f.Name)
	}
	return ns
}

func TestLookAtShapesOfMail(t *testing.T) {
	for name, c := range map[string]struct {
		raw     string
		text    string
		html    bool
		files   []string
		partial bool
	}{
		"plain without MIME":       {raw: "Subject: x\n\nhello\n", text: "hello"},
		"quoted-printable latin-1": {raw: "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nGr=FC=DFe\n", text: "Grüße"},
		"shift-jis":                {raw: "Content-Type: text/plain; charset=shift_jis\nContent-Transfer-Encoding: base64\n\ngrGC8YLJgr+CzQ==\n", text: "こんにちは"},
		"unknown charset":          {raw: "Content-Type: text/plain; charset=x-klingon\n\nab\xffc\n", text: "ab\uFFFDc"},
		"unknown encoding":         {raw: "Content-Type: text/plain\nContent-Transfer-Encoding: uuencode\n\nabc\n", text: "abc"},
		"html alone":               {raw: "Content-Type: text/html\n\n<p>x</p>\n", html: true},
		"alternative":              {raw: "Content-Type: multipart/alternative; boundary=b\n\n--b\n\nplain\n--b\nContent-Type: text/html\n\n<p>x</p>\n--b--\n", html: true},
		"alternative of plain and invitation": {
			raw:  "Content-Type: multipart/alternative; boundary=b\n\n--b\n\nplain\n--b\nContent-Type: text/calendar\n\nBEGIN:VCALENDAR\n--b--\n",
			text: "plain", files: []string{"attachment-2.ics"},
		},
		"Apple Mail: text, picture, text": {
			raw:  "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\nContent-Type: image/jpeg; name=\"a.jpg\"\nContent-Disposition: inline; filename=\"a.jpg\"\n\nxx\n--b\n\ntwo\n--b--\n",
			text: "one\n\ntwo", files: []string{"a.jpg"},
		},
		"list footer behind HTML": {
			raw:  "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/html\n\n<p>x</p>\n--b\nContent-Type: text/plain; name=\"footer.txt\"\n\nfoot\n--b--\n",
			html: true, files: []string{"footer.txt"},
		},
		"text in front of HTML":      {raw: "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nfront\n--b\nContent-Type: text/html\n\n<p>x</p>\n--b--\n", html: true, text: "front"},
		"forwarded message":          {raw: "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nsee below\n--b\nContent-Type: message/rfc822\n\nSubject: inner\n\ninner\n--b--\n", text: "see below", files: []string{"attachment-2.eml"}},
		"signed":                     {raw: "Content-Type: multipart/signed; boundary=b\n\n--b\n\nsigned\n--b\nContent-Type: application/pkcs7-signature; name=smime.p7s\n\nxx\n--b--\n", text: "signed", files: []string{"smime.p7s"}},
		"text as attachment":         {raw: "Content-Type: text/plain\nContent-Disposition: attachment; filename=notes.txt\n\nsecret\n", files: []string{"notes.txt"}},
		"unused inline picture":      {raw: "Content-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/html\n\n<p>x</p>\n--b\nContent-Type: image/png; name=l.png\nContent-ID: <l>\n\nxx\n--b--\n", html: true, files: []string{"l.png"}},
		"two pictures of one id":     {raw: "Content-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/html\n\n<img src=cid:l>\n--b\nContent-Type: image/png; name=1.png\nContent-ID: <l>\n\nxx\n--b\nContent-Type: image/png; name=2.png\nContent-ID: <l>\n\nyy\n--b--\n", html: true, files: []string{"2.png"}},
		"svg is never shown":         {raw: "Content-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/html\n\n<img src=cid:l>\n--b\nContent-Type: image/svg+xml; name=l.svg\nContent-ID: <l>\n\n<svg/>\n--b--\n", html: true, files: []string{"l.svg"}},
		"no end of the parts":        {raw: "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n", text: "one", partial: true},
		"broken inner header":        {raw: "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\nno colon here\n\nx\n--b--\n", text: "one", partial: true},
		"broken outer header":        {raw: "no colon\n\nx\n", partial: true},
		"broken base64":              {raw: "Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n!!!\n", partial: true},
		"broken content type":        {raw: "Content-Type: ;;;\n\nx\n", files: []string{"attachment-1.bin"}},
		"multipart without boundary": {raw: "Content-Type: multipart/mixed\n\nx\n", partial: true},
		"empty":                      {raw: "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			v := look(t, crlf(c.raw))
			require.Equal(t, c.text, strings.TrimSpace(strings.ReplaceAll(v.Text, "\r\n", "\n")))
			require.Equal(t, c.html, v.HasHTML)
			require.Equal(t, c.files, names(v))
			require.Equal(t, c.partial, v.Partial)
		})
	}
}

// The messages that clients really make: each shows a subject and something to read, in whole and without harm.
func TestRealMail(t *testing.T) {
	files, err := filepath.Glob("../../../examples/testdata/*.eml")
	require.NoError(t, err)
	if len(files) == 0 {
		t.Skip("no sample messages here")
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			raw, err := os.ReadFile(f)
			require.NoError(t, err)
			v := look(t, string(raw))
			require.False(t, v.Partial)
			t.Logf("%q %q %q html=%v text=%d files=%v", v.Subject, v.From, v.Date, v.HasHTML, len(v.Text), names(v))
			require.NotContains(t, v.Subject+v.From, "=?")
			require.NotContains(t, v.Text, "\uFFFD")
			page := frame(t, string(raw))
			harmlessFuzz(t, page)
			require.NotContains(t, page, "\uFFFD")
		})
	}
}

func TestLookIsBounded(t *testing.T) {
	deep := "body"
	for i := range 40 {
		deep = fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n%s\r\n--b%d--\r\n", i, i, deep, i)
	}
	require.True(t, look(t, deep).Partial)

	var many strings.Builder
	many.WriteString("Content-Type: multipart/mixed; boundary=b\r\n\r\n")
	for range 5000 {
		many.WriteString("--b\r\nContent-Type: image/png\r\n\r\nx\r\n")
	}
	many.WriteString("--b--\r\n")
	v := look(t, many.String())
	require.True(t, v.Partial)
	require.Len(t, v.Files, 1000)

	var empty strings.Builder // many empty multiparts, which are no leaves
	empty.WriteString("Content-Type: multipart/mixed; boundary=b\r\n\r\n")
	for range 2000 {
		empty.WriteString("--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n")
	}
	empty.WriteString("--b--\r\n")
	require.True(t, look(t, empty.String()).Partial)

	require.True(t, look(t, "X: "+strings.Repeat("y", 300<<10)+"\r\n\r\nbody").Partial)

	long := look(t, "\r\n"+strings.Repeat(strings.Repeat("x", 70)+"\r\n", 20_000))
	require.Empty(t, long.Text)
	require.Equal(t, []string{"attachment-1.txt"}, names(long))

	big := "Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<img src=cid:a><img src=cid:b>\r\n"
	for _, id := range []string{"a", "b"} {
		big += "--b\r\nContent-Type: image/png; name=" + id + ".png\r\nContent-ID: <" + id + ">\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 80_000) + "\r\n"
	}
	big += "--b--\r\n"
	require.Equal(t, []string{"b.png"}, names(look(t, big)))
	require.Equal(t, 1, strings.Count(frame(t, big), "data:image/png"))
}

func TestLookTellsStoreFromStructure(t *testing.T) {
	away := errors.New("store away")
	r := io.MultiReader(strings.NewReader("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n"), &failing{away})
	_, err := portal.Look(r)
	require.ErrorIs(t, err, away)
	_, err = portal.Frame(&failing{away})
	require.ErrorIs(t, err, away)
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestHeaderFields(t *testing.T) {
	v := look(t, crlf("From: =?iso-8859-1?q?J=F6rg?= <j@x.example>\nSubject: =?utf-8?b?4oCuZXhl?= a\tb\x01\nDate: nonsense\n\nx\n"))
	require.Equal(t, "Jörg <j@x.example>", v.From)
	require.Equal(t, "exe a b", v.Subject) // the mark that turns the direction is gone
	require.Equal(t, "unknown", v.Date)
	v = look(t, crlf("From: =?x-klingon?q?a?=\nSubject: =?x-klingon?q?b?=\nDate: Tue, 24 Nov 2026 11:00:00 -0500\n\nx\n"))
	require.Contains(t, v.From, "klingon")
	require.Contains(t, v.Subject, "klingon")
	require.Equal(t, "Tuesday, 24 November 2026, 11:00 -0500", v.Date)
	require.Len(t, []rune(look(t, "Subject: "+strings.Repeat("ä", 900)+"\r\n\r\n").Subject), 500)
}

func TestFileNames(t *testing.T) {
	for in, want := range map[string]string{
		"report.pdf":                      "report.pdf",
		"":                                "attachment-3.pdf",
		"../../etc/passwd":                "passwd",
		`..\..\windows\win.ini`:           "win.ini",
		"/":                               "attachment-3.pdf",
		"..":                              "attachment-3.pdf",
		"...hidden":                       "hidden",
		"con":                             "attachment-3.pdf",
		"COM1.txt":                        "attachment-3.pdf",
		"lpt9":                            "attachment-3.pdf",
		"comet.txt":                       "comet.txt",
		"a\r\nSet-Cookie: x=1.txt":        "aSet-Cookie_ x=1.txt",
		"a\x00b.txt":                      "ab.txt",
		"gpj.\u202eexe.pdf":               "gpj.exe.pdf",
		"<b>|?*\".pdf":                    "_b_____.pdf",
		"Befund – Größe.pdf":              "Befund – Größe.pdf",
		" x . ":                           "x",
		strings.Repeat("ü", 200) + ".pdf": strings.Repeat("ü", 96) + ".pdf",
		"a." + strings.Repeat("x", 200):   "a." + strings.Repeat("x", 98),
		"https://evil.example/x.html?y":   "x.html_y",
	} {
		got := portal.FileName(in, "application/pdf", 2)
		require.Equal(t, want, got, "%q", in)
		require.Equal(t, got, portal.FileName(got, "application/pdf", 2)) // safe names stay
	}
	for kind, ext := range map[string]string{
		"text/plain": ".txt", "text/html": ".html", "text/calendar": ".ics", "message/rfc822": ".eml", "image/png": ".png",
		"image/jpeg": ".jpg", "image/gif": ".gif", "application/x-y": ".bin",
	} {
		require.Equal(t, "attachment-1"+ext, portal.FileName("", kind, 0))
	}
}

func TestDisposition(t *testing.T) {
	for in, want := range map[string]string{
		"report.pdf":  `attachment; filename="report.pdf"`,
		"a b.pdf":     `attachment; filename="a b.pdf"`,
		`a"b\c.pdf`:   `attachment; filename="a_b_c.pdf"; filename*=UTF-8''a%22b%5Cc.pdf`,
		"Größe.pdf":   `attachment; filename="Gr__e.pdf"; filename*=UTF-8''Gr%C3%B6%C3%9Fe.pdf`,
		"50%.pdf":     `attachment; filename="50_.pdf"; filename*=UTF-8''50%25.pdf`,
		"x;y='z'.pdf": `attachment; filename="x;y='z'.pdf"`,
	} {
		got := portal.Disposition(in)
		require.Equal(t, want, got)
		kind, params, err := mime.ParseMediaType(got)
		require.NoError(t, err)
		require.Equal(t, "attachment", kind)
		if strings.Contains(got, "filename*") {
			require.Equal(t, in, params["filename"])
		}
	}
}

func TestDownloadTypes(t *testing.T) {
	for in, want := range map[string]string{
		"application/pdf": "application/pdf", "image/png": "image/png", "audio/ogg": "audio/ogg", "video/mp4": "video/mp4",
		"text/plain": "text/plain; charset=utf-8", "text/csv": "text/csv; charset=utf-8", "application/zip": "application/zip",
		"application/vnd.openxmlformats-officedocument.wordprocessingml.document": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
		"text/html": "application/octet-stream", "image/svg+xml": "application/octet-stream", "application/xhtml+xml": "application/octet-stream",
		"text/xml": "application/octet-stream", "text/javascript": "application/octet-stream", "message/rfc822": "application/octet-stream",
		"nonsense;;": "application/octet-stream", "image/x\r\ny": "application/octet-stream",
	} {
		require.Equal(t, want, portal.Download(in), in)
	}
}

// Names from a message reach a header only as one harmless value.
func TestHostileAttachmentNames(t *testing.T) {
	r := newRig(t)
	raw := "Subject: x\r\nMessage-ID: <m@clinic.example>\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
	for _, n := range []string{
		`filename="../../../etc/passwd"`,
		`filename*=utf-8''a%0d%0aSet-Cookie:%20x=1%0d%0a%0d%0a<script>.html`,
		`filename="=?utf-8?q?a=0D=0AX-Evil:_1.txt?="`,
		`filename="a\";filename=b.exe"`,
		`filename*=utf-8''%E2%80%AEfdp.exe`,
		`filename="<img src=x onerror=alert(1)>.png"`,
	} {
		raw += "--b\r\nContent-Type: text/html\r\nContent-Disposition: attachment; " + n + "\r\n\r\n<script>alert(1)</script>\r\n"
	}
	link := r.put("p1", deposit{raw: raw + "--b--\r\n", factors: []securemail.Factor{withCode}})
	b := r.browser().in(link)
	page := b.get(link).body
	require.NotContains(t, page, "<script")
	require.NotContains(t, page, "<img")
	for n := range 6 {
		a := b.get(fmt.Sprintf("%s/file/%d", link, n))
		require.Equal(t, http.StatusOK, a.code)
		require.Empty(t, a.head.Get("X-Evil"))
		require.Empty(t, a.head.Get("Set-Cookie"))
		require.Equal(t, "application/octet-stream", a.head.Get("Content-Type"))
		kind, params, err := mime.ParseMediaType(a.head.Get("Content-Disposition"))
		require.NoError(t, err)
		require.Equal(t, "attachment", kind)
		require.Empty(t, strings.Trim(strings.Map(func(r rune) rune {
			if strings.ContainsRune("/\\\r\n\u202e", r) {
				return r
			}
			return -1
		}, params["filename"]), " "))
	}
}

// hostile is what mail may carry; each line is one mail.
var hostile = []string{
	`<script>alert(1)</script>`,
	`<SCRIPT SRC=//evil.example/x.js></SCRIPT>`,
	`<img src=x onerror=alert(1)>`,
	`<img src="https://evil.example/pixel.gif">`,
	`<img src=//evil.example/p><img srcset="//evil.example/p 1x"><picture><source srcset=//evil.example/p><img></picture>`,
	`<img src="cid:x" srcset="https://evil.example/p 2x" lowsrc="https://evil.example/q" dynsrc="https://evil.example/r">`,
	`<img src="data:image/svg+xml,<svg onload=alert(1)>">`,
	`<img src="data:image/png;base64,AAAA">`,
	`<img src=" cid:&#13;&#10;javascript:alert(1)">`,
	`<img src="cid://[::1]:x/y"><img src="cid:a?b#%zz"><img src="cid:%zz"><img src="cid:"><img src="CID:a b">`,
	`<a href="javascript:alert(1)">x</a>`,
	`<a href="  jAvAsCrIpT&#58;alert(1)">x</a>`,
	`<a href="java&#x0a;script:alert(1)">x</a>`,
	`<a href="data:text/html,<script>alert(1)</script>">x</a>`,
	`<a href="vbscript:x">x</a><a href="blob:x">x</a><a href="file:///etc/passwd">x</a>`,
	`<a href="https://ok.example" onclick="alert(1)" ping="https://evil.example" target=_self>x</a>`,
	`<svg><script>alert(1)</script></svg><svg onload=alert(1)>`,
	`<svg><a xlink:href="javascript:alert(1)"><text>x</text></a></svg>`,
	`<svg><foreignObject><iframe src=//evil.example></iframe></foreignObject></svg>`,
	`<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(1)&gt;">`,
	`<math href="javascript:alert(1)">x</math>`,
	`<form action="https://evil.example"><input name=a><button formaction=//evil.example>x</button></form>`,
	`<input type=image src=//evil.example><select autofocus onfocus=alert(1)><textarea autofocus onfocus=alert(1)>`,
	`<base href="https://evil.example/"><a href="x">y</a>`,
	`<meta http-equiv=refresh content="0;url=https://evil.example">`,
	`<meta http-equiv="Content-Security-Policy" content="default-src *">`,
	`<link rel=stylesheet href=//evil.example/x.css><link rel=prefetch href=//evil.example><link rel=dns-prefetch href=//evil.example>`,
	`<style>@import url(//evil.example/x.css); body{background:url(//evil.example)}</style>`,
	`<div style="background:url(https://evil.example/p)">x</div>`,
	`<div style="background-image:url('//evil.example')">x</div>`,
	`<div style="width:expression(alert(1));behavior:url(x.htc);-moz-binding:url(x)">x</div>`,
	`<div style="color:red;background:\75rl(https://evil.example)">x</div>`,
	`<div style="list-style:url(//evil.example);border-image:url(//evil.example);cursor:url(//evil.example),auto">x</div>`,
	`<div style="font-family:'x';src:url(//evil.example)">x</div>`,
	`<div style="position:fixed;top:0;left:0;width:9999px;height:9999px;z-index:9999">x</div>`,
	`<table background="https://evil.example/p"><tr><td background=//evil.example>x</td></tr></table>`,
	`<body background="https://evil.example/p" onload=alert(1)>`,
	`<iframe src="https://evil.example"></iframe><iframe srcdoc="<script>alert(1)</script>"></iframe>`,
	`<object data="https://evil.example"></object><embed src="https://evil.example"><applet code=x></applet>`,
	`<video src=//evil.example poster=//evil.example></video><audio src=//evil.example></audio><track src=//evil.example>`,
	`<frameset><frame src=//evil.example></frameset>`,
	`<noscript><p title="</noscript><img src=x onerror=alert(1)>"></noscript>`,
	`<template><img src=//evil.example onerror=alert(1)></template>`,
	`<title><img src=x onerror=alert(1)></title><textarea></textarea><img src=x onerror=alert(1)>`,
	`<xmp><img src=x onerror=alert(1)></xmp><plaintext><img src=x onerror=alert(1)>`,
	`<!--[if mso]><img src="https://evil.example"><![endif]--><!--[if !mso]><!--><p>x</p><!--<![endif]-->`,
	`<![CDATA[<img src=x onerror=alert(1)>]]><?xml-stylesheet href="//evil.example"?>`,
	`<o:p onmouseover=alert(1)>x</o:p><v:imagedata src="https://evil.example"/>`,
	`<p id="cookie" class="x" name="location">x</p><a id=x name=y href=#z>z</a>`,
	"<img src=x\x00 onerror=alert(1)><scr\x00ipt>alert(1)</script>",
	`<img """><script>alert(1)</script>">`,
	`</body></html><script>alert(1)</script><iframe src=//evil.example>`,
	`<p dir="rtl" onmouseenter=alert(1) contenteditable accesskey=x tabindex=1 autofocus>x</p>`,
	`<dialog open><form method=dialog></form></dialog><details open ontoggle=alert(1)>x</details>`,
	`<marquee onstart=alert(1)>x</marquee><blink>x</blink><keygen autofocus onfocus=alert(1)><isindex action=//evil.example>`,
	`<custom-element onclick=alert(1)>x</custom-element><portal src=//evil.example></portal><fencedframe src=//evil.example>`,
}

func htmlMail(body string) string {
	return "Content-Type: text/html; charset=utf-8\r\n\r\n" + body + "\r\n"
}

func TestHostileHTML(t *testing.T) {
	for _, h := range hostile {
		harmless(t, frame(t, htmlMail(h)))
		harmless(t, frame(t, htmlMail("<div><p>"+h)))
		harmless(t, frame(t, htmlMail(h+h)))
	}
	harmless(t, frame(t, htmlMail(strings.Join(hostile, "\n"))))
}

var allowedURL = []string{"https://", "http://", "mailto:", "tel:", "cid:"}

// harmless parses page as a browser does and fails on anything that could act, send or load.
func harmless(t *testing.T, page string) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	require.NoError(t, err)
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script", "style", "iframe", "frame", "frameset", "object", "embed", "applet", "form", "input", "button", "select",
			"textarea", "base", "link", "svg", "math", "video", "audio", "source", "track", "template", "noscript", "portal", "dialog", "picture":
			require.Fail(t, "element "+n.Data, page)
		case "meta":
			require.Equal(t, []html.Attribute{{Key: "charset", Val: "utf-8"}}, n.Attr)
		}
		for _, a := range n.Attr {
			harmlessAttr(t, n.Data, a, page)
		}
	}
}

func harmlessAttr(t *testing.T, element string, a html.Attribute, page string) {
	t.Helper()
	val := strings.ToLower(a.Val)
	require.False(t, strings.HasPrefix(a.Key, "on"), page)
	switch a.Key {
	case "src":
		require.Equal(t, "img", element)
		require.True(t, val == "" || strings.HasPrefix(val, "data:image/png;base64,"), page)
	case "href":
		ok := false
		for _, p := range allowedURL {
			ok = ok || strings.HasPrefix(val, p)
		}
		require.True(t, ok, page)
	case "style":
		for _, bad := range []string{"url", "expression", "behavior", "binding", "import", "position", "\\", "evil"} {
			require.NotContains(t, val, bad, page)
		}
	case "srcset", "background", "ping", "action", "formaction", "poster", "data", "srcdoc", "id", "name", "class", "xlink:href", "lowsrc", "dynsrc":
		require.Fail(t, "attribute "+a.Key, page)
	case "rel":
		require.Contains(t, val, "noreferrer")
	}
}

func TestHTMLKeepsWhatMailLooksLike(t *testing.T) {
	page := frame(t, htmlMail(`<table width="600" cellpadding=0 bgcolor="#ffffff"><tr><td style="color: red; padding: 4px; font-family: Arial" align=center>`+
		`<h1>Hi</h1><b>x</b> <font color="blue" face="Arial">y</font><a href="https://clinic.example/x?a=1&amp;b=2">link</a></td></tr></table>`))
	for _, want := range []string{`width="600"`, `bgcolor="#ffffff"`, "color: red", "padding: 4px", "<h1>Hi</h1>", `color="blue"`,
		`href="https://clinic.example/x?a=1&amp;b=2"`, `target="_blank"`, "noopener", "noreferrer"} {
		require.Contains(t, page, want)
	}
}

// The quickest way through all parsers of foreign bytes: nothing panics, nothing hostile comes out.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(message))
	for _, h := range hostile {
		f.Add([]byte(htmlMail(h)))
	}
	seeds, _ := filepath.Glob("../../../examples/testdata/*.eml")
	for _, s := range seeds {
		if b, err := os.ReadFile(s); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := portal.Look(strings.NewReader(string(raw)))
		require.NoError(t, err)
		for _, file := range v.Files {
			require.Empty(t, strings.Trim(strings.Map(func(r rune) rune {
				if r < ' ' || r == '/' || r == '\\' {
					return r
				}
				return -1
			}, file.Name), ""))
			_, _, err := mime.ParseMediaType(portal.Disposition(file.Name))
			require.NoError(t, err)
		}
		page, err := portal.Frame(strings.NewReader(string(raw)))
		require.NoError(t, err)
		harmlessFuzz(t, string(page))
	})
}

// harmlessFuzz is harmless for bytes that may well hold inline images of other kinds.
func harmlessFuzz(t *testing.T, page string) {
	for _, kind := range []string{"jpeg", "jpg", "gif", "webp", "bmp"} {
		page = strings.ReplaceAll(page, "data:image/"+kind+";base64,", "data:image/png;base64,")
	}
	harmless(t, page)
}
