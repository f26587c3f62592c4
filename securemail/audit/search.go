package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"time"
)

// Search asks for entries. Each field that is set must hold; the zero Search is every entry.
type Search struct {
	// Parcel and Submission are ids, Actor is Entry.By.ID, Tenant is Entry.By.Tenant, Kind and State are those of the Entry.
	Parcel, Submission, Actor, Tenant, Kind, State string
	// Recipient and Subject are pseudonyms of kinds "address" and "subject" ([Log.Pseudonym]).
	Recipient, Subject string
	// From and Until bound Entry.Time; From is within, Until is not. The zero Time is no bound.
	From, Until time.Time
	// Newest asks for the newest entry first; else they come in the log's order.
	Newest bool
	// Limit is how many are given at most; 0: all.
	Limit int
}

var errLimit = errors.New("audit: negative Search.Limit")

// Search yields the entries that s asks for, of all that are durable when it is called, published or not. It reads the log
// bundle by bundle and holds one at a time. Where a field other than From and Until is set, a catalogue spares it nearly all
// bundles that don't match; it takes 2 KB a bundle and lies in the folder catalog, which may be removed: the first search makes
// it (some seconds for 1,000,000 entries), also where it is damaged. It does not prove what it gives: [Log.Prove]
// and [Log.Evidence] do, and [Log.Check] proves all. Whom a search is allowed to is for the host to ask before it
// (securemail.Authorizer), and to record: it knows who asks, and why. An error is the last that is yielded: ErrCorrupt, ctx's,
// the file system's.
func (l *Log) Search(ctx context.Context, s Search) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if s.Limit < 0 {
			yield(Entry{}, errLimit)
			return
		}
		given, needles := 0, s.needles()
		for data, err := range l.octets(ctx, s.Newest, needles) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !containsAll(data, needles) {
				continue
			}
			e, err := parseEntry(data)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !s.matches(&e) {
				continue
			}
			if given++; !yield(e, nil) || given == s.Limit {
				return
			}
		}
	}
}

// needles are octets that an entry must hold where it matches.
func (s *Search) needles() [][]byte {
	var out [][]byte
	for _, f := range []struct{ name, value string }{
		{`"parcel":`, s.Parcel}, {`"submission":`, s.Submission}, {`"id":`, s.Actor}, {`"tenant":`, s.Tenant}, {`"kind":`, s.Kind},
		{`"state":`, s.State}, {`"recipient":`, s.Recipient}, {"", s.Subject},
	} {
		if f.value != "" {
			out = append(out, append([]byte(f.name), quoted(f.value)...))
		}
	}
	return out
}

// quoted is s as it stands in an entry.
func quoted(s string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string in memory never fails
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

func containsAll(data []byte, needles [][]byte) bool {
	for _, n := range needles {
		if !bytes.Contains(data, n) {
			return false
		}
	}
	return true
}

func (s *Search) matches(e *Entry) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	return is(s.Parcel, e.Parcel) && is(s.Submission, e.Submission) && is(s.Actor, e.By.ID) && is(s.Tenant, e.By.Tenant) &&
		is(s.Kind, e.Kind) && is(s.State, e.State) && is(s.Recipient, e.Recipient) &&
		(s.Subject == "" || slices.Contains(e.Subjects, s.Subject)) &&
		(s.From.IsZero() || !e.Time.Before(s.From)) && (s.Until.IsZero() || e.Time.Before(s.Until))
}

// octets yields every entry that is durable now, but for bundles that can't hold needles, each in the order asked for.
func (l *Log) octets(ctx context.Context, newest bool, needles [][]byte) iter.Seq2[[]byte, error] {
	l.mu.RLock()
	v := &view{l: l, published: l.published.N, tail: l.tail, start: l.tailStart, needles: needles, at: -1}
	l.mu.RUnlock()
	bundles := (v.start + int64(len(v.tail)) + tileWidth - 1) / tileWidth
	return func(yield func([]byte, error) bool) {
		for i := range bundles {
			n := i
			if newest {
				n = bundles - 1 - i
			}
			entries, err := v.bundle(ctx, n)
			if err != nil {
				yield(nil, err)
				return
			}
			if newest {
				entries = slices.Clone(entries)
				slices.Reverse(entries)
			}
			for _, data := range entries {
				if !yield(data, nil) {
					return
				}
			}
		}
	}
}

// view is the log as it was at one moment, and what is looked for in it.
type view struct {
	l         *Log
	published int64
	tail      [][]byte
	start     int64 // of tail
	needles   [][]byte
	page      catalogue
	at        int64 // number of page
}

// bundle returns the entries of bundle n; none where it can't hold the needles.
func (v *view) bundle(ctx context.Context, n int64) ([][]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if from := n * tileWidth; from >= v.start {
		size := v.start + int64(len(v.tail))
		return v.tail[from-v.start : min(from+tileWidth, size)-v.start], nil
	}
	if page := n / pageBundles; len(v.needles) > 0 && page != v.at {
		v.page, v.at = nil, page
		if (page+1)*pageBundles*tileWidth <= v.published {
			var err error
			if v.page, err = v.l.pageOf(page, v.published); err != nil {
				return nil, err
			}
		}
	}
	if !v.page.mayHold(n%pageBundles, v.needles) {
		return nil, nil
	}
	return readBundle(v.l.dir, n, v.published)
}

// numbersOf yields the numbers of the published entries, below size, that may be of parcel: their octets name it.
func (l *Log) numbersOf(ctx context.Context, parcel string, size int64) iter.Seq2[int64, error] {
	needles := (&Search{Parcel: parcel}).needles()
	v := &view{l: l, published: size, start: size + tileWidth, needles: needles, at: -1}
	return func(yield func(int64, error) bool) {
		for n := int64(0); n*tileWidth < size; n++ {
			entries, err := v.bundle(ctx, n)
			if err != nil {
				yield(0, err)
				return
			}
			for i, data := range entries {
				if containsAll(data, needles) && !yield(n*tileWidth+int64(i), nil) {
					return
				}
			}
		}
	}
}
