package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
)

const mail = "From: Clinic <clinic@clinic.example>\nTo: anna@x.test\nSubject: Hello\n\nGood morning.\n"

// world is a mail host with a certificate for its name, one without TLS, and the DNS for both.
type world struct {
	tls, clear *smtppeer.Peer
	flags      []string // for the host with TLS
	clearFlags []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cert := smtppeer.SelfSigned("mx.test", "127.0.0.1")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600))
	w := &world{}
	var err error
	w.tls, err = smtppeer.Start(smtppeer.Options{Hostname: "mx.test", TLS: smtppeer.ServerConfig(cert)})
	require.NoError(t, err)
	t.Cleanup(w.tls.Close)
	w.clear, err = smtppeer.Start(smtppeer.Options{Hostname: "mx.test"})
	require.NoError(t, err)
	t.Cleanup(w.clear.Close)
	dns, err := dnspeer.Start(dnspeer.Zone{"x.test": {"MX 10 mx.test."}, "mx.test": {"A 127.0.0.1"}})
	require.NoError(t, err)
	t.Cleanup(dns.Close)
	common := []string{"-resolver", dns.Addr(), "-ca", ca, "-port"}
	w.flags = append(append([]string{}, common...), strconv.Itoa(w.tls.Port()))
	w.clearFlags = append(append([]string{}, common...), strconv.Itoa(w.clear.Port()))
	return w
}

func call(t *testing.T, in string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = dispatch(context.Background(), args, strings.NewReader(in), &o, &e)
	return code, o.String(), e.String()
}

func TestSendDelivers(t *testing.T) {
	w := newWorld(t)
	code, out, errOut := call(t, mail, append([]string{"send", "-to", "anna@x.test,ben@x.test"}, w.flags...)...)
	require.Zero(t, code, errOut)
	require.Equal(t, 2, strings.Count(out, "delivered\ttls"))
	require.Contains(t, out, "TLS 1.3")
	ms := w.tls.Messages()
	require.Len(t, ms, 2)
	require.NotNil(t, ms[0].TLS)
	require.Contains(t, string(ms[0].Data), "Good morning.\r\n")
}

func TestSendNeverInClear(t *testing.T) {
	w := newWorld(t)
	kept := ", and nothing kept: send to them again, or use -store"
	for p, tail := range map[string]string{"try-tls": kept, "forced": "", "escrow": kept} { // forced bounces
		code, out, errOut := call(t, mail, append([]string{"send", "-json", "-policy", p, "-to", "anna@x.test"}, w.clearFlags...)...)
		require.Equal(t, 1, code)
		require.Equal(t, "postseal: 1 of 1 recipients not reached"+tail+"\n", errOut)
		var r map[string]any
		require.NoError(t, json.Unmarshal([]byte(out), &r))
		require.NotEqual(t, "delivered", r["status"].(map[string]any)["state"])
	}
	require.Empty(t, w.clear.Attempts())
}

func TestStoreKeepsWhatIsHeld(t *testing.T) {
	w := newWorld(t)
	store := filepath.Join(t.TempDir(), "mail.db")
	code, _, errOut := call(t, mail, append([]string{"send", "-store", store, "-to", "anna@x.test"}, w.clearFlags...)...)
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "1 of 1 recipients not reached; 1 of them wait in the store")
	require.FileExists(t, store)
}

func TestRelay(t *testing.T) {
	w := newWorld(t)
	ca := w.flags[3]
	args := []string{"-to", "anna@x.test", "-policy", "forced", "-ca", ca, "-relay", w.tls.Addr()}
	code, _, _ := call(t, mail, append([]string{"send"}, args...)...)
	require.Equal(t, 1, code, "nobody vouches for the road beyond the relay")
	require.Empty(t, w.tls.Attempts())
	code, out, errOut := call(t, mail, append([]string{"send", "-operator", "Relay Ltd", "-agreement", "BAA-7"}, args...)...)
	require.Zero(t, code, errOut)
	require.Contains(t, out, "proof configured")
	code, _, _ = call(t, mail, append([]string{"send", "-operator", "Relay Ltd", "-agreement", "BAA-7", "-until", "2020-12-31"}, args...)...)
	require.Equal(t, 1, code, "the agreement has ended")
}

