package queue

import (
	"time"

	"github.com/postseal/postseal/securemail"
)

// letter is what a parcel needs to leave, beside its slip and its body.
type letter struct {
	Head    []byte
	Factors []securemail.Factor
}

// progress is a Status without the Slip, which never changes.
type progress struct {
	State               securemail.State
	Choice              securemail.Choice
	Policy              string
	Reasons             []securemail.Reason
	Protection          *securemail.Protection
	Receipt             *securemail.Receipt
	Failure             string
	Next, Changed, Read time.Time
}

func progressOf(s *securemail.Status) progress {
	return progress{
		State: s.State, Choice: s.Choice, Policy: s.Policy, Reasons: s.Reasons, Protection: s.Protection,
		Receipt: s.Receipt, Failure: s.Failure, Next: s.Next, Changed: s.Changed, Read: s.Read,
	}
}

// row is one of queue_parcel, with the key it is sealed under.
type row struct {
	id, submission, tenant, state, body string
	slip, letter, status, wrapped       []byte
	attempt, rev                        int64
	notBefore, leaseEpoch, leaseUntil   int64
	opened                              int64
	priority, due                       int64 // of what was just leased
}

const rowColumns = `p.id, p.submission, p.tenant, p.state, p.body, p.slip, p.letter, p.status, k.wrapped,
	p.attempt, p.rev, p.not_before, p.lease_epoch, p.lease_until, p.opened
	FROM queue_parcel p JOIN queue_key k ON k.id=p.submission`

func (r *row) into() []any {
	return []any{
		&r.id, &r.submission, &r.tenant, &r.state, &r.body, &r.slip, &r.letter, &r.status, &r.wrapped,
		&r.attempt, &r.rev, &r.notBefore, &r.leaseEpoch, &r.leaseUntil, &r.opened,
	}
}

// statusOf opens the status of r. The columns are the truth about state and attempt.
func (k *dataKey) statusOf(r *row) (securemail.Status, error) {
	var st securemail.Status
	var p progress
	if err := k.open("slip", r.id, r.slip, &st.Slip); err != nil {
		return st, err
	}
	if r.status == nil {
		p.Changed = st.Submitted
	} else if err := k.open("status", r.id, r.status, &p); err != nil {
		return st, err
	}
	st.State, st.Attempt = securemail.State(r.state), int(r.attempt)
	st.Choice, st.Policy, st.Reasons, st.Protection, st.Receipt = p.Choice, p.Policy, p.Reasons, p.Protection, p.Receipt
	st.Failure, st.Next, st.Changed, st.Read = p.Failure, p.Next, p.Changed, p.Read
	if r.opened != 0 {
		st.Read = time.UnixMicro(r.opened).UTC()
	}
	return st, nil
}
