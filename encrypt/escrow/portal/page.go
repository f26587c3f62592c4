package portal

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
)

// style is the one style sheet; the CSP names its hash. Colours are at least 7:1 on their ground (WCAG 2.2 item 1.4.6).
const style = `:root{color-scheme:light}
body{margin:0;background:#f4f5f7;color:#1a1a1a;font:1.0625rem/1.5 system-ui,sans-serif}
main{max-width:44rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.5rem;line-height:1.25;overflow-wrap:anywhere}
h2{font-size:1.125rem;margin:0 0 .5rem}
section,.card{background:#fff;border:1px solid #8a8f98;border-radius:.5rem;padding:1rem;margin:1rem 0}
section>:last-child,section p{margin-bottom:0}section p{margin-top:0}
label{display:block;font-weight:600;margin:.5rem 0 .25rem}
input{display:block;font:inherit;box-sizing:border-box;width:100%;max-width:22rem;min-height:2.75rem;padding:.5rem;border:2px solid #5b616b;border-radius:.375rem;background:#fff;color:inherit}
button{font:inherit;font-weight:600;min-height:2.75rem;margin-top:.75rem;padding:.5rem 1rem;border:2px solid #0b4f9c;border-radius:.375rem;background:#0b4f9c;color:#fff;cursor:pointer}
button.quiet{background:#fff;color:#0b4f9c}
a{color:#0b4f9c}
a:focus-visible,button:focus-visible,input:focus-visible,iframe:focus-visible{outline:3px solid #1a1a1a;outline-offset:2px}
.error{border:2px solid #9b1c1c;color:#7f1515;background:#fff}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:0 0 1rem}
dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:0}
iframe{display:block;box-sizing:border-box;width:100%;height:70vh;border-radius:.5rem;border:1px solid #8a8f98;background:#fff}
li{margin:.25rem 0;overflow-wrap:anywhere}`

const shell = `{{define "top"}}<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>` + style + `</style>
</head>
<body>
<main>
{{end}}{{define "bottom"}}</main>
</body>
</html>
{{end}}`

const doorText = `{{define "door"}}{{template "top" .}}<h1>Secure message{{with .Brand}} from {{.}}{{end}}</h1>
{{with .Error}}<p class="card error" role="alert" id="error">{{.}}</p>
{{end}}{{if eq .Asked "code"}}<section aria-labelledby="h-code">
<h2 id="h-code">Type your code</h2>
<p>If this link belongs to a message that can be opened with a mailed code, we have sent one to the address that the link
was sent to. It may take a minute. A new code is sent at most once a minute and three times an hour; until then the last
one stays good for 10 minutes.</p>
<form method="post">
<label for="code">Code of 8 digits</label>
<input id="code" name="code" type="text" inputmode="numeric" autocomplete="one-time-code" maxlength="16" required autofocus{{if .Error}} aria-describedby="error"{{end}}>
<button type="submit">Open the message</button>
</form>
</section>
{{end}}{{if eq .Asked "question"}}<section aria-labelledby="h-answer">
<h2 id="h-answer">Answer your question</h2>
<form method="post">
<label for="answer">{{with .Hint}}{{.}}{{else}}Answer to the security question that you know{{end}}</label>
<input id="answer" name="answer" type="text" autocomplete="off" maxlength="200" required autofocus{{if .Error}} aria-describedby="error"{{end}}>
<button type="submit">Open the message</button>
</form>
</section>
{{end}}{{if eq .Asked ""}}<p>A private message may be waiting for you here. To read it, show that it is yours in one of these ways.</p>
{{else}}<p>Or choose another way:</p>
{{end}}<section aria-labelledby="h-send">
<h2 id="h-send">By a mailed code</h2>
<p>We send a code of 8 digits to the address that the link was sent to. It works for 10 minutes, in this browser only.</p>
<form method="post">
<input type="hidden" name="action" value="send">
<button type="submit"{{if .Asked}} class="quiet"{{end}}>{{if eq .Asked "code"}}Send me another code{{else}}Send me a code{{end}}</button>
</form>
</section>
<section aria-labelledby="h-access">
<h2 id="h-access">By an access code</h2>
<form method="post">
<label for="access_code">Access code that the sender gave you</label>
<input id="access_code" name="access_code" type="text" autocomplete="off" autocapitalize="off" spellcheck="false" maxlength="200" required>
<button type="submit"{{if .Asked}} class="quiet"{{end}}>Open the message</button>
</form>
</section>
{{if ne .Asked "question"}}<section aria-labelledby="h-question">
<h2 id="h-question">By a security question</h2>
<form method="post">
<input type="hidden" name="action" value="question">
<button type="submit"{{if .Asked}} class="quiet"{{end}}>Show my question</button>
</form>
</section>
{{end}}<p>Nothing works? The message may have expired or been withdrawn. Please ask the sender.</p>
{{template "bottom" .}}{{end}}`

