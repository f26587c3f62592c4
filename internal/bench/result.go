package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Result is one figure of ours beside one of theirs.
type Result struct {
	Area string `json:"area"`
	Name string `json:"name"`
	// Value is ours, PeerValue theirs, in Unit.
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Peer      string  `json:"peer"`
	PeerValue float64 `json:"peer_value"`
	// Ratio says how many times better ours is, whether more or less is better; Floor is what it should reach.
	Ratio float64 `json:"ratio"`
	Floor float64 `json:"floor"`
	Met   bool    `json:"met"`
}

// compare fills in Ratio and Met. In units of time and space less is better.
func (r Result) compare() Result {
	if r.Value == 0 || r.PeerValue == 0 {
		return r
	}
	if r.Ratio = r.Value / r.PeerValue; slices.Contains([]string{"us", "ms", "MB", "B", "open", "left"}, r.Unit) {
		r.Ratio = 1 / r.Ratio
	}
	r.Met = r.Ratio >= r.Floor
	return r
}

// printer writes results as JSON lines, or as a table with a headline.
func printer(w io.Writer, asJSON bool) func(Result) {
	if asJSON {
		enc := json.NewEncoder(w)
		return func(r Result) { _ = enc.Encode(r) }
	}
	const row = "%-8s %-46s %12s %-7s %-20s %12s %7s %6s %s\n"
	head := false
	return func(r Result) {
		if !head {
			fmt.Fprintf(w, row, "area", "name", "ours", "unit", "peer", "theirs", "ratio", "floor", "met")
			head = true
		}
		met := "yes"
		if !r.Met {
			met = "no"
		}
		fmt.Fprintf(w, row, r.Area, r.Name, number(r.Value), r.Unit, r.Peer, number(r.PeerValue),
			fmt.Sprintf("%.2f", r.Ratio), fmt.Sprintf("%.2f", r.Floor), met)
	}
}

func number(f float64) string {
	if f >= 1000 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.1f", f)
}

// median of xs, which it sorts.
func median(xs []float64) float64 {
	slices.Sort(xs)
	n := len(xs)
	if n == 0 {
		return 0
	}
	return (xs[(n-1)/2] + xs[n/2]) / 2
}
