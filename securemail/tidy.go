package securemail

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// What parts and far ends say is stored and logged as text. Octets that are no UTF-8 could be written there and not read
// again, and then one far end's reply would stop the log for everybody, so they become U+FFFD.

func tidyText(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func tidyTexts(ss []string) []string {
	ss = slices.Clone(ss)
	for i, s := range ss {
		ss[i] = tidyText(s)
	}
	return ss
}

func tidyReasons(rs []Reason) []Reason {
	rs = slices.Clone(rs)
	for i, r := range rs {
		rs[i] = Reason{tidyText(r.Rule), tidyText(r.Text)}
	}
	return rs
}

// tidyStatus shares nothing that it changes with st.
func tidyStatus(st Status) Status {
	st.Policy, st.Failure, st.Reasons = tidyText(st.Policy), tidyText(st.Failure), tidyReasons(st.Reasons)
	if st.Receipt != nil {
		r := *st.Receipt
		if badTime(r.Time) {
			r.Time = st.Changed
		}
		r.Peer, r.RemoteID, r.Reasons = tidyText(r.Peer), tidyText(r.RemoteID), tidyReasons(r.Reasons)
		st.Receipt = &r
	}
	if st.Protection != nil {
		p := *st.Protection
		p.Algorithm, p.Keys, p.Detail = tidyText(p.Algorithm), tidyTexts(p.Keys), maps.Clone(p.Detail)
		for k, v := range st.Protection.Detail {
			delete(p.Detail, k)
			p.Detail[tidyText(k)] = tidyText(v)
		}
		st.Protection = &p
	}
	return st
}

func tidyKeys(ks []Key) []Key {
	for i := range ks {
		k := &ks[i]
		if badTime(k.NotAfter) { // they have not expired, so it is far away
			k.NotAfter = time.Time{}
		}
		k.Fingerprint, k.Origin, k.Capabilities = tidyText(k.Fingerprint), tidyText(k.Origin), tidyTexts(k.Capabilities)
	}
	return ks
}

func tidyClass(c Class) Class {
	c.Special, c.Kinds, c.Findings = tidyTexts(c.Special), tidyTexts(c.Kinds), slices.Clone(c.Findings)
	for i, f := range c.Findings {
		c.Findings[i].Rule, c.Findings[i].Part = tidyText(f.Rule), tidyText(f.Part)
	}
	return c
}

// tidyActor is for what a host took from a request, such as its User-Agent.
func tidyActor(a Actor) Actor {
	a.Tenant, a.ID, a.Kind, a.Purpose, a.Roles = tidyText(a.Tenant), tidyText(a.ID), tidyText(a.Kind), tidyText(a.Purpose), tidyTexts(a.Roles)
	a.Auth.Method, a.Auth.Session = tidyText(a.Auth.Method), tidyText(a.Auth.Session)
	if badTime(a.Auth.At) {
		a.Auth.At = time.Time{}
	}
	o := &a.Origin
	o.Device, o.Posture, o.Network, o.Place = tidyText(o.Device), tidyText(o.Posture), tidyText(o.Network), tidyText(o.Place)
	return a
}
