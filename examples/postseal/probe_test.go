package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/internal/smtppeer"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/posture"
)

const policyText = "version: STSv1\nmode: enforce\nmx: mx.x.test\nmax_age: 1209600\n"

// lab is a domain that publishes everything: a mail host with a certificate, a policy host, and the DNS for both.
type lab struct {
	peer  *smtppeer.Peer
	leaf  *x509.Certificate
	flags []string
}

func newLab(t *testing.T, change func(dnspeer.Zone), policy http.HandlerFunc) *lab {
	t.Helper()
	ca := smtppeer.NewCA()
	file := filepath.Join(t.TempDir(), "ca.pem")
	cert := ca.Cert("mx.x.test")
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	require.NoError(t, err)
	var roots bytes.Buffer
	require.NoError(t, pem.Encode(&roots, &pem.Block{Type: "CERTIFICATE", Bytes: caCert(t, ca)}))
	require.NoError(t, os.WriteFile(file, roots.Bytes(), 0o600))
	l := &lab{leaf: leaf}
	l.peer, err = smtppeer.Start(smtppeer.Options{Hostname: "mx.x.test", TLS: smtppeer.ServerConfig(cert)})
	require.NoError(t, err)
	t.Cleanup(l.peer.Close)
	web := httptest.NewUnstartedServer(policy)
	web.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Cert("mta-sts.x.test")}}
	web.StartTLS()
	t.Cleanup(web.Close)
	u, err := url.Parse(web.URL)
	require.NoError(t, err)
	r, err := dane.RecordFor(leaf, 3, 1, 1)
	require.NoError(t, err)
	zone := dnspeer.Zone{
		"x.test":            {dnspeer.Secure, "MX 10 mx.x.test.", `TXT "v=spf1 mx -all"`},
		"mx.x.test":         {dnspeer.Secure, "A 127.0.0.1"},
		"_mta-sts.x.test":   {`TXT "v=STSv1; id=a1;"`},
		"mta-sts.x.test":    {"A 127.0.0.1"},
		"_smtp._tls.x.test": {`TXT "v=TLSRPTv1; rua=mailto:tls@x.test"`},
		"_dmarc.x.test":     {`TXT "v=DMARC1; p=reject; rua=mailto:d@x.test"`},
		dane.Name("mx.x.test", uint16(l.peer.Port())): {dnspeer.Secure, "TLSA " + r.String()},
	}
	if change != nil {
		change(zone)
	}
	dns, err := dnspeer.Start(zone)
	require.NoError(t, err)
	t.Cleanup(dns.Close)
	l.flags = []string{"-resolver", dns.Addr(), "-ca", file, "-port", fmt.Sprint(l.peer.Port()), "-https-port", u.Port(), "-timeout", "20s"}
	return l
}

// caCert is the CA's own certificate.
func caCert(t *testing.T, ca *smtppeer.CA) []byte {
	t.Helper()
	chain, err := ca.Cert("x.test").Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool()})
	require.NoError(t, err)
	return chain[0][len(chain[0])-1].Raw
}

func servePolicy(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte(text))
	}
}

func (l *lab) call(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	return call(t, "", append(args, l.flags...)...)
}

func TestProbeOwnDomain(t *testing.T) {
	l := newLab(t, nil, servePolicy(policyText))
	code, out, errOut := l.call(t, "probe", "-own", "-trust-ad", "-selector", "s1", "x.test")
	require.Zero(t, code, errOut)
	require.Contains(t, out, "x.test: verified (dane), TLS 1.3")
	require.Equal(t, 1, strings.Count(out, "sts-policy"), "each reason once")
	for _, want := range []string{
		"MX          1 host, signed by DNSSEC", "DANE        usable", "TLSRPT      mailto:x.test", "REQUIRETLS  not offered",
		"OK      spf: -all", "FAIL    dkim s1: no key", "OK      dmarc: p=reject", "OK      tlsrpt: reports go to mailto:x.test",
		"OK      mta-sts: mode enforce", "OK      certificate: mta-sts.x.test ends in", "OK      certificate: mx.x.test ends in",
		"OK      dane: mx.x.test: its certificate is the one of its TLSA records",
	} {
		require.Contains(t, out, want)
	}
	require.Empty(t, l.peer.Attempts(), "no mail is sent")
}

