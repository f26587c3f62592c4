package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
	"github.com/postseal/postseal/securemail/audit/timestamp"
)

// maxBundle bounds what verify-evidence reads.
const maxBundle = 64<<20 + 1

// evidenceCommand writes what a store's log holds of one parcel, as a file for outsiders.
func evidenceCommand(ctx context.Context, args []string, _ io.Reader, out io.Writer) (err error) {
	fs := flag.NewFlagSet("postseal evidence PARCEL", flag.ContinueOnError)
	store := fs.String("store", "", "database file; its log lies beside it; required")
	key := fs.Bool("public-key", false, "write the log's public key instead, for verify-evidence")
	ids, err := parseMixed(fs, args, out)
	if err != nil {
		return err
	}
	if *store == "" || *key != (len(ids) == 0) || len(ids) > 1 {
		return fmt.Errorf("evidence needs -store, and one PARCEL or -public-key: %w", errUsage)
	}
	log, err := openLog(ctx, *store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	if *key {
		_, err := fmt.Fprintln(out, log.PublicKey())
		return err
	}
	b, err := log.Evidence(ctx, securemail.ParcelID(ids[0]))
	if err == nil {
		_, err = out.Write(b)
	}
	return err
}

// verifyEvidence checks a bundle on standard input by the log's public key, and says what it proves.
func verifyEvidence(_ context.Context, args []string, in io.Reader, out io.Writer) error {
	fs := flag.NewFlagSet("postseal verify-evidence", flag.ContinueOnError)
	key := fs.String("key", "", "the log's public key, or a file with it; required")
	tsa := fs.String("tsa", "", "PEM file of the time stamp authorities to trust; the bundle must have a stamp of one")
	asJSON := fs.Bool("json", false, "one JSON object")
	rest, err := parseMixed(fs, args, out)
	if err != nil {
		return err
	}
	if *key == "" || len(rest) > 0 {
		return fmt.Errorf("verify-evidence needs -key, and the bundle on standard input: %w", errUsage)
	}
	verifier, err := readVerifier(*key)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(in, maxBundle))
	if err != nil {
		return errors.New("standard input can't be read")
	}
	e, err := audit.VerifyEvidence(b, verifier)
	if err != nil {
		return err
	}
	stamped, err := stampTime(e, *tsa)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(out).Encode(struct {
			OK        bool          `json:"ok"`
			Parcel    string        `json:"parcel"`
			Origin    string        `json:"origin"`
			Size      int64         `json:"size"`
			Root      string        `json:"root"`
			Entries   []audit.Entry `json:"entries"`
			Statement []string      `json:"statement"`
			Stamped   time.Time     `json:"stamped,omitzero"`
		}{true, e.Parcel, e.Origin, e.Size, e.Root, e.Entries, e.Statement, stamped})
	}
	fmt.Fprintf(out, "OK: %d entries about parcel %s are in the log %s, as it was at %d entries with root %s (%s).\n",
		len(e.Entries), e.Parcel, e.Origin, e.Size, e.Root, span(e.Entries))
	if !stamped.IsZero() {
		fmt.Fprintf(out, "STAMPED: a time stamp authority saw a log with them at %s.\n", stamped.Format(time.RFC3339))
	}
	for _, s := range e.Statement {
		fmt.Fprintln(out, s)
	}
	return nil
}

// stampTime is when the bundle's stamp was made, by an authority in the file; zero where there is no file.
func stampTime(e *audit.Evidence, file string) (time.Time, error) {
	if file == "" {
		return time.Time{}, nil
	}
	b, err := os.ReadFile(file)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(b) {
		return time.Time{}, errors.New("-tsa: no file with certificates")
	}
	if e.Stamp == nil {
		return time.Time{}, errors.New("the bundle has no time stamp")
	}
	t, err := timestamp.Verify(e.Stamp.Token, sha256.Sum256(e.Stamp.Checkpoint), roots)
	if err != nil {
		return time.Time{}, err
	}
	return t.Time, nil
}

func span(es []audit.Entry) string {
	first, last := es[0].Time, es[len(es)-1].Time
	return first.Format(time.RFC3339) + " to " + last.Format(time.RFC3339)
}

// readVerifier takes a key in the form of a signed note's verifier, or a file that holds one.
func readVerifier(key string) (note.Verifier, error) {
	if v, err := note.NewVerifier(strings.TrimSpace(key)); err == nil {
		return v, nil
	}
	b, err := os.ReadFile(key)
	if err != nil {
		return nil, errors.New("-key is neither a public key nor a file that can be read")
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, errors.New("-key: the file does not hold a log's public key (NAME+HASH+KEY)")
	}
	return v, nil
}
