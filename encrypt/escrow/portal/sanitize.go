package portal

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/url"
	"regexp"
	"strings"

	"github.com/microcosm-cc/bluemonday"
)

// inlineKinds are the images a browser may be given: none of them can hold a script.
var inlineKinds = map[string]bool{
	"image/png": true, "image/jpeg": true, "image/jpg": true, "image/gif": true, "image/webp": true, "image/bmp": true,
}

var (
	// cidURL is RFC 2392 without "/", "?" and "#", which would make it another kind of URL.
	cidURL    = regexp.MustCompile(`(?i)^\s*cid:[!"$-.0->@-~]{1,250}\s*$`)
	anything  = regexp.MustCompile(`(?s)^.*$`)
	measure   = regexp.MustCompile(`^[0-9]{1,5}(\.[0-9]{1,3})?(%|px|pt|em)?$`)
	colour    = regexp.MustCompile(`(?i)^(#[0-9a-f]{3,8}|[a-z]{3,24})$`)
	alignment = regexp.MustCompile(`(?i)^(left|right|center|justify|top|middle|bottom|baseline)$`)
)

// styles are the properties that a style attribute may set.
var styles = []string{
	"background-color", "border", "border-bottom", "border-collapse", "border-color", "border-left", "border-radius",
	"border-right", "border-spacing", "border-style", "border-top", "border-width", "color", "direction", "display",
	"font-family", "font-size", "font-style", "font-variant", "font-weight", "height", "letter-spacing", "line-height",
	"list-style-type", "margin", "margin-bottom", "margin-left", "margin-right", "margin-top", "max-width", "min-width",
	"padding", "padding-bottom", "padding-left", "padding-right", "padding-top", "text-align", "text-decoration",
	"text-indent", "text-transform", "vertical-align", "white-space", "width", "word-break",
}

const maxStyle = 200 // octets of one value

var (
	// plainStyle has no backslash, slash, colon or angle bracket: no escape, comment or address.
	plainStyle = regexp.MustCompile(`^[a-z0-9 .,%#()'"!+_-]{1,200}$`)
	// styleCall is whatever takes arguments.
	styleCall = regexp.MustCompile(`([a-z0-9_-]*) *\(`)
)

// plainValue says whether a property may have that value, in lower case. bluemonday's own handlers try all ways to split a
// value: "border: inherit" with 30 times the word takes them for ever.
func plainValue(v string) bool {
	if len(v) > maxStyle || !plainStyle.MatchString(v) {
		return false
	}
	for _, call := range styleCall.FindAllStringSubmatch(v, -1) {
		switch call[1] {
		case "rgb", "rgba", "hsl", "hsla":
		default:
			return false
		}
	}
	return true
}

// policy allows what mail looks like, and no way out: no script, no form, no frame, no style sheet, nothing that is
// loaded from anywhere. The only image source is cid:, which inline turns into its data.
func policy(inline func(id string) *image) *bluemonday.Policy {
	p := bluemonday.NewPolicy()
	p.AllowElements(
		"a", "abbr", "address", "article", "b", "bdi", "big", "blockquote", "br", "caption", "center", "cite", "code", "dd",
		"del", "dfn", "div", "dl", "dt", "em", "figcaption", "figure", "font", "footer", "h1", "h2", "h3", "h4", "h5", "h6",
		"header", "hr", "i", "img", "ins", "kbd", "li", "main", "mark", "ol", "p", "pre", "q", "s", "samp", "section", "small",
		"span", "strike", "strong", "sub", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "tt", "u", "ul", "var",
	)
	p.AllowNoAttrs().OnElements("a", "img", "font", "span", "table")
	p.AllowAttrs("dir").Matching(bluemonday.Direction).Globally()
	p.AllowAttrs("lang").Matching(regexp.MustCompile(`^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$`)).Globally()
	p.AllowAttrs("title", "alt", "summary").Matching(anything).Globally()
	p.AllowAttrs("width", "height", "border", "cellpadding", "cellspacing", "colspan", "rowspan", "size").
		Matching(measure).Globally()
	p.AllowAttrs("bgcolor", "color").Matching(colour).Globally()
	p.AllowAttrs("align", "valign").Matching(alignment).Globally()
	p.AllowAttrs("face").Matching(regexp.MustCompile(`^[A-Za-z0-9 ,'-]{1,100}$`)).OnElements("font")
	p.AllowAttrs("start").Matching(bluemonday.Integer).OnElements("ol")
	p.AllowAttrs("href").OnElements("a")
	p.AllowAttrs("src").Matching(cidURL).OnElements("img")
	p.AllowStyles(styles...).MatchingHandler(plainValue).Globally()
	p.RequireParseableURLs(true)
	p.AllowURLSchemes("mailto", "tel", "cid")
	for _, web := range []string{"http", "https"} {
		// Browsers mend "https:host" and "https:///host"; the target below is for links with a host only.
		p.AllowURLSchemeWithCustomPolicy(web, func(u *url.URL) bool { return u.Host != "" })
	}
	p.RequireNoReferrerOnLinks(true)
	p.RequireNoFollowOnLinks(true)
	p.AddTargetBlankToFullyQualifiedLinks(true)
	p.RewriteSrc(func(u *url.URL) {
		id, err := url.PathUnescape(u.Opaque)
		if err != nil {
			id = u.Opaque
		}
		*u = url.URL{}
		if im := inline(id); im != nil {
			*u = url.URL{Scheme: "data", Opaque: im.kind + ";base64," + base64.StdEncoding.EncodeToString(im.data)}
		}
	})
	return p
}

// clean is html without anything that could act, send or load.
func clean(html string, inline func(id string) *image) string {
	if html == "" {
		return ""
	}
	return policy(inline).Sanitize(html)
}

// inliner gives the images by Content-ID, until the page would hold maxShown octets of them: a text of 1 MB can name an
// image of 8 MB fifty thousand times.
func (c *collector) inliner() func(id string) *image {
	left := maxShown
	return func(id string) *image {
		im := c.images[id]
		if im == nil || len(im.data) > left {
			return nil
		}
		left -= len(im.data)
		return im
	}
}

// frame is the page for the sandboxed frame.
func frame(r io.Reader) ([]byte, error) {
	c, _, err := collect(r, nil)
	if err != nil {
		return nil, err
	}
	safe := clean(c.html.String(), c.inliner())
	var b bytes.Buffer
	b.WriteString("<!DOCTYPE html>\n<html lang=\"und\">\n<head><meta charset=\"utf-8\"><title>Message</title></head>\n" +
		"<body style=\"margin:1rem;font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere\">\n")
	b.WriteString(strings.TrimSpace(safe))
	b.WriteString("\n</body>\n</html>\n")
	return b.Bytes(), nil
}
