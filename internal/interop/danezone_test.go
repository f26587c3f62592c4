//go:build interop

package interop_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// The zones of the laboratory, all under test., and what is wrong with them.
const (
	zoneGood    = "test"           // signed; the trust anchor
	zoneChild   = "child.test"     // signed, delegated
	zoneNSEC3   = "nsec3.test"     // the same with NSEC3
	zonePlain   = "plain.test"     // delegated without a signature
	zoneBogus   = "bogus.test"     // signed by another key than its parent says
	zoneExpired = "expired.test"   // signed, long ago
	zoneTLSA    = "badtlsa.test"   // the signatures of its TLSA records are broken
	zoneMX      = "badmx.test"     // those of its MX records
	zoneAddress = "badaddr.test"   // those of its A records
	zoneDenial  = "baddenial.test" // those of its NSEC records
)

// laboratory holds zones until they are served.
type laboratory struct {
	*testing.T
	room  string // its root
	lines map[string][]string
}

func newLaboratory(t *testing.T, box string) *laboratory {
	l := &laboratory{T: t, room: filepath.Dir(filepath.Dir(box)), lines: map[string][]string{}}
	for _, z := range []string{zoneGood, zoneChild, zoneNSEC3, zonePlain, zoneBogus, zoneExpired, zoneTLSA, zoneMX, zoneAddress, zoneDenial} {
		l.lines[z] = []string{
			"$ORIGIN " + z + ".", "$TTL 300", "@ IN SOA ns.test. admin.test. 1 3600 600 86400 60", "@ IN NS ns.test.",
		}
	}
	l.lines[zoneGood] = append(l.lines[zoneGood], "ns IN A 127.0.0.1")
	require.NoError(t, os.MkdirAll(l.path(""), 0o755))
	return l
}

func (l *laboratory) path(name string) string { return filepath.Join(l.room, "peer", "dane", name) }

// add puts a record into the zone that its name belongs to.
func (l *laboratory) add(line string) {
	l.Helper()
	name, _, _ := strings.Cut(line, " ")
	labels := strings.Split(strings.TrimSuffix(name, "."), ".")
	zone := strings.Join(labels[max(len(labels)-2, 0):], ".")
	if l.lines[zone] == nil {
		zone = zoneGood
	}
	l.lines[zone] = append(l.lines[zone], line)
}

// inside runs a command in the room.
func (l *laboratory) inside(args ...string) string {
	l.Helper()
	out, err := l.command(args...).CombinedOutput()
	require.NoError(l, err, "%v: %s", args, out)
	return strings.TrimSpace(string(out))
}

