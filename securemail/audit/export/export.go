package export

import (
	"bufio"
	"cmp"
	"encoding/json"
	"io"
	"iter"
	"time"

	"github.com/postseal/postseal/securemail/audit"
)

// Options say what the entries do not. The zero value is ready to use.
type Options struct {
	// Source is the name of the system that keeps the log, such as its host name; it stands as the observer of each event.
	// Empty: "postseal.invalid".
	Source string
	// Title and Filter are for the head of the page: what it is about, and what was searched for.
	Title, Filter string
	// PublicKey is the log's, for the instructions on the page how to check a copy.
	PublicKey string
	// Now is when the page was made, printed on it. The zero Time: time.Now.
	Now time.Time
}

func (o *Options) orDefault() Options {
	if o == nil {
		o = &Options{}
	}
	c := *o
	c.Source = cmp.Or(c.Source, "postseal.invalid")
	c.Title = cmp.Or(c.Title, "Delivery and protection report")
	if c.Now.IsZero() {
		c.Now = time.Now()
	}
	return c
}

// object is a JSON object; its keys come out sorted.
type object map[string]any

// Lines writes the entries as they are, one JSON object a line. It ends with the first error of entries or w.
func Lines(w io.Writer, entries iter.Seq2[audit.Entry, error]) error {
	return lines(w, entries, func(e *audit.Entry) []any { return []any{e} })
}

// lines writes what of makes of each entry, one a line, and holds one entry at a time.
func lines(w io.Writer, entries iter.Seq2[audit.Entry, error], of func(*audit.Entry) []any) error {
	buf := bufio.NewWriter(w)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	for e, err := range entries {
		if err != nil {
			return err
		}
		for _, v := range of(&e) {
			if err := enc.Encode(v); err != nil {
				return err
			}
		}
	}
	return buf.Flush()
}
