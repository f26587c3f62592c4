package tlsrpt

import (
	"net/netip"
	"slices"
	"time"
)

// Day is a UTC day, as "2026-11-25".
type Day string

// DayOf is the UTC day of t.
func DayOf(t time.Time) Day { return Day(t.UTC().Format(time.DateOnly)) }

// Start is the first second of the day, zero for a Day that is none.
func (d Day) Start() time.Time {
	t, _ := time.Parse(time.DateOnly, string(d)) // a zero time on error
	return t
}

// End is the start of the next day.
func (d Day) End() time.Time { return d.Start().AddDate(0, 0, 1) }

// Key names an account: a day and the domain that its report is for.
type Key struct {
	Day    Day
	Domain string
}

// Account is what is counted for a domain on a day, and how far its report has come. A Store keeps it as JSON.
type Account struct {
	Key
	// Policies are the counts, a policy each.
	Policies []Counts
	// Next is when it is to be worked on; zero: there is nothing left to do.
	Next time.Time
	// ReportID is set when the report is made; from then on the counts stay as they are.
	ReportID string
	// First is when the first attempt to send was; tries end a day later.
	First    time.Time
	Attempts int
	// Deliveries are the destinations, once they are known.
	Deliveries []Delivery
}

// Delivery is one destination of a report.
type Delivery struct {
	To Destination
	// Done is set where it was sent, or where trying again is in vain.
	Done bool
}

// Counts are the sessions under one policy.
type Counts struct {
	Type     PolicyType
	Domain   string
	Strings  []string
	MXHosts  []string
	Success  int64
	Failures int64
	Details  []Detail
}

// Detail is one way in which sessions failed.
type Detail struct {
	What     Failure
	Sessions int64
}

// Failure is what tells one Detail from another; see [Result].
type Failure struct {
	Type                       FailureType
	SendingIP, ReceivingIP     netip.Addr
	ReceivingMX, ReceivingHELO string
	Reason, Info               string
}

// Bounds of one account. Beyond maxDetails, of all policies together, a failure is counted by its type alone, and there are
// few types.
const (
	maxPolicies = 20
	maxDetails  = 100
)

// policy finds the counts of a policy or makes them; nil where there are too many.
func (a *Account) policy(like Counts) *Counts {
	for i := range a.Policies {
		p := &a.Policies[i]
		if p.Type == like.Type && p.Domain == like.Domain && slices.Equal(p.Strings, like.Strings) && slices.Equal(p.MXHosts, like.MXHosts) {
			return p
		}
	}
	if len(a.Policies) >= maxPolicies {
		return nil
	}
	a.Policies = append(a.Policies, Counts{
		Type: like.Type, Domain: like.Domain, Strings: slices.Clone(like.Strings), MXHosts: slices.Clone(like.MXHosts),
	})
	return &a.Policies[len(a.Policies)-1]
}

// add counts r, which must be clean, and says whether there was room.
func (a *Account) add(r Result) bool {
	p := a.policy(Counts{Type: r.Type, Domain: r.PolicyDomain, Strings: r.PolicyStrings, MXHosts: r.MXHosts})
	if p == nil {
		return false
	}
	if r.Failure == "" {
		p.Success++
		return true
	}
	a.fail(p, Failure{
		Type: r.Failure, SendingIP: r.SendingIP, ReceivingIP: r.ReceivingIP, ReceivingMX: r.ReceivingMX,
		ReceivingHELO: r.ReceivingHELO, Reason: r.Reason, Info: r.Info,
	}, 1)
	return true
}

// fail counts n failures under p, a policy of a.
func (a *Account) fail(p *Counts, f Failure, n int64) {
	p.Failures += n
	i := p.detail(f)
	if i < 0 && a.details() >= maxDetails {
		f = Failure{Type: f.Type}
		i = p.detail(f)
	}
	if i < 0 {
		p.Details = append(p.Details, Detail{What: f})
		i = len(p.Details) - 1
	}
	p.Details[i].Sessions += n
}

// details is how many there are under all policies.
func (a *Account) details() (n int) {
	for i := range a.Policies {
		n += len(a.Policies[i].Details)
	}
	return n
}

func (p *Counts) detail(f Failure) int {
	return slices.IndexFunc(p.Details, func(d Detail) bool { return d.What == f })
}

// merge adds the counts of b and says how many sessions found no room.
func (a *Account) merge(b *Account) (lost int64) {
	for _, q := range b.Policies {
		p := a.policy(q)
		if p == nil {
			lost += q.Success + q.Failures
			continue
		}
		p.Success += q.Success
		for _, d := range q.Details {
			a.fail(p, d.What, d.Sessions)
		}
	}
	return lost
}

// sessions is how many are counted.
func (a *Account) sessions() (n int64) {
	for _, p := range a.Policies {
		n += p.Success + p.Failures
	}
	return n
}

func (a *Account) clone() *Account {
	b := *a
	b.Deliveries = slices.Clone(a.Deliveries)
	b.Policies = slices.Clone(a.Policies)
	for i := range b.Policies {
		b.Policies[i].Details = slices.Clone(a.Policies[i].Details)
	}
	return &b
}
