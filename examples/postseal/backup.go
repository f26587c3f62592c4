package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/backup"
	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/preset"
)

// recoveryFlags are those of backup and restore.
type recoveryFlags struct {
	store, out, verify, from, custodians, shares, root, log, reason, as, logKey string
	share                                                                       []string
	drill, declare, nothingLeft, json                                           bool
	sample                                                                      int
}

// register adds those that both have.
func (f *recoveryFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.store, "store", "", "database file")
	fs.StringVar(&f.root, "root", "", "copy of the key file, which opens the backup; empty: that of the store")
	fs.Func("share", "file with a custodian's share of the root key; may be repeated, instead of -root", func(s string) error {
		f.share = append(f.share, s)
		return nil
	})
	fs.BoolVar(&f.drill, "drill", false, "back up, restore beside, look at everything, remove it")
	fs.IntVar(&f.sample, "sample", 0, "with -drill: how many parcels are opened; 0: all")
	fs.StringVar(&f.as, "as", "", "who does it; empty: the user of the system")
	fs.BoolVar(&f.json, "json", false, "one JSON object")
}

func parseRecovery(name string, args []string, out io.Writer, more func(*flag.FlagSet, *recoveryFlags)) (*recoveryFlags, error) {
	f := &recoveryFlags{}
	fs := flag.NewFlagSet("postseal "+name, flag.ContinueOnError)
	f.register(fs)
	more(fs, f)
	rest, err := parseMixed(fs, args, out)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%s takes flags only: %w", name, errUsage)
	}
	return f, nil
}

// backupCommand makes a backup, verifies one, makes shares, or drills.
func backupCommand(ctx context.Context, args []string, _ io.Reader, out io.Writer) error {
	f, err := parseRecovery("backup", args, out, func(fs *flag.FlagSet, f *recoveryFlags) {
		fs.StringVar(&f.out, "out", "", "new file to write the backup to; -: standard output")
		fs.StringVar(&f.verify, "verify", "", "read this backup whole and prove it")
		fs.StringVar(&f.logKey, "key", "", "with -verify: the audit log's public key, in note form or a file with it")
		fs.StringVar(&f.custodians, "custodians", "", "M/N: make shares of the root key for N, of whom M are enough")
		fs.StringVar(&f.shares, "shares", "", "new folder for the shares")
	})
	if err != nil {
		return err
	}
	switch {
	case f.verify != "":
		return f.verifyBackup(ctx, out)
	case f.store == "":
		return fmt.Errorf("-store is required: %w", errUsage)
	case (f.custodians == "") != (f.shares == ""):
		return fmt.Errorf("-custodians and -shares go together: %w", errUsage)
	case f.drill:
		return f.runDrill(ctx, out)
	case f.custodians == "" && f.out == "":
		return fmt.Errorf("-out, -verify, -drill or -custodians: %w", errUsage)
	}
	if f.custodians != "" {
		if err := f.split(ctx, out); err != nil || f.out == "" {
			return err
		}
	}
	return f.makeBackup(ctx, out)
}

func quiet() *preset.Options { return &preset.Options{Logger: slog.New(slog.DiscardHandler)} }

func (f *recoveryFlags) makeBackup(ctx context.Context, out io.Writer) (err error) {
	desk, err := preset.OpenDesk(ctx, f.store, quiet())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, desk.Close()) }()
	if f.out == "-" {
		_, err := desk.Backup(ctx, out)
		return err
	}
	rep, err := toNewFile(f.out, func(w io.Writer) (*backup.Report, error) { return desk.Backup(ctx, w) })
	if rep == nil {
		return err
	}
	return errors.Join(err, f.print(out, rep, backupText(rep)))
}

// toNewFile writes a file that must not be there, and keeps it only where it is a backup.
func toNewFile(path string, write func(io.Writer) (*backup.Report, error)) (*backup.Report, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.New("the backup's file can't be made; it must not exist yet")
	}
	rep, err := write(file)
	err = errors.Join(err, file.Sync(), file.Close())
	if rep == nil {
		err = errors.Join(err, os.Remove(path))
	}
	return rep, err
}

