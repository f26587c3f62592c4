package portal

import (
	"mime"
	"path"
	"strconv"
	"strings"
	"unicode"
)

// fileName makes a name that is safe on every system: the last element of a path, without controls, marks of writing
// direction, reserved characters, or dots and blanks at its ends.
func fileName(s string, p *part) string {
	s = s[strings.LastIndexAny(s, `/\`)+1:]
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == 0x2028, r == 0x2029, r == '\uFFFD':
			return -1
		case strings.ContainsRune(`<>:"|?*`, r):
			return '_'
		}
		return r
	}, s)
	s = strings.TrimSpace(strings.Trim(s, ". "))
	if s == "" || reserved(s) {
		return "attachment-" + strconv.Itoa(p.n+1) + extension(p.kind)
	}
	ext := path.Ext(s)
	if len([]rune(ext)) > 16 {
		ext = ""
	}
	return strings.TrimRight(clip(strings.TrimSuffix(s, ext), maxName-len([]rune(ext)))+ext, ". ")
}

// reserved are the device names of Windows, with any extension.
func reserved(s string) bool {
	base, _, _ := strings.Cut(strings.ToUpper(s), ".")
	switch base {
	case "CON", "PRN", "AUX", "NUL":
		return true
	}
	return len(base) == 4 && (base[:3] == "COM" || base[:3] == "LPT") && base[3] >= '0' && base[3] <= '9'
}

// extension is a fixed list, so that no table of the machine's decides.
func extension(kind string) string {
	switch kind {
	case "text/plain", "text/rfc822-headers", "message/delivery-status", "message/disposition-notification":
		return ".txt"
	case "text/html":
		return ".html"
	case "text/calendar":
		return ".ics"
	case "message/rfc822":
		return ".eml"
	case "application/pdf":
		return ".pdf"
	case "image/png":
		return ".png"
	case "image/jpeg":
		return ".jpg"
	case "image/gif":
		return ".gif"
	}
	return ".bin"
}

// download is the type a part is served as: its own where that can hold no script.
func (p *part) download() string {
	kind, _, err := mime.ParseMediaType(p.kind)
	if err != nil {
		return "application/octet-stream"
	}
	switch top, _, _ := strings.Cut(kind, "/"); {
	case kind == "image/svg+xml" || strings.HasSuffix(kind, "xml"):
	case top == "image" || top == "audio" || top == "video":
		return kind
	case kind == "application/pdf", kind == "application/zip",
		strings.HasPrefix(kind, "application/vnd.openxmlformats-officedocument."):
		return kind
	case kind == "text/plain" || kind == "text/csv" || kind == "text/calendar":
		return kind + "; charset=utf-8"
	}
	return "application/octet-stream"
}

// disposition is RFC 6266 with an ASCII name for old browsers and RFC 8187 for the others.
func disposition(name string) string {
	var plain, ext strings.Builder
	ascii := true
	for _, r := range name {
		if r < ' ' || r > '~' || r == '"' || r == '\\' || r == '%' {
			ascii = false
			plain.WriteByte('_')
			continue
		}
		plain.WriteRune(r)
	}
	out := `attachment; filename="` + plain.String() + `"`
	if ascii {
		return out
	}
	const attrChar = "!#$&+-.^_`|~" // RFC 8187 section 3.2.1
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(attrChar, c) >= 0 {
			ext.WriteByte(c)
			continue
		}
		const hex = "0123456789ABCDEF"
		ext.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return out + "; filename*=UTF-8''" + ext.String()
}
