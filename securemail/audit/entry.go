package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/postseal/postseal/internal/canon"
	"github.com/postseal/postseal/securemail"
)

// Entry is one line of the log. As JSON its keys are sorted, so that equal entries are equal octets. What the comments
// call a pseudonym is [Log.Pseudonym] of the value.
type Entry struct {
	Attempt int    `json:"attempt,omitzero"`
	By      Caller `json:"by"`
	// Choice is the last one tried.
	Choice *Choice `json:"choice,omitzero"`
	// Cut: a text or a list was too long and is not whole.
	Cut      bool              `json:"cut,omitzero"`
	Decision *Decision         `json:"decision,omitzero"`
	Detail   map[string]string `json:"detail,omitzero"`
	// Event is the event's id; one over 255 octets stands as "sha256:" and its hash.
	Event string `json:"event"`
	// Facts is [Log.FactsHash] of what the Policy saw.
	Facts   string `json:"facts,omitzero"`
	Failure string `json:"failure,omitzero"`
	// From is the author's address, a pseudonym of kind "address".
	From string `json:"from,omitzero"`
	Kind string `json:"kind"`
	// Known is what the Policy knew when it decided.
	Known *Known `json:"known,omitzero"`
	// Labels are the host's, their values pseudonyms of kind "label".
	Labels     map[string]string `json:"labels,omitzero"`
	Next       time.Time         `json:"next,omitzero"`
	Parcel     string            `json:"parcel,omitzero"`
	Policy     string            `json:"policy,omitzero"`
	Protection *Protection       `json:"protection,omitzero"`
	Purpose    string            `json:"purpose,omitzero"`
	Read       time.Time         `json:"read,omitzero"`
	Reasons    []Reason          `json:"reasons,omitzero"`
	Receipt    *Receipt          `json:"receipt,omitzero"`
	// Recipient is an address, a pseudonym of kind "address"; Ref the host's id for him, one of kind "ref".
	Recipient string `json:"recipient,omitzero"`
	Ref       string `json:"ref,omitzero"`
	// Seq is the outbox's number of the event.
	Seq   int64  `json:"seq,omitzero"`
	State string `json:"state,omitzero"`
	// Subjects are pseudonyms of kind "subject".
	Subjects   []string  `json:"subjects,omitzero"`
	Submission string    `json:"submission,omitzero"`
	Time       time.Time `json:"time"`
	// V is the version of this form: 1.
	V int `json:"v"`
}

// Caller is who did it, as the host named him.
type Caller struct {
	Auth    *Auth    `json:"auth,omitzero"`
	ID      string   `json:"id,omitzero"`
	Kind    string   `json:"kind,omitzero"`
	Origin  *Origin  `json:"origin,omitzero"`
	Purpose string   `json:"purpose,omitzero"`
	Roles   []string `json:"roles,omitzero"`
	Tenant  string   `json:"tenant,omitzero"`
}

// Auth is how the caller signed in. Session is a pseudonym of kind "session".
type Auth struct {
	At                time.Time `json:"at,omitzero"`
	Method            string    `json:"method,omitzero"`
	PhishingResistant bool      `json:"phishing_resistant,omitzero"`
	Session           string    `json:"session,omitzero"`
}

// Origin is where he called from, as far as the host said it may be recorded.
type Origin struct {
	Device  string `json:"device,omitzero"`
	Network string `json:"network,omitzero"`
	Place   string `json:"place,omitzero"`
	Posture string `json:"posture,omitzero"`
}

// Choice is a securemail.Choice in words.
type Choice struct {
	// Channel is "verified", "named", "encrypted" or "any".
	Channel    string `json:"channel"`
	Method     string `json:"method"`
	Profile    string `json:"profile,omitzero"`
	RequireTLS bool   `json:"require_tls,omitzero"`
	Track      uint8  `json:"track,omitzero"`
}

// Decision is a securemail.Decision in words. Else and Uncertain are "hold", "retry", "bounce" or "drop"; Patience is in
// seconds.
type Decision struct {
	Choices   []Choice `json:"choices,omitzero"`
	Else      string   `json:"else"`
	Need      []string `json:"need,omitzero"`
	Patience  int64    `json:"patience,omitzero"`
	Policy    string   `json:"policy,omitzero"`
	Reasons   []Reason `json:"reasons,omitzero"`
	Uncertain string   `json:"uncertain"`
}

// Reason is one step of an explanation.
type Reason struct {
	Rule string `json:"rule"`
	Text string `json:"text,omitzero"`
}

// Protection is the evidence of encryption: algorithm and fingerprints.
type Protection struct {
	Algorithm string            `json:"algorithm"`
	Detail    map[string]string `json:"detail,omitzero"`
	Keys      []string          `json:"keys,omitzero"`
}

// Receipt is the evidence of a delivery. Hop is "final", "asserted" or "relay"; Peer is the far host's name and Remote
// its queue id, pseudonyms of kinds "peer" and "remote".
type Receipt struct {
	Hop      string    `json:"hop"`
	Operator *Operator `json:"operator,omitzero"`
	Peer     string    `json:"peer,omitzero"`
	Proof    string    `json:"proof,omitzero"`
	Reasons  []Reason  `json:"reasons,omitzero"`
	Remote   string    `json:"remote,omitzero"`
	Time     time.Time `json:"time"`
	TLS      *TLS      `json:"tls,omitzero"`
}

