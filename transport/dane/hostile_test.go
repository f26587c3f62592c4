package dane_test

import (
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/transport/dane"
)

// giant is a public key whose use takes seconds.
func giant(t testing.TB) *rsa.PublicKey {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 1<<19))
	require.NoError(t, err)
	n.SetBit(n, 1<<19-1, 1)
	n.SetBit(n, 0, 1)
	return &rsa.PublicKey{N: n, E: 1<<31 - 1}
}

// A host must not keep us busy with keys, nor a zone with records.
func TestGiantKeys(t *testing.T) {
	g := giant(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	root := spec{subject: "Root", ca: true}.make()
	big := spec{subject: "Giant", ca: true, issuer: root, public: g}.make()
	leaf := spec{subject: "Leaf", names: []string{"mx.test"}, issuer: &pair{big.Certificate, rsaKey}}
	// Its signature is RSA's in form, so that only the sum would tell that it is none of the giant's.
	forged := forge(t, leaf, rsaKey)
	spki, err := x509.MarshalPKIXPublicKey(g)
	require.NoError(t, err)
	begin := time.Now()
	for _, rs := range [][]dane.Record{
		{record(root.Certificate, 2, 0, 1)},
		{record(big.Certificate, 2, 0, 1)},
		{record(big.Certificate, 2, 0, 0)},
		{{Usage: 2, Selector: 1, Match: 0, Data: spki}},
	} {
		for _, chain := range [][]*x509.Certificate{{forged, big.Certificate, root.Certificate}, {forged}} {
			_, err := policy(rs...).Verify(chain, clock())
			require.Error(t, err)
		}
	}
	require.Less(t, time.Since(begin), 30*time.Second)
	_, err = policy(record(forged, 3, 1, 1)).Verify([]*x509.Certificate{forged, big.Certificate}, clock())
	require.NoError(t, err, "the host's own key is not an issuer's")
}

// forge signs as s says, though the issuer's certificate has another key.
func forge(t testing.TB, s spec, k *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: s.names,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}, &x509.Certificate{Subject: s.issuer.Subject}, key("Leaf").Public(), k)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return c
}

// Keys in 64 records over a chain of endless certificates: a bounded number of signatures is checked, so that the last key,
// which did sign one of them, is not reached.
func TestManyKeys(t *testing.T) {
	f := newFamily(dates{}, []string{"mx.test"})
	right := record(f.root.Certificate, 2, 1, 0)
	var rs []dane.Record
	for i := range 63 {
		spki, err := x509.MarshalPKIXPublicKey(key(fmt.Sprint("key", i)).Public())
		require.NoError(t, err)
		rs = append(rs, dane.Record{Usage: 2, Selector: 1, Match: 0, Data: spki})
	}
	rs = append(rs, right)
	var chain []*x509.Certificate
	for range 5000 {
		chain = append(chain, f.leaf.Certificate, f.inter.Certificate)
	}
	_, err := policy(rs...).Verify(chain, clock())
	require.ErrorContains(t, err, "no TLSA record matches")
	_, err = policy(rs[40:]...).Verify(chain[:2], clock())
	require.NoError(t, err, "what is usual is no bound")
	// What is behind the bound is not seen.
	_, err = policy(record(f.root.Certificate, 2, 0, 1)).Verify(append(chain, f.root.Certificate), clock())
	require.ErrorContains(t, err, "no TLSA record matches")
	_, err = policy(record(f.inter.Certificate, 2, 0, 1)).Verify(chain, clock())
	require.NoError(t, err)
}

// SHA-1 makes no path, by a certificate or by a key.
func TestSHA1(t *testing.T) {
	if fips140.Enforced() {
		t.Skip("no such signature can be made under fips140=only")
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	root := spec{subject: "Root", ca: true, public: k.Public()}
	root.issuer = &pair{&x509.Certificate{Subject: newFamily(dates{}, nil).root.Subject}, k}
	anchor := root.make()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"mx.test"}, SignatureAlgorithm: x509.SHA1WithRSA,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}, anchor.Certificate, key("Leaf").Public(), k)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	for _, r := range []dane.Record{record(anchor.Certificate, 2, 1, 0), record(anchor.Certificate, 2, 0, 0), record(anchor.Certificate, 2, 1, 1)} {
		for _, chain := range [][]*x509.Certificate{{leaf}, {leaf, anchor.Certificate}} {
			_, err = policy(r).Verify(chain, clock())
			require.Error(t, err, r.Match)
		}
	}
}

// FuzzVerify throws records and chains at the decision: it must not panic, and nothing passes without a record that has
// the bytes of a certificate in the chain, or a full anchor.
func FuzzVerify(f *testing.F) {
	good := newFamily(dates{}, []string{"mx.test"})
	late := newFamily(dates{leaf: "late"}, []string{"other.example"})
	self := spec{subject: "Self", names: []string{"dom.test"}}.make()
	pool := certs(good.leaf, good.inter, good.root, late.leaf, late.inter, late.root, self, good.other)
	for i := range 12 {
		f.Add([]byte{0, 1, 2}, []byte{byte(2 + i/6), byte(i / 3 % 2), byte(i % 3), byte(i % 8)}, []byte(nil))
	}
	f.Add([]byte{6}, []byte{2, 1, 1, 6}, []byte{0x30, 0x82})
	f.Add([]byte{0}, []byte{3, 0, 0, 255, 2, 1, 0, 255}, good.root.RawSubjectPublicKeyInfo)
	f.Add([]byte{0}, []byte{2, 0, 0, 255}, good.inter.Raw)
	f.Fuzz(func(t *testing.T, order, records, foreign []byte) {
		var chain []*x509.Certificate
		for _, b := range order[:min(len(order), 40)] {
			chain = append(chain, pool[int(b)%len(pool)])
		}
		var rs []dane.Record
		for i := 0; i+3 < len(records) && len(rs) < 200; i += 4 {
			r := dane.Record{Usage: records[i], Selector: records[i+1], Match: records[i+2], Data: foreign}
			if b := records[i+3]; b < 128 && r.Match < 3 && r.Selector < 2 {
				r = record(pool[int(b)%len(pool)], r.Usage, r.Selector, r.Match)
			}
			rs = append(rs, r)
		}
		p := policy(rs...)
		raw := dane.Policy{State: dane.Usable, Names: p.Names, Records: rs}
		for _, q := range []dane.Policy{p, raw} {
			m, err := q.Verify(chain, clock())
			if err != nil {
				require.Equal(t, dane.Match{}, m)
				continue
			}
			require.Contains(t, q.Records, m.Record)
			require.True(t, m.Record.Usage == 2 || m.Record.Usage == 3)
			if m.Depth < 0 {
				require.Equal(t, uint8(2), m.Record.Usage)
				require.Zero(t, m.Record.Match)
				continue
			}
			require.Equal(t, m.Record, record(chain[m.Depth], m.Record.Usage, m.Record.Selector, m.Record.Match))
			require.True(t, m.Record.Usage == 2 || m.Depth == 0)
		}
	})
}
