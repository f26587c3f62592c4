// Command postseal is the library from the shell. Sub-commands read standard input, write standard output, and exit 1 with
// one clear line on standard error when they fail, 2 when they were called wrongly.
//
//	postseal send -from A -to B[,C] [flags] < message.eml      delivers, and prints decision and receipt per recipient
//	postseal explain -from A -to B[,C] [flags] < message.eml   says what would happen, and sends nothing
//	postseal probe [-own] [flags] DOMAIN...                    looks at how domains can be reached by TLS, and sends nothing
//	postseal mtasts [flags] DOMAIN                             shows its MTA-STS policy, or what yours is to publish
//	postseal queue VERB -store FILE [flags] [PARCEL...]        looks into a store, or gives an order: list, show, hold,
//	                                                           release, retry, cancel
//	postseal evidence -store FILE PARCEL > e.json              writes what the store's log proves about a parcel
//	postseal evidence -store FILE -public-key > log.pub        writes the key to check that by
//	postseal verify-evidence -key log.pub < e.json             checks it, offline, and says what it proves; with -tsa FILE its
//	                                                           time stamp too
//	postseal audit -store FILE check                           proves every octet of the store's log
//	postseal audit -store FILE search|report|export [flags]    says what it holds; -format text, jsonl, csv, json, html, fhir, ocsf
//	postseal backup -store FILE -out FILE                      copies a store, sealed, while it runs
//	postseal restore -store FILE -from FILE                    brings it back
//
// send prints a line a recipient: address, state, method, what protects the mail and how the mail host was proved, and the reasons
// of the rules and of the host, each as rule: text. explain prints address, method, the choices in order, how the host is proved
// now, and the reasons.
//
// Flags of send and explain:
//
//	-relay host:port    give everything to this smart host, by STARTTLS (port 465: TLS at once)
//	-operator NAME      vouches for the road beyond the relay, under -agreement REF, which lasts to the day -until; without it the
//	                    relay meets no floor
//	-policy NAME        try-tls (default), forced, exclusive, or escrow
//	-purpose NAME       treatment (default), payment, operations, or marketing; exclusive drops, so it is for marketing only
//	-keys FOLDER        pinned PGP keys with their keys.json; see package encrypt/keys
//	-base-url URL       where the pick-up pages are; without it there is no escrow, and such mail is held
//	-insecure-loopback  allow http for a -base-url on loopback
//	-store FILE         keep queue, keys, policies and audit log there, so that the next run tries again what is deferred, and what
//	                    is held can be released by a program; without it they live as long as the command
//
// Flags of all, which may stand behind the domains too:
//
//	-resolver addr      ask this DNS server (ip or ip:port) instead of the system's, and connect where it says, private and
//	                    loopback addresses included. DANE needs one that validates DNSSEC, with -trust-ad
//	-trust-ad           believe it where it says that DNSSEC proved an answer; on a path other than loopback or -dot you vouch
//	                    that nobody can forge its answers
//	-dot NAME           ask it over TLS, by this name in its certificate, on port 853
//	-port N, -https-port N
//	                    where mail hosts listen and policies are served, instead of 25 and 443
//	-ca FILE            trust the authorities in this PEM file instead of the system's
//	-timeout D          for each domain, 1m, and once more for what -own judges; for each recipient, 1h
//	-json               one JSON object a domain or recipient
//
// probe speaks with each mail host up to TLS and says QUIT. It exits 1 where a domain was not reached. With -own it also judges
// what the domain itself publishes: SPF, DKIM (-selector NAME, may be repeated), DMARC, TLSRPT, whether the MTA-STS policy fits
// the mail hosts, TLSA records against certificates, and when the certificates of mail hosts and policy host end. Each finding
// is OK, WARN, FAIL or UNKNOWN.
//
// mtasts takes each step of RFC 8461 and says which one fails; it exits 1 where the policy is not known. It asks nobody, and
// prints what DOMAIN is to publish, with
//
//	-publish -mx HOST[,HOST] [-mode M] [-max-age T] [-id ID]   record and policy of MTA-STS; testing first, then enforce
//	-tlsa cert.pem -host MX                                    the TLSA record of a mail host's certificate; sign the zone
//	-tlsrpt mailto:A[,https://B]                               the record that asks for TLS reports
//
// queue works while another process runs the store, and names nobody: no address, name or subject. list prints a line a parcel:
// id, state, attempts, when it is tried next, purpose, labels, rules. show adds reasons and what was decided and done so far. An
// order is for all parcels that are named or selected, or for none, and is recorded with -as NAME (else the user of the system) as
// its operator; it prints the parcels as they are then. All take -tenant T, -state S[,S], -label NAME=VALUE, -submission ID,
// -limit N and -json. What leaves at this moment takes no order.
//
// backup writes database, blobs, audit log and wrapped keys into one sealed file, and exits 1 where something stored is damaged
// or missing. -verify FILE reads a backup whole and proves it, -key K the log's signature in it too. -custodians M/N -shares
// FOLDER writes shares of the root key, once. The root key comes from beside -store, or from -root FILE, or from M times -share FILE.
//
// restore makes a store of a backup, all or nothing, where none is; with -log FOLDER it goes on with the audit log that survived.
// -declare -reason TEXT [-as NAME] records the restore, or that an older database was copied back: what the log knows is settled,
// what nobody knows is uncertain (-nothing-left: you know that nothing left since), and mail leaves again. It lists parcels that
// are LOST, accepted after the backup and to be sent again, and those that had ENDED. -drill does all of this beside the store,
// prints times and findings, and exits 1 where there is one.
//
// The JSON of probe is that of posture.Snapshot, and with -own the list own of {check, verdict, text}. That of mtasts has domain,
// verdict (enforce, testing, none, unknown), why, record, id, policy, max_age in seconds, and mx, from mail host to the pattern that
// allows it; where records are printed, domain, dns (zone file lines), url and policy. That of send and explain has recipient, use (the
// method), and wire: peer, proof, tls_version, tls_suite, tls_group, fips, reasons; of send also status, as in webhooks; of explain
// also choices, else, reasons. What is empty is left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// command is one sub-command.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, in io.Reader, out io.Writer) error
}

