package securemail

import (
	"maps"
	"slices"
	"strings"
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
