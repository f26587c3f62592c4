package crash_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
	"github.com/postseal/postseal/transport/smtp"
)

const (
	kills  = 15
	envDir = "POSTSEAL_CRASH_DIR"
)

// The child is this test binary again, told by its environment.
func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		if err := child(dir, os.Getenv("POSTSEAL_CRASH_DNS"), os.Getenv("POSTSEAL_CRASH_MX"), os.Getenv("POSTSEAL_CRASH_MODE")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child opens the system and works until it is killed; in mode "finish" until nothing is left.
func child(dir, dns, mx, mode string) error {
	ctx := context.Background()
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	resolver, err := smtp.DNS(dns, nil)
	if err != nil {
		return err
	}
	var dial net.Dialer
	s, err := preset.Open(ctx, filepath.Join(dir, "mail.db"), &preset.Options{
		Owner: "crash", Logger: slog.New(slog.DiscardHandler),
		SMTP: &smtp.Options{RootCAs: roots, Resolver: resolver, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial.DialContext(ctx, network, mx)
		}},
	})
	if err != nil {
		return err
	}
	if mode == "finish" {
		return errors.Join(finish(ctx, s), s.Close())
	}
	go func() { _ = s.Run(ctx) }()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100_000 {
				subject := fmt.Sprintf("n-%d-%d-%d", os.Getpid(), w, i)
				sub, err := s.Send(ctx, draft(subject, i%7 == 0))
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				// Only what the parent has read counts as accepted: the line leaves after Send returned.
				fmt.Printf("%s %s\n", subject, sub.Parcels[0].ID)
			}
		})
	}
	wg.Wait()
	return nil
}

// draft is small, or too large for a row, so that its body is a blob.
func draft(subject string, large bool) *securemail.Draft {
	text := "small\n"
	if large {
		text = strings.Repeat("A line of a large message that does not fit into a row.\n", 2000)
	}
	return &securemail.Draft{
		From: securemail.Mailbox("clinic@example.org"), To: securemail.To("anna@x.test"), Subject: subject, Text: text,
		Purpose: securemail.PurposeTreatment,
	}
}

// finish delivers what is left; what is uncertain is delivered again by order, as a person would after looking.
func finish(ctx context.Context, s *preset.System) error {
	for range 200 {
		if _, err := s.RunDue(ctx); err != nil {
			return err
		}
		open := 0
		for st, err := range s.Find(ctx, securemail.Query{}) {
			if err != nil {
				return err
			}
			if st.State == securemail.StateUncertain {
				fmt.Printf("uncertain %s\n", st.ID)
				if err := s.Order(ctx, securemail.Retry, st.ID); err != nil {
					return err
				}
			}
			if !st.State.Final() {
				open++
			}
		}
		if open == 0 {
			return s.Ledger.Check(ctx)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.New("parcels are left")
}

func TestKillNine(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	dir := t.TempDir()
	cert := smtppeer.SelfSigned("mx.test")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600))
	peer, err := smtppeer.Start(smtppeer.Options{Hostname: "mx.test", TLS: smtppeer.ServerConfig(cert)})
	require.NoError(t, err)
	defer peer.Close()
	dns, err := dnspeer.Start(dnspeer.Zone{"x.test": {"MX 10 mx.test."}, "mx.test": {"A 127.0.0.1"}})
	require.NoError(t, err)
	defer dns.Close()
	command := func(mode string) *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), envDir+"="+dir, "POSTSEAL_CRASH_DNS="+dns.Addr(), "POSTSEAL_CRASH_MX="+peer.Addr(), "POSTSEAL_CRASH_MODE="+mode)
		c.Stderr = os.Stderr
		return c
	}
	accepted := make(map[string]string) // subject to parcel
	for range kills {
		c := command("")
		lines, err := c.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, c.Start())
		time.AfterFunc(time.Duration(150+rand.IntN(350))*time.Millisecond, func() { _ = c.Process.Kill() })
		for s := bufio.NewScanner(lines); s.Scan(); {
			if subject, id, ok := strings.Cut(s.Text(), " "); ok && len(id) == 26 {
				accepted[subject] = id
			}
		}
		require.ErrorContains(t, c.Wait(), "killed")
	}
	require.NotEmpty(t, accepted)
	out, err := command("finish").Output()
	require.NoError(t, err)
	uncertain := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "uncertain "); ok {
			uncertain[id] = true
		}
	}
	arrived := make(map[string]int)
	for _, m := range peer.Messages() {
		_, rest, _ := strings.Cut(string(m.Data), "\r\nSubject: ")
		subject, _, _ := strings.Cut(rest, "\r\n")
		arrived[subject]++
	}
	twice := 0
	for subject, id := range accepted {
		require.NotZero(t, arrived[subject], "lost")
		if arrived[subject] > 1 {
			twice++
			require.True(t, uncertain[id], "arrived twice and was never reported to be uncertain")
		}
	}
	t.Logf("%d kills: %d accepted, all arrived; %d uncertain, %d arrived twice", kills, len(accepted), len(uncertain), twice)
}
