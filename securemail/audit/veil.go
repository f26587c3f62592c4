package audit

import (
	"regexp"
	"strings"

	"github.com/postseal/postseal/securemail"
)

// Texts of rules, errors and hosts must not name a person. Where one does all the same, the log is no place for it: it
// can't be taken back. So what the event itself knows of its people, where their mail is, and whatever looks like an address,
// stands in texts as "[kind pseudonym]".

// known is a value that must not show in a text.
type known struct{ kind, value string }

const (
	// leastKnown is how many octets make a value worth looking for: shorter ones stand in ordinary words.
	leastKnown = 4
	mostKnown  = 64
)

func knownOf(e *securemail.Event) []known {
	all := []known{
		{"address", e.From.Address.Reveal()}, {"address", e.Recipient.Address.Reveal()},
		{"name", e.From.Name}, {"name", e.Recipient.Name}, {"ref", e.From.Ref}, {"ref", e.Recipient.Ref},
	}
	for _, s := range e.Subjects[:min(len(e.Subjects), mostKnown)] {
		all = append(all, known{"subject", string(s)})
	}
	for _, v := range e.Labels {
		if len(all) == 2*mostKnown {
			break
		}
		all = append(all, known{"label", v})
	}
	if e.Receipt != nil {
		all = append(all, known{"peer", e.Receipt.Peer}) // before the domain, which may be a part of it
	}
	// Events about a domain, such as those of transport/posture, name it and its mail host in their details.
	all = append(all, known{"peer", e.Detail["host"]}, known{"domain", e.Detail["domain"]}, known{"domain", e.Recipient.Address.Domain()})
	out := all[:0]
	for _, k := range all {
		if len(k.value) >= leastKnown {
			out = append(out, k)
		}
	}
	return out
}

var addressLike = regexp.MustCompile(`[^\s<>()\[\]{},;:"|\\/=]+@[^\s<>()\[\]{},;:"|\\/=@]+`)

func (w *wording) veil(s string) string {
	if !strings.Contains(s, "@") {
		return w.veilKnown(s)
	}
	var out strings.Builder
	at := 0
	for _, m := range addressLike.FindAllStringIndex(s, -1) {
		value := strings.Trim(s[m[0]:m[1]], ".'")
		if a, err := securemail.ParseAddress(value); err == nil {
			value = a.Reveal()
		}
		out.WriteString(w.veilKnown(s[at:m[0]]) + w.veiled("address", value))
		at = m[1]
	}
	return out.String() + w.veilKnown(s[at:])
}

func (w *wording) veilKnown(s string) string {
	for _, k := range w.known {
		if strings.Contains(s, k.value) {
			return w.replacer().Replace(s)
		}
	}
	return s
}

// replacer goes through a text once, so that it does not look into the pseudonyms it puts there.
func (w *wording) replacer() *strings.Replacer {
	if w.replace == nil {
		var pairs []string
		for _, k := range w.known {
			pairs = append(pairs, k.value, w.veiled(k.kind, k.value))
		}
		w.replace = strings.NewReplacer(pairs...)
	}
	return w.replace
}

func (w *wording) veiled(kind, value string) string {
	return "[" + kind + " " + w.pseudonym(kind, value) + "]"
}