func TestProbeProvesTheNameByMTASTS(t *testing.T) {
	l := newLab(t, nil, servePolicy(policyText))
	code, out, errOut := l.call(t, "probe", "x.test") // nothing is signed without -trust-ad
	require.Zero(t, code, errOut)
	require.Contains(t, out, "x.test: verified (mta-sts), TLS 1.3")
	require.Contains(t, out, "MTA-STS     enforce, id a1, max_age 14d, mx mx.x.test (live)")
	l = newLab(t, nil, servePolicy(strings.ReplaceAll(policyText, "mx.x.test", "other.test")))
	_, out, _ = l.call(t, "probe", "x.test")
	require.NotContains(t, out, "verified")
}

func TestProbeJSON(t *testing.T) {
	l := newLab(t, nil, servePolicy(policyText))
	code, out, errOut := l.call(t, "probe", "-json", "X.Test.", "nothing.test")
	require.Equal(t, 1, code)
	require.Equal(t, "postseal: 1 of 2 domains not reached\n", errOut)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2, "one object a domain")
	var l1, l2 looked
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &l1))
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &l2))
	require.Equal(t, "x.test", l1.Domain)
	require.Equal(t, "none", l1.Hosts[0].DANE, "without -trust-ad nothing is signed")
	require.NotEmpty(t, l1.Hosts[0].Certificates)
	require.Equal(t, []string{"TLS 1.3", "TLS 1.2"}, l1.Hosts[0].Versions)
	require.Empty(t, l1.Own)
	require.Equal(t, "nothing.test", l2.Domain)
	require.False(t, l2.Reached)
	require.NotEmpty(t, l2.Reasons)
}

func TestProbeOfNobody(t *testing.T) {
	l := newLab(t, func(z dnspeer.Zone) {
		z["null.test"] = []string{"MX 0 ."}
		z["dead.test"] = []string{"MX 10 dead.test.", "A 127.0.0.1"}
		z["broken.test"], z["_mta-sts.broken.test"] = []string{dnspeer.ServFail}, []string{dnspeer.ServFail}
	}, servePolicy(policyText))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	code, out, errOut := l.call(t, "probe", "null.test")
	require.Zero(t, code, errOut)
	require.Contains(t, out, "null.test: takes no mail")
	code, out, _ = l.call(t, "probe", "-own", "broken.test")
	require.Equal(t, 1, code)
	require.Contains(t, out, "broken.test: not reached\n  MX          unknown\n")
	require.Contains(t, out, "REQUIRETLS  unknown")
	require.Contains(t, out, "UNKNOWN spf: DNS does not answer")
	require.Contains(t, out, "UNKNOWN mta-sts: the record is not known now")
	code, out, _ = call(t, "", append([]string{"probe", "dead.test"}, append(l.flags, "-port", fmt.Sprint(closed.Addr().(*net.TCPAddr).Port))...)...)
	require.Equal(t, 1, code)
	require.Contains(t, out, "dead.test: not reached")
	require.Contains(t, out, "[127.0.0.1] not reached")
}

// TestStrangersSteerNoTerminal: a record may hold any octet.
func TestStrangersSteerNoTerminal(t *testing.T) {
	l := newLab(t, func(z dnspeer.Zone) {
		z["x.test"] = []string{"MX 10 mx.x.test.", `TXT "v=spf1 \027[2J\007 -all"`}
		z["_dmarc.x.test"] = []string{`TXT "v=DMARC1; p=none; pct=\027[2J"`}
	}, servePolicy(policyText))
	_, out, _ := l.call(t, "probe", "-own", "x.test")
	require.Contains(t, out, "is no mechanism")
	require.NotContains(t, out, "\x1b")
	require.NotContains(t, out, "\a")
	require.Equal(t, "a?b\nc", printable("a\x1bb\nc"))
}

func TestInterrupted(t *testing.T) {
	l := newLab(t, nil, servePolicy(policyText))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errOut bytes.Buffer
	require.Equal(t, 1, dispatch(ctx, append([]string{"probe", "x.test"}, l.flags...), nil, &out, &errOut))
	require.Equal(t, "postseal: interrupted\n", errOut.String())
	require.Empty(t, out.String(), "nothing is said of what was not looked at")
}

func TestProbeFindsFaults(t *testing.T) {
	l := newLab(t, func(z dnspeer.Zone) {
		z["x.test"] = []string{"MX 10 mx.x.test.", "MX 20 mx2.x.test.", `TXT "v=spf1 +all"`}
		z["mx2.x.test"] = []string{"A 127.0.0.1"}
		delete(z, "_dmarc.x.test")
		z["_smtp._tls.x.test"] = []string{`TXT "v=TLSRPTv1; rua=nonsense"`}
	}, servePolicy(policyText))
	code, out, _ := l.call(t, "probe", "-own", "x.test")
	require.Zero(t, code, "reached, and that is what the exit code says")
	for _, want := range []string{
		"FAIL    spf: +all", "FAIL    dmarc: no record", "FAIL    tlsrpt: the record is broken", "FAIL    mta-sts: mail host mx2.x.test is not in the policy",
		"TLSA records that no DNSSEC proves (or without -trust-ad), one of which fits its key", "mx2.x.test has no TLSA record",
	} {
		require.Contains(t, out, want)
	}
}

