package main

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/internal/dnspeer"
	"github.com/postseal/postseal/mtasts"
	"github.com/postseal/postseal/transport/dane"
	"github.com/postseal/postseal/transport/tlsrpt"
)

func TestMTASTSShows(t *testing.T) {
	l := newLab(t, func(z dnspeer.Zone) {
		z["x.test"] = []string{"MX 20 other.test.", "MX 10 mx.x.test."}
	}, servePolicy(policyText))
	code, out, errOut := l.call(t, "mtasts", "x.test")
	require.Zero(t, code, errOut)
	require.Equal(t, strings.Join([]string{
		"x.test: enforce",
		"  record  v=STSv1; id=a1;",
		"  policy  version: STSv1",
		"  policy  mode: enforce",
		"  policy  mx: mx.x.test",
		"  policy  max_age: 1209600",
		"  mx      mx.x.test is allowed by mx.x.test",
		"  mx      other.test is NOT in the policy: senders don't deliver there",
		"",
	}, "\n"), out)
	code, out, errOut = l.call(t, "mtasts", "-json", "x.test")
	require.Zero(t, code, errOut)
	var got stsLook
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Equal(t, "enforce", got.Verdict)
	require.Equal(t, map[string]string{"mx.x.test": "mx.x.test", "other.test": ""}, got.MX)
	require.EqualValues(t, 1209600, got.MaxAge)
}

func TestMTASTSSaysWhichStepFails(t *testing.T) {
	for name, c := range map[string]struct {
		change func(dnspeer.Zone)
		policy http.HandlerFunc
		code   int
		want   string
	}{
		"no record":  {func(z dnspeer.Zone) { delete(z, "_mta-sts.x.test") }, servePolicy(policyText), 0, "x.test: none"},
		"dns":        {func(z dnspeer.Zone) { z["_mta-sts.x.test"] = []string{dnspeer.ServFail} }, servePolicy(policyText), 1, "DNS does not answer"},
		"two":        {func(z dnspeer.Zone) { z["_mta-sts.x.test"] = append(z["_mta-sts.x.test"], `TXT "v=STSv1; id=b;"`) }, servePolicy(policyText), 0, "x.test: none"},
		"not found":  {nil, http.NotFound, 1, "can't be had"},
		"html":       {nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<p>" + policyText)) }, 1, "can't be had"},
		"no policy":  {nil, servePolicy("version: STSv1\nmode: strict\n"), 1, "unknown"},
		"mail hosts": {func(z dnspeer.Zone) { z["x.test"] = []string{dnspeer.ServFail} }, servePolicy(policyText), 0, "mail hosts are not known"},
		"implicit":   {func(z dnspeer.Zone) { z["x.test"] = []string{"A 127.0.0.1"} }, servePolicy(policyText), 0, "x.test is NOT in the policy"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, c.change, c.policy)
			code, out, errOut := l.call(t, "mtasts", "x.test")
			require.Equal(t, c.code, code, errOut)
			require.Contains(t, out, c.want)
			require.Equal(t, c.code, strings.Count(errOut, "\n"))
		})
	}
}

// What is printed for publishing is read back by the parsers of senders.
func TestMTASTSPublish(t *testing.T) {
	l := newLab(t, nil, servePolicy(policyText))
	file := filepath.Join(t.TempDir(), "mx.pem")
	require.NoError(t, os.WriteFile(file, append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("no")}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.leaf.Raw})...), 0o600))
	code, out, errOut := call(t, "", "mtasts", "X.test", "-publish", "-json", "-mx", "MX.x.test,*.b.test", "-mode", "testing", "-max-age", "7d",
		"-tlsa", file, "-host", "mx.x.test", "-tlsrpt", "mailto:tls@x.test,https://r.test/"+strings.Repeat("x", 250))
	require.Zero(t, code, errOut)
	var p published
	require.NoError(t, json.Unmarshal([]byte(out), &p))
	require.Equal(t, "https://mta-sts.x.test/.well-known/mta-sts.txt", p.URL)
	pol, err := mtasts.ParsePolicy([]byte(p.Policy))
	require.NoError(t, err)
	require.Equal(t, mtasts.Testing, pol.Mode)
	require.Equal(t, []string{"mx.x.test", "*.b.test"}, pol.MX)
	require.Equal(t, 7*24*time.Hour, pol.MaxAge)
	require.Len(t, p.DNS, 3)
	record := func(line, name string) string { // as a name server reads its zone file
		rr, err := dns.NewRR(line)
		require.NoError(t, err)
		require.Equal(t, name+".", rr.Header().Name)
		if txt, is := rr.(*dns.TXT); is {
			return strings.Join(txt.Txt, "")
		}
		return strings.TrimPrefix(rr.String(), rr.Header().String())
	}
	_, err = mtasts.ParseRecord([]string{record(p.DNS[0], "_mta-sts.x.test")})
	require.NoError(t, err)
	r, err := dane.ParseRecord(record(p.DNS[1], "_25._tcp.mx.x.test"))
	require.NoError(t, err)
	require.Equal(t, []uint8{3, 1, 1}, []uint8{r.Usage, r.Selector, r.Match})
	rpt, err := tlsrpt.ParseRecord([]string{record(p.DNS[2], "_smtp._tls.x.test")})
	require.NoError(t, err)
	require.Len(t, rpt.RUA, 2)

	_, again, _ := call(t, "", "mtasts", "x.test", "-publish", "-mx", "mx.x.test,*.b.test", "-mode", "testing", "-max-age", "604800")
	require.Contains(t, again, p.DNS[0], "the same policy has the same id")
	require.Contains(t, again, p.Policy)
	_, other, _ := call(t, "", "mtasts", "x.test", "-publish", "-mx", "mx.x.test", "-mode", "testing", "-max-age", "168h")
	require.NotContains(t, other, p.DNS[0], "another policy has another")
	_, own, _ := call(t, "", "mtasts", "x.test", "-publish", "-mx", "mx.x.test", "-id", "2026a")
	require.Contains(t, own, "id=2026a;")
	require.NoError(t, os.WriteFile(file, []byte("nothing"), 0o600))
	code, _, _ = call(t, "", "mtasts", "x.test", "-tlsa", file, "-host", "mx.x.test")
	require.Equal(t, 1, code)
}