func backupText(r *backup.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "backup %s taken %s of %s: %d parcels, %d rows, %d blobs", r.ID, when(r.Taken), r.Dialect, r.Rows["queue_parcel"], r.Total(), r.Blobs)
	if r.LogSize >= 0 {
		fmt.Fprintf(&b, ", log of %d entries", r.LogSize)
	}
	b.WriteByte('\n')
	for _, key := range r.Damaged {
		fmt.Fprintf(&b, "DAMAGED\tblob %s\n", inline(key))
	}
	for _, key := range r.Missing {
		fmt.Fprintf(&b, "MISSING\tblob %s\n", inline(key))
	}
	return b.String()
}

func (f *recoveryFlags) print(out io.Writer, v any, text string) error {
	if f.json {
		return json.NewEncoder(out).Encode(v)
	}
	_, err := io.WriteString(out, text)
	return err
}

// rootFrom is where the root key is.
func (f *recoveryFlags) rootFrom() (*preset.RootFrom, error) {
	from := &preset.RootFrom{KeyFile: f.root}
	for _, name := range f.share {
		b, err := os.ReadFile(name)
		if err != nil || len(b) > 4096 {
			return nil, errors.New("a share's file can't be read")
		}
		from.Shares = append(from.Shares, keyring.Share(strings.TrimSpace(string(b))))
	}
	switch {
	case f.root != "" && len(from.Shares) > 0:
		return nil, fmt.Errorf("-root and -share exclude each other: %w", errUsage)
	case f.root == "" && len(from.Shares) == 0 && f.store == "":
		return nil, fmt.Errorf("which root key? give -root, -share or -store: %w", errUsage)
	case f.root == "" && len(from.Shares) == 0:
		from.KeyFile = f.store + ".key"
		if _, err := os.Stat(from.KeyFile); err != nil {
			return nil, errors.New("the key file does not lie beside the store: give its copy with -root, or the custodians' shares with -share")
		}
	}
	return from, nil
}

func (f *recoveryFlags) verifyBackup(ctx context.Context, out io.Writer) error {
	from, err := f.rootFrom()
	if err != nil {
		return err
	}
	key := f.logKey
	if b, err := os.ReadFile(key); err == nil {
		key = strings.TrimSpace(string(b))
	}
	in, err := os.Open(f.verify)
	if err != nil {
		return errors.New("the backup can't be read")
	}
	defer in.Close()
	rep, err := preset.VerifyBackup(ctx, in, from, key)
	if rep == nil {
		return err
	}
	return errors.Join(err, f.print(out, rep, "proved: "+backupText(rep)))
}

// split writes a file for each custodian, once.
func (f *recoveryFlags) split(ctx context.Context, out io.Writer) (err error) {
	ms, ns, found := strings.Cut(f.custodians, "/")
	m, err1 := strconv.Atoi(ms)
	n, err2 := strconv.Atoi(ns)
	if !found || err1 != nil || err2 != nil || m < 1 || m > n {
		return fmt.Errorf("-custodians is M/N, as 3/5: %w", errUsage)
	}
	desk, err := preset.OpenDesk(ctx, f.store, quiet())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, desk.Close()) }()
	shares, err := desk.Split(ctx, m, n)
	if err != nil {
		return err
	}
	if err := os.Mkdir(f.shares, 0o700); err != nil {
		return errors.New("the folder for the shares can't be made; it must not exist yet")
	}
	for i, s := range shares {
		if err := os.WriteFile(filepath.Join(f.shares, fmt.Sprintf("share-%d-of-%d.txt", i+1, n)), []byte(string(s)+"\n"), 0o600); err != nil {
			return errors.New("a share can't be written")
		}
	}
	_, err = fmt.Fprintf(out, "%d shares written, %d needed: give each to another custodian and remove the folder\n", n, m)
	return err
}

func (f *recoveryFlags) runDrill(ctx context.Context, out io.Writer) error {
	by := securemail.Actor{}
	if f.as != "" {
		by = securemail.Actor{ID: f.as, Kind: "operator"}
	}
	d, err := preset.Drill(ctx, f.store, quiet(), &preset.DrillOptions{By: by, Sample: f.sample})
	if err != nil {
		return err
	}
	if err := f.print(out, d, drillText(d)); err != nil {
		return err
	}
	if len(d.Findings) > 0 {
		return fmt.Errorf("%d findings: this store can't be relied on to come back whole", len(d.Findings))
	}
	return nil
}