// TestSendShowsWhatProvedTheHost: by DANE where DNSSEC is believed, by MTA-STS where it is not; both bind.
func TestSendShowsWhatProvedTheHost(t *testing.T) {
	l := newLab(t, nil, servePolicy(policyText))
	for _, c := range []struct{ proof, reason, flag string }{{"dane", "dane-match: ", "-trust-ad"}, {"mta-sts", "sts-policy: ", "-json=false"}} {
		code, out, errOut := call(t, mail, append([]string{"explain", "-to", "anna@x.test", c.flag}, l.flags...)...)
		require.Zero(t, code, errOut)
		require.Contains(t, out, "anna@x.test\ttls\t")
		require.Contains(t, out, " proof "+c.proof+"\t")
		require.Contains(t, out, c.reason)
		require.Empty(t, l.peer.Attempts())
		code, out, errOut = call(t, mail, append([]string{"send", "-to", "anna@x.test", c.flag}, l.flags...)...)
		require.Zero(t, code, errOut)
		require.Contains(t, out, " proof "+c.proof+" mx.x.test\t")
		require.Contains(t, out, c.reason)
		require.Len(t, l.peer.Messages(), 1)
		code, out, errOut = call(t, mail, append([]string{"send", "-json", "-to", "anna@x.test"}, l.flags...)...)
		require.Zero(t, code, errOut)
		var r record
		require.NoError(t, json.Unmarshal([]byte(out), &struct{ Wire **wire }{&r.Wire}))
		require.Equal(t, "mx.x.test", r.Wire.Peer)
		require.Equal(t, "TLS 1.3", r.Wire.Version)
		require.NotEmpty(t, r.Wire.Reasons)
		require.NotEmpty(t, r.Wire.Group)
		l = newLab(t, nil, servePolicy(policyText))
	}
	l = newLab(t, func(z dnspeer.Zone) {
		for name := range z {
			if strings.Contains(name, "._tcp.") {
				z[name] = []string{dnspeer.ServFail}
			}
		}
	}, servePolicy(policyText))
	_, out, _ := call(t, mail, append([]string{"send", "-to", "anna@x.test", "-trust-ad"}, l.flags...)...)
	require.Contains(t, out, "\tdeferred\t")
	require.Contains(t, out, "; dane-unknown", "what defers is said too")
	require.Empty(t, l.peer.Attempts())
	l = newLab(t, nil, servePolicy(strings.ReplaceAll(policyText, "mx.x.test", "other.test")))
	code, out, _ := call(t, mail, append([]string{"send", "-to", "anna@x.test"}, l.flags...)...)
	require.Equal(t, 1, code)
	require.Contains(t, out, "sts-mx-mismatch")
	require.Empty(t, l.peer.Attempts())
}

func TestResolverMayPointAnywhere(t *testing.T) {
	f, err := parse("send", []string{"-to", "a@x.test", "-resolver", "127.0.0.1"}, io.Discard)
	require.NoError(t, err)
	n, err := f.netFlags.open()
	require.NoError(t, err)
	defer n.close()
	o, err := f.options(n)
	require.NoError(t, err)
	require.True(t, o.SMTP.AllowPrivate)
	require.Equal(t, "127.0.0.1:53", withPort("127.0.0.1", "53"))
	require.Equal(t, "[::1]:53", withPort("::1", "53"))
	require.Equal(t, "127.0.0.1:5353", withPort("127.0.0.1:5353", "53"))
}