const messageText = `{{define "message"}}{{template "top" .}}<h1>{{with .View.Subject}}{{.}}{{else}}(no subject){{end}}</h1>
<dl>
<dt>From</dt><dd>{{.View.From}}</dd>
<dt>Date</dt><dd>{{.View.Date}}</dd>
</dl>
{{if .View.Partial}}<p class="card" role="note">A part of this message is damaged and can't be shown.</p>
{{end}}{{if .View.Text}}<section aria-label="Message"><pre dir="auto">{{.View.Text}}</pre></section>
{{end}}{{if .View.HasHTML}}<iframe title="Message" sandbox="allow-popups allow-popups-to-escape-sandbox" referrerpolicy="no-referrer" src="{{.Path}}/body"></iframe>
<p>Pictures and other content from outside are blocked.</p>
{{end}}{{with .View.Files}}<section aria-labelledby="h-files">
<h2 id="h-files">Attachments</h2>
<ul>
{{range .}}<li><a href="{{$.Path}}/file/{{.N}}" download>{{.Name}}</a> ({{.Size}})</li>
{{end}}</ul>
</section>
{{end}}<form method="post">
<input type="hidden" name="action" value="leave">
<button type="submit" class="quiet">Sign out</button>
</form>
{{template "bottom" .}}{{end}}`

const goneText = `{{define "gone"}}{{template "top" .}}<h1>This message is no longer available</h1>
<p>It has expired or was withdrawn. Please ask the sender.</p>
{{template "bottom" .}}{{end}}`

var pages = template.Must(template.New("").Parse(shell + doorText + messageText + goneText))

// What is said about a form that was not right. The words do not tell whether there is a message.
const (
	msgEmpty   = "Please type a code or an answer."
	msgWrong   = "That is not right, or it has expired. Please check it and try again."
	msgTooMany = "Too many tries. Please wait 10 minutes, or choose another way."
)

type pageData struct {
	Title, Brand       string
	Asked, Hint, Error string
	Path               string
	View               *view
}

func (v *visit) write(code int, name string, d *pageData) error {
	d.Brand = v.p.brand
	if d.Title == "" {
		d.Title = "Secure message"
	}
	if d.Brand != "" {
		d.Title += " - " + d.Brand
	}
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, d); err != nil {
		return fmt.Errorf("portal: page: %w", err)
	}
	v.whole(code, "text/html; charset=utf-8", b.Bytes())
	return nil
}

// whole writes a whole answer; HEAD gets its header.
func (v *visit) whole(code int, kind string, b []byte) {
	h := v.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	v.w.WriteHeader(code)
	if v.r.Method != http.MethodHead {
		_, _ = v.w.Write(b) // the visitor may have gone
	}
}

// plain answers what no page is for. Its words depend on the status alone.
func (p *Portal) plain(w http.ResponseWriter, r *http.Request, code int) {
	text := http.StatusText(code) + "\n"
	switch code {
	case http.StatusServiceUnavailable, http.StatusInternalServerError:
		text = "Something went wrong on our side. Please try again in a minute.\n"
	case http.StatusUnauthorized:
		text = "You are not signed in, or not any more. Please open the link in your mail again.\n"
	}
	(&visit{p: p, w: w, r: r}).whole(code, "text/plain; charset=utf-8", []byte(text))
}
