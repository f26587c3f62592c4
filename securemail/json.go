package securemail

import (
	"crypto/tls"
	"encoding/json"
	"time"
)

// thinStatus is the JSON of a Status: ids, labels, state, method, reasons, times; no name, no address, no Ref, no Attrs.
type thinStatus struct {
	Parcel     ParcelID          `json:"parcel,omitempty"`
	Submission string            `json:"submission,omitempty"`
	Tenant     string            `json:"tenant,omitempty"`
	State      State             `json:"state,omitempty"`
	Attempt    int               `json:"attempt,omitempty"`
	Purpose    Purpose           `json:"purpose,omitempty"`
	Method     Method            `json:"method,omitempty"`
	Policy     string            `json:"policy,omitempty"`
	Reasons    []thinReason      `json:"reasons,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Protection *thinProtection   `json:"protection,omitempty"`
	Receipt    *thinReceipt      `json:"receipt,omitempty"`
	Failure    string            `json:"failure,omitempty"`
	Submitted  *time.Time        `json:"submitted,omitempty"`
	Next       *time.Time        `json:"next,omitempty"`
	Changed    *time.Time        `json:"changed,omitempty"`
	Read       *time.Time        `json:"read,omitempty"`
}

type thinReason struct {
	Rule string `json:"rule"`
	Text string `json:"text,omitempty"`
}

type thinProtection struct {
	Algorithm string   `json:"algorithm"`
	Keys      []string `json:"keys,omitempty"`
}

type thinReceipt struct {
	Time       time.Time `json:"time"`
	Proof      Proof     `json:"proof,omitempty"`
	Hop        string    `json:"hop"`
	TLSVersion string    `json:"tls_version,omitempty"`
	TLSSuite   string    `json:"tls_suite,omitempty"`
	TLSGroup   string    `json:"tls_group,omitempty"`
	FIPS       bool      `json:"fips,omitempty"`
	Rules      []string  `json:"rules,omitempty"` // of the reasons; their texts name hosts
}

type thinEvent struct {
	ID     string            `json:"id"`
	Seq    int64             `json:"seq,omitempty"`
	Kind   string            `json:"kind"`
	Time   time.Time         `json:"time"`
	Tenant string            `json:"tenant,omitempty"`
	By     string            `json:"by,omitempty"`
	Detail map[string]string `json:"detail,omitempty"`
	Status *thinStatus       `json:"status,omitempty"`
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	u := t.UTC()
	return &u
}

func thinOf(s *Status) *thinStatus {
	t := &thinStatus{
		Parcel: s.ID, Submission: s.Submission, Tenant: s.Actor.Tenant, State: s.State, Attempt: s.Attempt,
		Purpose: s.Purpose, Method: s.Choice.Method, Policy: s.Policy, Labels: s.Labels, Failure: s.Failure,
		Submitted: timeOrNil(s.Submitted), Next: timeOrNil(s.Next), Changed: timeOrNil(s.Changed), Read: timeOrNil(s.Read),
	}
	for _, r := range s.Reasons {
		t.Reasons = append(t.Reasons, thinReason(r))
	}
	if p := s.Protection; p != nil {
		t.Protection = &thinProtection{p.Algorithm, p.Keys}
	}
	if r := s.Receipt; r != nil {
		t.Receipt = &thinReceipt{Time: r.Time.UTC(), Proof: r.Proof, Hop: r.Hop.name()}
		if r.TLS != nil {
			t.Receipt.TLSVersion, t.Receipt.TLSSuite = tls.VersionName(r.TLS.Version), tls.CipherSuiteName(r.TLS.Suite)
			if t.Receipt.FIPS = r.TLS.FIPS; r.TLS.Group != 0 {
				t.Receipt.TLSGroup = r.TLS.Group.String()
			}
		}
		for _, why := range r.Reasons {
			t.Receipt.Rules = append(t.Receipt.Rules, why.Rule)
		}
	}
	return t
}

func (h Hop) name() string {
	switch h {
	case HopFinal:
		return "final"
	case HopAsserted:
		return "asserted"
	}
	return "relay"
}

// MarshalJSON writes the thin form for APIs and webhooks: no name, no address, no Ref, no Attrs, no peer.
func (s Status) MarshalJSON() ([]byte, error) { return json.Marshal(thinOf(&s)) }

// MarshalJSON writes the thin form; see [Status.MarshalJSON].
func (e Event) MarshalJSON() ([]byte, error) {
	t := thinEvent{
		ID: e.ID, Seq: e.Seq, Kind: e.Kind, Time: e.Time.UTC(), Tenant: e.By.Tenant, By: e.By.ID, Detail: e.Detail,
	}
	if e.Status.ID != "" || e.Submission != "" {
		t.Status = thinOf(&e.Status)
	}
	return json.Marshal(t)
}
