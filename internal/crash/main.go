// Command crash kills the whole library with SIGKILL while it accepts and delivers, again and again, and then counts.
//
//	go run ./internal/crash -rounds N [-db sqlite|postgres] [-dsn URL] [-seed N] [-json]
//
// A child process sends mail, by Send, SendBatch and SendTx, and delivers it to scripted mail hosts in this process: one that
// takes it, one that is slow, one that asks to come back, one that now and then takes it and drops the connection before it
// says so, one that can't prove its name and one without TLS. Half of the children are killed at any instant from their start on, half
// after their first delivery. Beside the mail it wraps keys, destroys scopes and seals the key ring anew. The last one delivers what is left; it orders a retry of what is uncertain, as a person would.
//
// It prints
//
//	rounds          children that were killed
//	accepted        recipients for whom a Send had answered
//	lost            those that neither arrived nor ended in a way that was recorded, or that are recorded as delivered and did not
//	                arrive; and keys that no longer open
//	below_floor     arrivals without TLS of at least 1.2, or at a host that did not prove its name
//	duplicates      second and further arrivals of one message
//	unreported      duplicates without an event "uncertain", arrivals without an intent, outcomes and uncertain states without an event,
//	                events that the audit log can't prove
//	restart_ms_max  the longest time from the start of a child to its first delivery
//	reopened        keys that open though their scope was destroyed
//
// With -power a round is a power cut instead: one child works on a new folder while strace writes down how it changes its
// files, and each round rebuilds the folder as a disk may be left at some instant of that, with what was not synced lost, there
// in part or torn (see disk), and lets a last child deliver from it. duplicates are then those of mail that had arrived before
// that instant.
//
// It exits 1 where lost, below_floor, unreported or reopened is not 0. Each child checks that the audit log goes on from the checkpoint
// that the one before had, and every twentieth reads the whole log again.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	if os.Getenv(envChild) != "" {
		os.Exit(childMain())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// mostFaults bounds how many are printed.
const mostFaults = 20

// settings are the flags.
type settings struct {
	rounds  int
	db, dsn string
	seed    uint64
	json    bool
	power   bool
	// deaf are files whose syncs the disk of -power does not hear; for tests of the count.
	deaf []string
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	var s settings
	fs := flag.NewFlagSet("crash", flag.ContinueOnError)
	fs.SetOutput(errOut)
	fs.IntVar(&s.rounds, "rounds", 100, "how many children to kill")
	fs.StringVar(&s.db, "db", "sqlite", "sqlite or postgres")
	fs.StringVar(&s.dsn, "dsn", os.Getenv("POSTSEAL_PG_DSN"), "PostgreSQL's URL; empty: what POSTSEAL_PG_DSN says")
	fs.Uint64Var(&s.seed, "seed", 1, "draws the instants of the kills")
	fs.BoolVar(&s.power, "power", false, "cut the power of SQLite's machine instead; needs strace")
	fs.BoolVar(&s.json, "json", false, "print one JSON object")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if wrong := s.wrong(fs.NArg()); wrong != "" {
		fmt.Fprintln(errOut, "crash:", wrong)
		return 2
	}
	campaign := kills
	if s.power {
		campaign = powerCuts
	}
	r, err := campaign(ctx, s)
	if err != nil {
		fmt.Fprintln(errOut, "crash:", err)
		return 1
	}
	r.print(out, s.json)
	if !r.holds() {
		for _, f := range r.faults[:min(len(r.faults), mostFaults)] {
			fmt.Fprintln(errOut, "crash:", f)
		}
		fmt.Fprintln(errOut, "crash:", errors.New("mail or a key was lost, left below its floor, went unreported, or came back"))
		return 1
	}
	return 0
}

func (s *settings) wrong(rest int) string {
	switch {
	case rest > 0 || s.rounds < 1:
		return "flags only, and -rounds of at least 1"
	case s.db != "sqlite" && s.db != "postgres":
		return "-db is sqlite or postgres"
	case s.power && s.db != "sqlite":
		return "-power is for sqlite: PostgreSQL's files are its own"
	case s.db == "postgres" && s.dsn == "":
		return "-db postgres needs -dsn or POSTSEAL_PG_DSN"
	}
	return ""
}

// result is what is printed.
type result struct {
	Rounds     int   `json:"rounds"`
	Accepted   int   `json:"accepted"`
	Lost       int   `json:"lost"`
	BelowFloor int   `json:"below_floor"`
	Duplicates int   `json:"duplicates"`
	Unreported int   `json:"unreported"`
	RestartMax int64 `json:"restart_ms_max"`
	// Arrived counts arrivals, Uncertain parcels that were uncertain at some time, Events what the audit log was asked to prove.
	Arrived   int `json:"arrived"`
	Uncertain int `json:"uncertain"`
	Events    int `json:"events"`
	// RestartMedian is the time of half of the children; of the last ones, in -power.
	RestartMedian int64 `json:"restart_ms_median"`
	// Keys were wrapped under scopes of their own; Reopened are those that open though their scope was destroyed.
	Keys     int `json:"keys"`
	Reopened int `json:"reopened"`
	// faults say of each parcel that is lost or unreported why.
	faults []string
}

func (r *result) holds() bool {
	return r.Lost == 0 && r.BelowFloor == 0 && r.Unreported == 0 && r.Reopened == 0
}

func (r *result) print(w io.Writer, asJSON bool) {
	if asJSON {
		_ = json.NewEncoder(w).Encode(r)
		return
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"rounds", int64(r.Rounds)}, {"accepted", int64(r.Accepted)}, {"lost", int64(r.Lost)}, {"below_floor", int64(r.BelowFloor)},
		{"duplicates", int64(r.Duplicates)}, {"unreported", int64(r.Unreported)}, {"restart_ms_max", r.RestartMax},
		{"arrived", int64(r.Arrived)}, {"uncertain", int64(r.Uncertain)}, {"events", int64(r.Events)}, {"restart_median", r.RestartMedian},
		{"keys", int64(r.Keys)}, {"reopened", int64(r.Reopened)},
	} {
		fmt.Fprintf(w, "%-15s %d\n", f.name, f.value)
	}
}