func drillText(d *preset.Drilled) string {
	var b strings.Builder
	b.WriteString(backupText(d.Backup))
	round := func(t time.Duration) time.Duration { return t.Round(time.Millisecond) }
	fmt.Fprintf(&b, "backup %v, %d octets; verify %v; restore %v; check %v\n",
		round(d.BackupTime), d.Size, round(d.VerifyTime), round(d.RestoreTime), round(d.CheckTime))
	fmt.Fprintf(&b, "opened %d parcels, %d of them open, %d bodies; %d destroyed by key; log of %d entries proved\n",
		d.Parcels, d.Open, d.Bodies, d.Destroyed, d.Entries)
	for _, s := range d.Findings {
		fmt.Fprintf(&b, "FINDING\t%s\n", inline(s))
	}
	return b.String()
}

// restoreCommand restores, declares, or drills.
func restoreCommand(ctx context.Context, args []string, _ io.Reader, out io.Writer) error {
	f, err := parseRecovery("restore", args, out, func(fs *flag.FlagSet, f *recoveryFlags) {
		fs.StringVar(&f.from, "from", "", "the backup; -store must not exist yet")
		fs.StringVar(&f.log, "log", "", "folder of the audit log that survived, where it is newer than the backup")
		fs.BoolVar(&f.declare, "declare", false, "declare that the store was restored, or copied back; then it may run again")
		fs.StringVar(&f.reason, "reason", "", "with -declare: why; it stands in the audit log, so name no patient")
		fs.BoolVar(&f.nothingLeft, "nothing-left", false, "with -declare: surely no mail left after the backup was taken")
	})
	switch {
	case err != nil:
		return err
	case f.store == "":
		return fmt.Errorf("-store is required: %w", errUsage)
	case f.drill:
		return f.runDrill(ctx, out)
	case f.from == "" && !f.declare:
		return fmt.Errorf("-from, -declare or -drill: %w", errUsage)
	case f.declare && f.reason == "":
		return fmt.Errorf("-declare needs a -reason: %w", errUsage)
	}
	if f.from != "" {
		if err := f.restore(ctx, out); err != nil {
			return err
		}
	}
	if !f.declare {
		return nil
	}
	return f.declareRestore(ctx, out)
}

func (f *recoveryFlags) restore(ctx context.Context, out io.Writer) error {
	from, err := f.rootFrom()
	if err != nil {
		return err
	}
	in, err := os.Open(f.from)
	if err != nil {
		return errors.New("the backup can't be read")
	}
	defer in.Close()
	rep, err := preset.Restore(ctx, f.store, in, &preset.RestoreOptions{From: *from, LogDir: f.log, Store: quiet()})
	if rep == nil {
		return err
	}
	text := "restored: " + backupText(rep)
	if !f.declare {
		text += "no mail leaves before it is declared: postseal restore -declare -store FILE -reason TEXT\n"
	}
	return errors.Join(err, f.print(out, rep, text))
}

func (f *recoveryFlags) declareRestore(ctx context.Context, out io.Writer) error {
	d, err := preset.Declare(ctx, f.store, quiet(), &preset.DeclareOptions{
		By: securemail.Actor{ID: operator(f.as), Kind: "operator", Purpose: "restore"}, Reason: f.reason, NothingLeft: f.nothingLeft,
	})
	if err != nil {
		return err
	}
	return f.print(out, d, declaredText(d))
}

func declaredText(d *preset.Declared) string {
	var b strings.Builder
	fmt.Fprintf(&b, "declared: %d entries of the log were newer; %d keys destroyed again; %d parcels can't be opened\n", d.News, d.Destroyed, d.Unread)
	for _, st := range allStates {
		if n := d.Settled[st]; n > 0 {
			fmt.Fprintf(&b, "SETTLED\t%d\t%s\n", n, st)
		}
	}
	for _, id := range d.Uncertain {
		fmt.Fprintf(&b, "UNCERTAIN\t%s\n", id)
	}
	for _, t := range d.Unknown {
		word := "LOST"
		if t.State.Final() {
			word = "ENDED"
		}
		fmt.Fprintf(&b, "%s\t%s\tsubmission %s\t%s\t%s\n", word, inline(string(t.Parcel)), inline(t.Submission), t.State, when(t.Time))
	}
	return b.String()
}