func TestProbePolicyThatCantBeHad(t *testing.T) {
	l := newLab(t, nil, func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) })
	_, out, _ := l.call(t, "probe", "-own", "x.test")
	require.Contains(t, out, "FAIL    mta-sts: the record promises a policy that can't be had")
	require.Contains(t, out, "OK      certificate: mta-sts.x.test")
	l = newLab(t, func(z dnspeer.Zone) { delete(z, "_mta-sts.x.test") }, servePolicy(policyText))
	_, out, _ = l.call(t, "probe", "-own", "x.test")
	require.Contains(t, out, "WARN    mta-sts:")
	l = newLab(t, func(z dnspeer.Zone) { delete(z, "mta-sts.x.test") }, servePolicy(policyText))
	_, out, _ = l.call(t, "probe", "-own", "x.test")
	require.Contains(t, out, "UNKNOWN certificate: mta-sts.x.test: it can't be reached")
}

// TestProbeOwnCertificates: one that has ended, and a key that is not the one of the TLSA record.
func TestProbeOwnCertificates(t *testing.T) {
	ca := smtppeer.NewCA()
	old, err := smtppeer.Start(smtppeer.Options{Hostname: "mx.x.test", TLS: smtppeer.ServerConfig(ca.Expired("mx.x.test"))})
	require.NoError(t, err)
	t.Cleanup(old.Close)
	var record string
	l := newLab(t, func(z dnspeer.Zone) {
		for name, rs := range z {
			if strings.Contains(name, "._tcp.") {
				record = rs[1]
			}
		}
		z[dane.Name("mx.x.test", uint16(old.Port()))] = []string{dnspeer.Secure, record}
	}, servePolicy(policyText))
	code, out, errOut := l.call(t, "probe", "-own", "-trust-ad", "x.test", "-port", fmt.Sprint(old.Port()))
	require.Zero(t, code, errOut)
	require.Contains(t, out, "x.test: verified", "the port of the last flag counts") // l.flags come last
	l.flags[5] = fmt.Sprint(old.Port())
	code, out, errOut = l.call(t, "probe", "-own", "-trust-ad", "x.test")
	require.Zero(t, code, errOut)
	for _, want := range []string{
		"FAIL    certificate: mx.x.test ended on ", "FAIL    dane: mx.x.test: its certificate fits no TLSA record", "UNKNOWN dkim: DNS does not list selectors",
	} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, "verified")
}

// TestProbeOfAHostThatStalls: what it keeps from being seen is no fault of DNS.
func TestProbeOfAHostThatStalls(t *testing.T) {
	p, err := smtppeer.Start(smtppeer.Options{On: map[smtppeer.Stage]smtppeer.Action{smtppeer.StageGreeting: smtppeer.Stall()}})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	l := newLab(t, nil, servePolicy(policyText))
	l.flags[5], l.flags[len(l.flags)-1] = fmt.Sprint(p.Port()), "2s"
	code, out, errOut := l.call(t, "probe", "-own", "x.test")
	require.Equal(t, 1, code)
	require.Equal(t, "postseal: 1 of 1 domains not reached\n", errOut)
	for _, want := range []string{"x.test: not reached\n  MX          1 host, not signed\n", "mx.x.test was not reached: greeting", "OK      spf: -all", "OK      dmarc: p=reject", "OK      mta-sts: mode enforce"} {
		require.Contains(t, out, want)
	}
}

// says is an observer that has one answer.
type says struct {
	o   *transport.Observation
	err error
}

func (s says) Observe(context.Context, string, string) (*transport.Observation, error) {
	return s.o, s.err
}

func TestProbeWhoseObserverFails(t *testing.T) {
	l := newLab(t, nil, servePolicy(policyText))
	f := &netFlags{resolver: l.flags[1], timeout: time.Second, port: 25, stsPort: 443}
	n, err := f.open()
	require.NoError(t, err)
	defer n.close()
	p := &prober{n: n, observer: says{err: errors.New("no network")}, now: time.Now}
	var out bytes.Buffer
	require.EqualError(t, p.all(t.Context(), []string{"x.test"}, &out), "1 of 1 domains not reached")
	require.Contains(t, out.String(), "x.test: not reached")
}