func commands() []command {
	return []command{
		{"send", "deliver a message read from standard input", onMessage("send", send)},
		{"explain", "say what would happen to it, and send nothing", onMessage("explain", explain)},
		{"probe", "look at how domains can be reached by TLS, and send nothing", probe},
		{"mtasts", "show a domain's MTA-STS policy, or what yours is to publish", mtastsCommand},
		{"queue", "look into a store, and hold, release, retry or cancel its parcels", queueCommand},
		{"evidence", "write what a store's log proves about a parcel, for outsiders", evidenceCommand},
		{"audit", "check a store's log, search it, report on it or export it", auditCommand},
		{"verify-evidence", "check such a file by the log's public key, offline", verifyEvidence},
		{"backup", "back up a store, verify a backup, split its root key, or drill", backupCommand},
		{"restore", "restore a store, or declare that it was restored", restoreCommand},
	}
}

// errUsage says that the command was called wrongly.
var errUsage = errors.New("called wrongly; see postseal help")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(dispatch(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func dispatch(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Fprintln(out, "usage: postseal COMMAND [flags] [DOMAIN...] [< message.eml]")
		for _, c := range commands() {
			fmt.Fprintf(out, "  %-16s %s\n", c.name, c.summary)
		}
		fmt.Fprintln(out, "postseal COMMAND -h lists the flags of one.")
		if len(args) == 0 {
			return 2
		}
		return 0
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		switch err := c.run(ctx, args[1:], in, out); {
		case err == nil || errors.Is(err, flag.ErrHelp):
			return 0
		case errors.Is(err, errUsage):
			fmt.Fprintln(errOut, "postseal:", err)
			return 2
		default:
			fmt.Fprintln(errOut, "postseal:", err)
			return 1
		}
	}
	fmt.Fprintf(errOut, "postseal: no command %q; see postseal help\n", args[0])
	return 2
}