func TestExplainSendsNothing(t *testing.T) {
	w := newWorld(t)
	code, out, errOut := call(t, mail, append([]string{"explain", "-json", "-to", "anna@x.test"}, w.flags...)...)
	require.Zero(t, code, errOut)
	var r record
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	require.Equal(t, "tls", string(r.Use))
	code, out, errOut = call(t, mail, append([]string{"explain", "-to", "anna@x.test"}, w.clearFlags...)...)
	require.Zero(t, code, errOut)
	require.Contains(t, out, "nothing now; else hold")
	require.Empty(t, w.tls.Attempts())
	require.Empty(t, w.clear.Attempts())
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	big := "From: a@clinic.example\nSubject: x\n\n" + strings.Repeat(strings.Repeat("x", 77)+"\n", 30<<20/78)
	for name, c := range map[string]struct {
		in   string
		args []string
		code int
		want string
	}{
		"no recipient":       {mail, []string{"send"}, 2, "-to is required"},
		"unknown flag":       {mail, []string{"send", "-x"}, 2, "not defined: -x"},
		"port":               {mail, []string{"send", "-to", "a@x.test", "-port", "70000"}, 2, "-port and -https-port are"},
		"stray argument":     {mail, []string{"send", "-to", "a@x.test", "message.eml"}, 2, "standard input"},
		"both ways":          {mail, []string{"send", "-to", "a@x.test", "-relay", "a:25", "-resolver", "127.0.0.1:53"}, 2, "exclude"},
		"until alone":        {mail, []string{"send", "-to", "a@x.test", "-until", "2027-01-31"}, 2, "-until goes with"},
		"until":              {mail, []string{"send", "-to", "a@x.test", "-until", "soon"}, 2, "-until"},
		"trust without whom": {mail, []string{"explain", "-to", "a@x.test", "-trust-ad"}, 2, "need a -resolver"},
		"operator alone":     {mail, []string{"send", "-to", "a@x.test", "-operator", "X"}, 2, "-operator and -agreement"},
		"unknown command":    {mail, []string{"sned"}, 2, "no command"},
		"unknown policy":     {mail, []string{"send", "-to", "a@x.test", "-policy", "hope"}, 2, "-policy is"},
		"malformed address":  {mail, append([]string{"send", "-to", "nobody"}, w.flags...), 1, "To[0] (address)"},
		"mixed line ends":    {"From: a@clinic.example\r\nSubject: x\n\nx\r\n", append([]string{"send", "-to", "a@x.test"}, w.flags...), 1, "Raw ("},
		"NUL":                {"From: a@clinic.example\n\n\x00\n", append([]string{"send", "-to", "a@x.test"}, w.flags...), 1, "Raw ("},
		"30 MB":              {big, append([]string{"send", "-to", "a@x.test"}, w.flags...), 1, "size"},
		"empty":              {"", append([]string{"send", "-to", "a@x.test"}, w.flags...), 1, "Raw ("},
		"another author":     {mail, append([]string{"send", "-from", "b@y.example", "-to", "a@x.test"}, w.flags...), 1, "From ("},
		"bad ca":             {mail, []string{"send", "-to", "a@x.test", "-ca", "/nonexistent"}, 1, "no certificate"},
		"bad resolver":       {mail, []string{"send", "-to", "a@x.test", "-resolver", "nonsense"}, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := call(t, c.in, c.args...)
			require.Equal(t, c.code, code, errOut)
			require.Empty(t, out, "standard output is for results")
			require.Contains(t, errOut, c.want)
			require.Equal(t, 1, strings.Count(errOut, "\n"), "one clear line")
		})
	}
	code, out, _ := call(t, "", "help")
	require.Zero(t, code)
	require.Contains(t, out, "explain")
	require.Empty(t, w.tls.Attempts())
}

// TestWrongFlagsWaitForNoInput: a newcomer who called it wrongly must not sit before a program that reads.
func TestWrongFlagsWaitForNoInput(t *testing.T) {
	r, w := io.Pipe() // never written to
	defer w.Close()
	for _, args := range [][]string{{"-policy", "hope"}, {"-relay", "nonsense"}, {"-ca", "/nonexistent"}, {"-keys", "/nonexistent"}} {
		var o, e bytes.Buffer
		code := dispatch(t.Context(), append([]string{"explain", "-to", "a@x.test"}, args...), r, &o, &e)
		require.NotZero(t, code)
		require.Empty(t, o.String())
	}
}

func TestBouncedIsNotWaiting(t *testing.T) {
	w := newWorld(t)
	store := filepath.Join(t.TempDir(), "mail.db")
	code, out, errOut := call(t, mail, append([]string{"send", "-policy", "forced", "-store", store, "-to", "anna@x.test"}, w.clearFlags...)...)
	require.Equal(t, 1, code)
	require.Contains(t, out, "\tbounced\t")
	require.Equal(t, "postseal: 1 of 1 recipients not reached\n", errOut)
}