func TestHeadlines(t *testing.T) {
	w := securemail.Wire{Hop: securemail.HopFinal}
	o := &transport.Observation{Domain: "x.test", Known: true, Route: securemail.Route{Wire: w, Known: true}, STS: transport.STSObservation{State: "none"}}
	require.Equal(t, "in the clear", headline(posture.NewSnapshot(o, posture.TLSRPT{})))
	o.Route.Known, o.Hosts = false, []transport.HostObservation{{Name: "mx.x.test"}}
	require.Equal(t, "not reached", headline(posture.NewSnapshot(o, posture.TLSRPT{})))
	o.Hosts[0].Addr = netip.MustParseAddr("192.0.2.1")
	require.Contains(t, headline(posture.NewSnapshot(o, posture.TLSRPT{})), "so mail would wait")
	o.Route.Known = true
	o.Route.TLS = &securemail.TLSFacts{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256}
	require.Equal(t, "encrypted (no proof of its name), TLS 1.3 TLS_AES_128_GCM_SHA256", headline(posture.NewSnapshot(o, posture.TLSRPT{})))
}

func TestJudgeHost(t *testing.T) {
	p := &prober{n: &network{f: &netFlags{}}, now: time.Now}
	for name, c := range map[string]struct {
		host posture.Host
		want string
	}{
		"unreached": {posture.Host{Name: "mx"}, "unknown"},
		"clear":     {posture.Host{Name: "mx", Reached: true}, "fail"},
		"no tls":    {posture.Host{Name: "mx", Reached: true, STARTTLS: true}, "fail"},
		"old":       {posture.Host{Name: "mx", Reached: true, STARTTLS: true, TLS: &posture.TLS{Version: "TLS 1.2"}, Versions: []string{"TLS 1.2", "TLS 1.0"}}, "ok warn"},
	} {
		require.Equal(t, c.want+" unknown", verdicts(p.judgeHost(t.Context(), &c.host)), name) // the system's resolver knows no TLSA
	}
	require.Equal(t, []string{"ok", "warn", "fail", "unknown"}, []string{
		judgeTLSRPT(posture.TLSRPT{State: "present"}).Verdict, judgeTLSRPT(posture.TLSRPT{State: "none"}).Verdict,
		judgeTLSRPT(posture.TLSRPT{State: "invalid"}).Verdict, judgeTLSRPT(posture.TLSRPT{State: "unknown"}).Verdict,
	})
}

func TestJudgeTLSA(t *testing.T) {
	spki := sha256.Sum256([]byte("key"))
	shown := []posture.Certificate{{SPKI: fmt.Sprintf("%x", spki)}}
	three := func(match uint8, data []byte) dane.Answer {
		return dane.Answer{Records: []dane.Record{{Usage: 3, Selector: 1, Match: match, Data: data}}}
	}
	secure := three(1, spki[:])
	secure.Secure = true
	for name, c := range map[string]struct {
		h    posture.Host
		a    dane.Answer
		err  error
		want string
		text string
	}{
		"none":       {posture.Host{}, dane.Answer{}, nil, "warn", "no TLSA record"},
		"no name":    {posture.Host{}, dane.Answer{}, &net.DNSError{IsNotFound: true}, "warn", "no TLSA record"},
		"not known":  {posture.Host{}, dane.Answer{}, errors.New("time-out"), "unknown", "not known"},
		"fits":       {posture.Host{DANE: "usable", Proof: "dane", Reached: true}, secure, nil, "ok", "is the one"},
		"mismatch":   {posture.Host{DANE: "usable", Reached: true}, secure, nil, "fail", "fits no TLSA"},
		"unusable":   {posture.Host{DANE: "unusable"}, secure, nil, "fail", "can be used"},
		"unreached":  {posture.Host{DANE: "usable"}, secure, nil, "unknown", "held against"},
		"unsigned":   {posture.Host{DANE: "none", Certificates: shown}, three(1, spki[:]), nil, "warn", "fits its key"},
		"full key":   {posture.Host{DANE: "none", Certificates: shown}, three(0, []byte("key")), nil, "warn", "fits its key"},
		"other key":  {posture.Host{DANE: "none", Certificates: shown}, three(1, []byte("x")), nil, "warn", "): senders ignore"},
		"unseen":     {posture.Host{DANE: "none"}, three(1, spki[:]), nil, "warn", "): senders ignore"},
		"other kind": {posture.Host{DANE: "none", Certificates: shown}, dane.Answer{Records: []dane.Record{{Usage: 2}}}, nil, "warn", "): senders ignore"},
	} {
		got := judgeTLSA(&c.h, c.a, c.err)
		require.Equal(t, c.want, got.Verdict, name)
		require.Contains(t, got.Text, c.text, name)
	}
}

