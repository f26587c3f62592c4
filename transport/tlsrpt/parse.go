package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
)

// Bounds of a report that is read. What a small file unfolds to in memory is bounded by the count of its values.
const (
	// MaxReport is the size of a report's JSON, in octets.
	MaxReport = 8 << 20
	// MaxMail is the size of a mail that carries one.
	MaxMail = 16 << 20

	maxDepth  = 16
	maxValues = 200000
	maxParts  = 20
)

// The rules that a report, or the mail around it, can break, beside ruleSize.
const (
	ruleGzip  = "gzip"  // broken compression
	ruleDepth = "depth" // nested over 16 deep; a mail over 3
	ruleCount = "count" // over 200,000 values, or 20 parts
	ruleJSON  = "json"  // no JSON, or of another shape
	ruleDate  = "date"  // a date that is none, or an end before the start
	ruleMail  = "mail"  // no mail, or a broken part
	ruleNone  = "none"  // a mail without a report
)

// ReportError is a report that can't be read.
type ReportError struct {
	// Rule is "size", "gzip", "depth", "count", "json" or "date", and for a mail "mail" or "none" as well.
	Rule string
}

// Error names the rule; it does not quote the report.
func (e *ReportError) Error() string { return "tlsrpt: report: " + e.Rule }

// ParseReport reads a report in JSON, gzipped or not (RFC 8460 section 4.4). An error is a *[ReportError]. Unknown
// members are skipped, a policy type or result type of which RFC 8460 knows nothing is kept. It believes nothing: whoever
// acts on a report checks first who signed the mail (RFC 8460 section 5.3).
func ParseReport(b []byte) (*Report, error) {
	if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, &ReportError{ruleGzip}
		}
		if b, err = io.ReadAll(io.LimitReader(z, MaxReport+1)); err != nil {
			return nil, &ReportError{ruleGzip}
		}
	}
	if len(b) > MaxReport {
		return nil, &ReportError{ruleSize}
	}
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) // a byte order mark
	if err := bound(b); err != nil {
		return nil, err
	}
	r := &Report{}
	if err := json.Unmarshal(b, r); err != nil {
		if re, ok := errors.AsType[*ReportError](err); ok {
			return nil, re
		}
		return nil, &ReportError{ruleJSON}
	}
	if r.Range.Start.IsZero() {
		return nil, &ReportError{ruleDate}
	}
	for _, p := range r.Policies {
		if p.Summary.Success < 0 || p.Summary.Failure < 0 {
			return nil, &ReportError{ruleJSON}
		}
	}
	return r, nil
}

// bound counts depth and values of a JSON text before memory is spent on them.
func bound(b []byte) error {
	depth, values, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			values++
		case c == ',':
			values++
		case c == '}' || c == ']':
			depth--
		}
		if depth > maxDepth {
			return &ReportError{ruleDepth}
		}
		if values > maxValues {
			return &ReportError{ruleCount}
		}
	}
	return nil
}

// Received is a report that came by mail.
type Received struct {
	// Domain and Submitter are the header fields TLS-Report-Domain and TLS-Report-Submitter: whom it is about, who sent it.
	// Empty where a field is not there.
	Domain, Submitter string
	Report            *Report
}

// ParseMail reads a mail that carries a report (RFC 8460 section 5.3): the first part of a type application/tlsrpt+gzip
// or application/tlsrpt+json. An error is a *[ReportError], or that of r. It checks no signature: a mail without a valid
// DKIM signature of the submitter is to be ignored, and the caller holds the octets that transport/dkim can verify.
func ParseMail(r io.Reader) (*Received, error) {
	limited := &io.LimitedReader{R: r, N: MaxMail + 1}
	raw, err := io.ReadAll(limited)
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxMail {
		return nil, &ReportError{ruleSize}
	}
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return nil, &ReportError{ruleMail}
	}
	s := search{parts: maxParts}
	report, err := s.find(m.Header.Get, m.Body, 0)
	if err != nil {
		return nil, err
	}
	if report == nil {
		return nil, &ReportError{ruleNone}
	}
	return &Received{
		Domain: name(m.Header.Get(HeaderDomain)), Submitter: name(m.Header.Get("TLS-Report-Submitter")), Report: report,
	}, nil
}

// search looks through the parts of a mail.
type search struct{ parts int }

// find gives the first report in an entity, nil where there is none.
func (s *search) find(header func(string) string, body io.Reader, depth int) (*Report, error) {
	kind, params, err := mime.ParseMediaType(header("Content-Type"))
	if err != nil {
		return nil, nil // none, or none that can be read: no report
	}
	switch {
	case strings.HasPrefix(kind, "multipart/"):
		if depth == 3 {
			return nil, &ReportError{ruleDepth}
		}
		return s.multi(multipart.NewReader(body, params["boundary"]), depth)
	case kind == "application/tlsrpt+gzip" || kind == "application/tlsrpt+json":
		b, err := io.ReadAll(decode(header("Content-Transfer-Encoding"), body))
		if err != nil {
			return nil, &ReportError{ruleMail}
		}
		return ParseReport(b)
	}
	return nil, nil
}

func (s *search) multi(r *multipart.Reader, depth int) (*Report, error) {
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, &ReportError{ruleMail}
		}
		if s.parts--; s.parts < 0 {
			return nil, &ReportError{ruleCount}
		}
		if report, err := s.find(p.Header.Get, p, depth+1); report != nil || err != nil {
			return report, err
		}
	}
}

func decode(encoding string, r io.Reader) io.Reader {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, r) // it skips line ends
	case "quoted-printable":
		return quotedprintable.NewReader(r)
	}
	return r
}