func (l *laboratory) command(args ...string) *exec.Cmd {
	return exec.Command("chroot", append([]string{l.room, "/usr/bin/env", "--chdir=/peer/dane", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, args...)...)
}

// serve signs the zones and starts nsd and unbound.
func (l *laboratory) serve() {
	l.Helper()
	unsigned := map[string]bool{zonePlain: true}
	for zone := range l.lines {
		if zone == zoneGood {
			continue
		}
		l.lines[zoneGood] = append(l.lines[zoneGood], zone+". IN NS ns.test.")
		if unsigned[zone] {
			l.write(zone+".signed", strings.Join(l.lines[zone], "\n")+"\n")
			continue
		}
		key := l.newKey(zone)
		ds := l.inside("ldns-key2ds", "-n", "-2", key+".key")
		if zone == zoneBogus {
			ds = l.inside("ldns-key2ds", "-n", "-2", l.newKey(zone)+".key")
		}
		l.lines[zoneGood] = append(l.lines[zoneGood], ds)
		l.sign(zone, key)
	}
	key := l.newKey(zoneGood)
	l.sign(zoneGood, key)
	l.write("anchor", l.inside("ldns-key2ds", "-n", "-2", key+".key")+"\n")
	l.daemons()
}

func (l *laboratory) newKey(zone string) string {
	l.Helper()
	return l.inside("ldns-keygen", "-a", "ECDSAP256SHA256", "-k", zone)
}

func (l *laboratory) write(name, text string) {
	l.Helper()
	require.NoError(l, os.WriteFile(l.path(name), []byte(text), 0o644))
}

func (l *laboratory) sign(zone, key string) {
	l.Helper()
	l.write(zone, strings.Join(l.lines[zone], "\n")+"\n")
	args := []string{"ldns-signzone", "-f", zone + ".signed"}
	switch zone {
	case zoneNSEC3:
		args = append(args, "-n")
	case zoneExpired:
		args = append(args, "-i", "20200101000000", "-e", "20200201000000")
	}
	l.inside(append(args, zone, key)...)
	for z, rr := range map[string]string{zoneTLSA: "TLSA", zoneMX: "MX", zoneAddress: "A", zoneDenial: "NSEC"} {
		if z == zone {
			l.spoil(zone, rr)
		}
	}
}

// spoil breaks the signatures of one type. A signature in a zone file ends its line.
func (l *laboratory) spoil(zone, rr string) {
	l.Helper()
	b, err := os.ReadFile(l.path(zone + ".signed"))
	require.NoError(l, err)
	re := regexp.MustCompile(`(?m)^(.*\sRRSIG\s+` + rr + `\s.*\s)(\S)(\S+)$`)
	n := 0
	s := re.ReplaceAllStringFunc(string(b), func(line string) string {
		m := re.FindStringSubmatch(line)
		n++
		first := "A"
		if m[2] == "A" {
			first = "B"
		}
		return m[1] + first + m[3]
	})
	require.NotZero(l, n, "no signature of %s in %s", rr, zone)
	l.write(zone+".signed", s)
}

func (l *laboratory) daemons() {
	l.Helper()
	nsd := "server:\n ip-address: 127.0.0.1@5353\n username: \"\"\n chroot: \"\"\n zonesdir: /peer/dane\n database: \"\"\n pidfile: /peer/dane/nsd.pid\n" +
		" zonelistfile: /peer/dane/zone.list\n xfrdfile: /peer/dane/xfrd.state\n logfile: /peer/dane/nsd.log\n server-count: 1\nremote-control:\n control-enable: no\n"
	unbound := "server:\n interface: 127.0.0.1@53\n do-daemonize: no\n use-syslog: no\n logfile: /peer/dane/unbound.log\n val-log-level: 2\n username: \"\"\n chroot: \"\"\n" +
		" directory: /peer/dane\n pidfile: /peer/dane/unbound.pid\n do-ip6: no\n do-not-query-localhost: no\n local-zone: test. nodefault\n module-config: \"validator iterator\"\n" +
		" trust-anchor-file: /peer/dane/anchor\n access-control: 127.0.0.0/8 allow\n edns-buffer-size: 1232\n" +
		" interface: 127.0.0.1@853\n tls-port: 853\n tls-service-key: /peer/tls/mx.named.test.key\n tls-service-pem: /peer/tls/mx.named.test.pem\nremote-control:\n control-enable: no\n"
	for zone := range l.lines {
		nsd += fmt.Sprintf("zone:\n name: %s\n zonefile: %s.signed\n", zone, zone)
		unbound += fmt.Sprintf("stub-zone:\n name: %s.\n stub-addr: 127.0.0.1@5353\n stub-prime: no\n", zone)
	}
	l.write("nsd.conf", nsd)
	l.write("unbound.conf", unbound)
	require.NoError(l, os.WriteFile(filepath.Join(l.room, "etc", "resolv.conf"), []byte("nameserver 127.0.0.1\noptions edns0 trust-ad\n"), 0o644))
	l.start("nsd", "-d", "-c", "/peer/dane/nsd.conf")
	l.answers("127.0.0.1:5353", false)
	l.start("unbound", "-d", "-c", "/peer/dane/unbound.conf")
	l.answers("127.0.0.1:53", true)
}

func (l *laboratory) start(args ...string) {
	l.Helper()
	cmd := l.command(args...)
	require.NoError(l, cmd.Start())
	l.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if !l.Failed() {
			return
		}
		for _, name := range []string{"nsd.log", "unbound.log"} {
			if b, err := os.ReadFile(l.path(name)); err == nil {
				l.Logf("%s: %s", name, b[max(0, len(b)-2000):])
			}
		}
	})
}

// answers waits until the server at addr has the zone, proved if so asked.
func (l *laboratory) answers(addr string, proved bool) {
	l.Helper()
	c := dns.Client{Timeout: 2 * time.Second}
	q := new(dns.Msg).SetQuestion(zoneGood+".", dns.TypeSOA)
	q.AuthenticatedData = true
	deadline := time.Now().Add(30 * time.Second)
	for {
		m, _, err := c.Exchange(q, addr)
		if err == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 && (m.AuthenticatedData || !proved) {
			return
		}
		require.True(l, time.Now().Before(deadline), "%s does not answer: %v %v", addr, m, err)
		if _, ok := err.(net.Error); !ok || !err.(net.Error).Timeout() {
			time.Sleep(20 * time.Millisecond)
		}
	}
}