func TestDMARCOfTheParent(t *testing.T) {
	l := newLab(t, func(z dnspeer.Zone) { z["_dmarc.broken.y.test"] = []string{dnspeer.ServFail} }, servePolicy(policyText))
	f := &netFlags{resolver: l.flags[1], timeout: time.Second, port: 25, stsPort: 443}
	n, err := f.open()
	require.NoError(t, err)
	defer n.close()
	p := &prober{n: n}
	require.Equal(t, "x.test", p.dmarcOwner(t.Context(), "a.b.x.test"))
	require.Equal(t, "a.y.test", p.dmarcOwner(t.Context(), "a.y.test"))
	require.Equal(t, "broken.y.test", p.dmarcOwner(t.Context(), "broken.y.test"), "not known is not none")
}

func TestCalledWrongly(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no domain":          {[]string{"probe"}, "which domain"},
		"an address":         {[]string{"probe", "anna@x.test"}, "is no domain"},
		"unknown flag":       {[]string{"probe", "x.test", "-x"}, "not defined"},
		"port":               {[]string{"probe", "x.test", "-port", "0"}, "-port and -https-port"},
		"timeout":            {[]string{"probe", "x.test", "-timeout", "0s"}, "-timeout"},
		"trust without whom": {[]string{"probe", "x.test", "-trust-ad"}, "need a -resolver"},
		"selector":           {[]string{"probe", "x.test", "-selector", "s"}, "goes with -own"},
		"two domains":        {[]string{"mtasts", "x.test", "y.test"}, "one domain"},
		"no domain, mtasts":  {[]string{"mtasts"}, "which domain"},
		"mtasts flag":        {[]string{"mtasts", "-nonsense"}, "not defined"},
		"mtasts timeout":     {[]string{"mtasts", "x.test", "-timeout", "-1s"}, "-timeout"},
		"host alone":         {[]string{"mtasts", "x.test", "-host", "mx.x.test"}, "go together"},
		"host":               {[]string{"mtasts", "x.test", "-host", "a b", "-tlsa", "x"}, "-host is"},
		"no mx":              {[]string{"mtasts", "x.test", "-publish"}, "make no policy"},
		"mode":               {[]string{"mtasts", "x.test", "-publish", "-mx", "a.test", "-mode", "soft"}, "make no policy"},
		"max-age":            {[]string{"mtasts", "x.test", "-publish", "-mx", "a.test", "-max-age", "-3h"}, "no length of time"},
		"id":                 {[]string{"mtasts", "x.test", "-publish", "-mx", "a.test", "-id", "a;b"}, "-id"},
		"rua":                {[]string{"mtasts", "x.test", "-tlsrpt", "nobody"}, "-tlsrpt"},
	} {
		code, out, errOut := call(t, "", c.args...)
		require.Equal(t, 2, code, name+": "+errOut)
		require.Empty(t, out, name)
		require.Contains(t, errOut, c.want, name)
		require.Equal(t, 1, strings.Count(errOut, "\n"), "one clear line: "+errOut)
	}
	for _, args := range [][]string{
		{"probe", "x.test", "-ca", "/nonexistent"}, {"mtasts", "x.test", "-ca", "/nonexistent"}, {"probe", "x.test", "-resolver", "nonsense"},
		{"mtasts", "x.test", "-resolver", "nonsense"}, {"mtasts", "x.test", "-tlsa", "/nonexistent", "-host", "mx.x.test"},
	} {
		code, _, errOut := call(t, "", args...)
		require.Equal(t, 1, code, errOut)
		require.Equal(t, 1, strings.Count(errOut, "\n"))
	}
	code, out, _ := call(t, "", "probe", "-h")
	require.Zero(t, code)
	require.Contains(t, out, "-selector")
}

// TestPathsOfTrust: who says -trust-ad on a path that can't be judged vouches for it; on others it is judged.
func TestPathsOfTrust(t *testing.T) {
	for _, f := range []netFlags{
		{resolver: "192.0.2.53", trustAD: true}, {resolver: "127.0.0.1", trustAD: true}, {resolver: "192.0.2.53", trustAD: true, dot: "dns.test"},
	} {
		n, err := f.open()
		require.NoError(t, err)
		require.NotNil(t, n.dns)
		o := n.options()
		require.True(t, o.AllowPrivate)
		require.NoError(t, n.close())
	}
	n, err := (&netFlags{}).open()
	require.NoError(t, err)
	o := n.options()
	require.Nil(t, o.Resolver)
	require.False(t, o.AllowPrivate)
	require.NoError(t, n.close())
}
