package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// Report is a report as RFC 8460 section 4.4 has it. What [ParseReport] gives is the far end's word: text of strangers.
type Report struct {
	Organization string         `json:"organization-name"`
	Range        DateRange      `json:"date-range"`
	Contact      string         `json:"contact-info"`
	ID           string         `json:"report-id"`
	Policies     []PolicyResult `json:"policies"`
}

// DateRange is the time that a Report covers.
type DateRange struct {
	Start time.Time `json:"start-datetime"`
	End   time.Time `json:"end-datetime"`
}

// PolicyResult is what happened under one policy.
type PolicyResult struct {
	Policy  Policy          `json:"policy"`
	Summary Summary         `json:"summary"`
	Details []FailureDetail `json:"failure-details,omitempty"`
}

// Policy is the policy as the reporter saw it.
type Policy struct {
	Type    PolicyType `json:"policy-type"`
	Strings Strings    `json:"policy-string,omitempty"`
	Domain  string     `json:"policy-domain"`
	MXHosts Strings    `json:"mx-host,omitempty"`
}

// Summary counts sessions.
type Summary struct {
	Success int64 `json:"total-successful-session-count"`
	Failure int64 `json:"total-failure-session-count"`
}

// FailureDetail counts sessions that failed in one way. IPs are text, since some reporters write none or worse.
type FailureDetail struct {
	Type          FailureType `json:"result-type"`
	SendingIP     string      `json:"sending-mta-ip,omitempty"`
	ReceivingMX   string      `json:"receiving-mx-hostname,omitempty"`
	ReceivingHELO string      `json:"receiving-mx-helo,omitempty"`
	ReceivingIP   string      `json:"receiving-ip,omitempty"`
	Sessions      int64       `json:"failed-session-count"`
	Info          string      `json:"additional-information,omitempty"`
	Reason        string      `json:"failure-reason-code,omitempty"`
}

// Strings is a list of strings. Some reporters write a single one without the list around it; that is read as well.
type Strings []string

// UnmarshalJSON implements [json.Unmarshaler].
func (s *Strings) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var one string
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		*s = Strings{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(s))
}

// UnmarshalJSON implements [json.Unmarshaler]. Dates are of RFC 3339; a missing zone is UTC, since Microsoft leaves it out.
func (r *DateRange) UnmarshalJSON(b []byte) error {
	var text struct {
		Start string `json:"start-datetime"`
		End   string `json:"end-datetime"`
	}
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	var err1, err2 error
	r.Start, err1 = date(text.Start)
	r.End, err2 = date(text.End)
	if err1 != nil || err2 != nil || r.End.Before(r.Start) {
		return &ReportError{ruleDate}
	}
	return nil
}

func date(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t, err = time.Parse("2006-01-02T15:04:05", s)
	}
	return t.UTC(), err
}

// Gzip is the report as JSON, compressed: the media type application/tlsrpt+gzip.
func (r *Report) Gzip() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("tlsrpt: report: %w", err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(text) // a Buffer takes everything
	_ = z.Close()
	return b.Bytes(), nil
}

// report makes the report of an account.
func (a *Account) report(organization, contact, submitter string) *Report {
	r := &Report{
		Organization: organization,
		Contact:      contact,
		ID:           a.ReportID + "@" + submitter,
		// RFC 8460 section 4.1: a full day, 00:00 to 24:00 UTC; its last second, as in the example of appendix B.
		Range:    DateRange{a.Day.Start(), a.Day.End().Add(-time.Second)},
		Policies: []PolicyResult{},
	}
	for _, p := range a.Policies {
		q := PolicyResult{
			Policy:  Policy{Type: p.Type, Strings: p.Strings, Domain: p.Domain, MXHosts: p.MXHosts},
			Summary: Summary{Success: p.Success, Failure: p.Failures},
		}
		for _, d := range p.Details {
			q.Details = append(q.Details, FailureDetail{
				Type: d.What.Type, SendingIP: ip(d.What.SendingIP), ReceivingMX: d.What.ReceivingMX,
				ReceivingHELO: d.What.ReceivingHELO, ReceivingIP: ip(d.What.ReceivingIP), Sessions: d.Sessions,
				Info: d.What.Info, Reason: d.What.Reason,
			})
		}
		r.Policies = append(r.Policies, q)
	}
	return r
}

func ip(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// fileName is RFC 8460 section 5.1.
func (a *Account) fileName(submitter string) string {
	begin, end := a.Day.Start().Unix(), a.Day.End().Add(-time.Second).Unix()
	return fmt.Sprintf("%s!%s!%d!%d!%s.json.gz", submitter, a.Domain, begin, end, a.ReportID)
}