// Operator is who runs the relay and vouches for the road behind it.
type Operator struct {
	Agreement string    `json:"agreement,omitzero"`
	Name      string    `json:"name"`
	Regions   []string  `json:"regions,omitzero"`
	Until     time.Time `json:"until,omitzero"`
	Uses      []string  `json:"uses,omitzero"`
}

// TLS is what the handshake gave: IANA's names, and in hex the SHA-256 over the peer's chain.
type TLS struct {
	Chain   string `json:"chain"`
	FIPS    bool   `json:"fips,omitzero"`
	Group   string `json:"group,omitzero"`
	Suite   string `json:"suite"`
	Version string `json:"version"`
}

const (
	entryVersion = 1
	// MaxEntry is the length of the longest entry in octets (tlog-tiles: a length has 16 bits).
	MaxEntry   = 1<<16 - 1
	maxEventID = 255
	maxID      = 255
)

var errNoEventID = errors.New("audit: event without id")

// macs makes HMAC-SHA256 under one key. It is safe for concurrent use.
type macs struct{ pool sync.Pool }

func newMACs(key []byte) *macs {
	return &macs{sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// sum is the HMAC of label and parts, which their lengths keep apart.
func (m *macs) sum(label string, parts ...[]byte) []byte {
	h, _ := m.pool.Get().(hash.Hash)
	defer m.pool.Put(h)
	h.Reset()
	_, _ = io.WriteString(h, label) // a hash never fails
	for _, p := range parts {
		n := len(p)
		h.Write([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		h.Write(p)
	}
	return h.Sum(nil)
}

// pseudonym is 128 bits of HMAC in hex; "" for "".
func pseudonym(key *macs, kind, tenant, value string) string {
	if value == "" {
		return ""
	}
	return hex.EncodeToString(key.sum("postseal/audit@v1 pseudonym", []byte(kind), []byte(tenant), []byte(value))[:16])
}

func factsHash(key *macs, f *securemail.Facts) (string, error) {
	b, err := canon.Marshal(f)
	if err != nil {
		return "", fmt.Errorf("audit: facts: %w", err)
	}
	defer clear(b)
	return hex.EncodeToString(key.sum("postseal/audit@v1 facts", b)), nil
}

func eventID(id string) string {
	if len(id) <= maxEventID && utf8.ValidString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// formatEntry makes the octets of e's entry. Where they would be too long it cuts texts and lists ever shorter.
func formatEntry(key *macs, e *securemail.Event) ([]byte, error) {
	if e.ID == "" {
		return nil, errNoEventID
	}
	var facts string
	if e.Facts != nil {
		var err error
		if facts, err = factsHash(key, e.Facts); err != nil {
			return nil, err
		}
	}
	for limit := 1024; ; limit /= 2 {
		w := &wording{key: key, tenant: e.By.Tenant, limit: limit, known: knownOf(e)}
		entry := w.entry(e)
		entry.Facts, entry.Cut = facts, w.cut
		b, err := marshalEntry(entry)
		if err != nil || len(b) <= MaxEntry {
			return b, err
		}
	}
}

func marshalEntry(e *Entry) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("audit: entry: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// wording turns an event into an entry, within a limit for each text (in octets) and each list (in elements).
type wording struct {
	key    *macs
	tenant string
	limit  int
	known  []known
	// replace is made of known when it is first wanted.
	replace *strings.Replacer
	cut     bool
}

func (w *wording) pseudonym(kind, value string) string {
	return pseudonym(w.key, kind, w.tenant, value)
}

func (w *wording) text(s string) string {
	if s == "" {
		return ""
	}
	return w.upTo(w.veil(w.upTo(s, MaxEntry)), w.limit)
}

// time is t, or the zero Time where JSON has no form for it.
func (w *wording) time(t time.Time) time.Time {
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		w.cut = true
		return time.Time{}
	}
	return t
}

// id is a short text that is never cut below maxID.
func (w *wording) id(s string) string { return w.upTo(s, maxID) }

func (w *wording) upTo(s string, n int) string {
	if len(s) <= n {
		return s
	}
	w.cut = true
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// list gives at most w.limit elements of in, each through f; nil for none.
func list[A, B any](w *wording, in []A, f func(A) B) []B {
	if len(in) > w.limit {
		w.cut = true
		in = in[:w.limit]
	}
	var out []B
	for _, a := range in {
		out = append(out, f(a))
	}
	return out
}

func (w *wording) table(in map[string]string, f func(string) string) map[string]string {
	if len(in) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, k := range list(w, slices.Sorted(maps.Keys(in)), func(k string) string { return k }) {
		out[w.text(k)] = f(in[k])
	}
	return out
}

func (w *wording) entry(e *securemail.Event) *Entry {
	out := &Entry{
		Attempt: e.Attempt, By: w.caller(e.By), Choice: w.choiceOrNil(e.Choice), Decision: w.decision(e.Decision),
		Detail: w.table(e.Detail, w.text), Event: eventID(e.ID), Failure: w.text(e.Failure),
		From: w.pseudonym("address", e.From.Address.Reveal()), Kind: w.id(e.Kind), Known: w.knownTo(e.Facts),
		Labels: w.table(e.Labels, func(v string) string { return w.pseudonym("label", v) }),
		Next:   w.time(e.Next), Parcel: w.id(string(e.Status.ID)), Policy: w.id(e.Policy), Protection: w.protection(e.Protection),
		Purpose: w.id(string(e.Purpose)), Read: w.time(e.Read), Reasons: w.reasons(e.Reasons), Receipt: w.receipt(e.Receipt),
		Recipient: w.pseudonym("address", e.Recipient.Address.Reveal()), Ref: w.pseudonym("ref", e.Recipient.Ref), Seq: e.Seq,
		State: w.id(string(e.State)), Submission: w.id(e.Submission), Time: w.time(e.Time), V: entryVersion,
	}
	out.Subjects = list(w, e.Subjects, func(s securemail.Subject) string { return w.pseudonym("subject", string(s)) })
	return out
}

func (w *wording) caller(a securemail.Actor) Caller {
	c := Caller{
		ID: w.id(a.ID), Kind: w.id(a.Kind), Purpose: w.text(a.Purpose), Roles: list(w, a.Roles, w.text), Tenant: w.id(a.Tenant),
	}
	if a.Auth != (securemail.Auth{}) {
		c.Auth = &Auth{
			At: w.time(a.Auth.At), Method: w.text(a.Auth.Method), PhishingResistant: a.Auth.PhishingResistant,
			Session: w.pseudonym("session", a.Auth.Session),
		}
	}
	if o := a.Origin; o != (securemail.Origin{}) {
		c.Origin = &Origin{Device: w.text(o.Device), Network: w.text(o.Network), Place: w.text(o.Place), Posture: w.text(o.Posture)}
	}
	return c
}

func (w *wording) choiceOrNil(c securemail.Choice) *Choice {
	if c == (securemail.Choice{}) {
		return nil
	}
	out := w.choice(c)
	return &out
}

func (w *wording) choice(c securemail.Choice) Choice {
	return Choice{
		Channel: channelName(c.Channel), Method: w.id(string(c.Method)), Profile: w.text(c.Profile), RequireTLS: c.RequireTLS,
		Track: uint8(c.Track),
	}
}

func (w *wording) decision(d *securemail.Decision) *Decision {
	if d == nil {
		return nil
	}
	return &Decision{
		Choices: list(w, d.Choices, w.choice), Else: outcomeName(d.Else), Uncertain: outcomeName(d.Uncertain),
		Need:     list(w, d.Need, func(m securemail.Method) string { return w.text(string(m)) }),
		Patience: int64(d.Patience / time.Second), Policy: w.id(d.Policy), Reasons: w.reasons(d.Reasons),
	}
}

func (w *wording) reasons(rs []securemail.Reason) []Reason {
	return list(w, rs, func(r securemail.Reason) Reason { return Reason{w.text(r.Rule), w.text(r.Text)} })
}

func (w *wording) protection(p *securemail.Protection) *Protection {
	if p == nil {
		return nil
	}
	return &Protection{Algorithm: w.id(p.Algorithm), Detail: w.table(p.Detail, w.text), Keys: list(w, p.Keys, w.text)}
}

func (w *wording) receipt(r *securemail.Receipt) *Receipt {
	if r == nil {
		return nil
	}
	out := &Receipt{
		Hop: hopName(r.Hop), Peer: w.pseudonym("peer", r.Peer), Proof: w.id(string(r.Proof)), Reasons: w.reasons(r.Reasons),
		Remote: w.pseudonym("remote", r.RemoteID), Time: w.time(r.Time), TLS: tlsFacts(r.TLS),
	}
	if o := r.Operator; o != nil {
		out.Operator = &Operator{
			Agreement: w.text(o.Agreement), Name: w.text(o.Name), Regions: list(w, o.Regions, w.text), Until: w.time(o.Until), Uses: list(w, o.Uses, w.text),
		}
	}
	return out
}

func channelName(c securemail.Channel) string {
	switch c {
	case securemail.ChannelVerified:
		return "verified"
	case securemail.ChannelNamed:
		return "named"
	case securemail.ChannelEncrypted:
		return "encrypted"
	case securemail.ChannelAny:
		return "any"
	}
	return fmt.Sprintf("channel-%d", c)
}

func outcomeName(o securemail.Outcome) string {
	switch o {
	case securemail.OutcomeHold:
		return "hold"
	case securemail.OutcomeRetry:
		return "retry"
	case securemail.OutcomeBounce:
		return "bounce"
	case securemail.OutcomeDrop:
		return "drop"
	}
	return fmt.Sprintf("outcome-%d", o)
}

func hopName(h securemail.Hop) string {
	switch h {
	case securemail.HopFinal:
		return "final"
	case securemail.HopAsserted:
		return "asserted"
	}
	return "relay"
}
