package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/transport"
	"github.com/postseal/postseal/transport/dkim"
)

const signMe = "From: Canary <canary@example.org>\r\nTo: b@example.net\r\nSubject: hi\r\n\r\nbody\r\n"

// txt is a resolver of key records.
type txt map[string]string

func (m txt) LookupTXT(_ context.Context, name string) ([]string, error) {
	if s, ok := m[name]; ok {
		return []string{s}, nil
	}
	return nil, &net.DNSError{Name: name, IsNotFound: true}
}

// keysOf makes a signer with one key per domain, and publishes the keys.
func keysOf(t *testing.T, dns txt, domains ...string) *dkim.Signer {
	var keys []dkim.Key
	for _, d := range domains {
		private, err := dkim.Generate(dkim.Ed25519)
		require.NoError(t, err)
		k := dkim.Key{Domain: d, Selector: "s", Private: private}
		dns[k.RecordName()] = k.Record().String()
		keys = append(keys, k)
	}
	s, err := dkim.New(keys, nil)
	require.NoError(t, err)
	return s
}

func parcel(t *testing.T, from, tenant string) *securemail.Parcel {
	a, err := securemail.ParseAddress(from)
	require.NoError(t, err)
	m, err := securemail.NewMessage(securemail.Bytes([]byte(signMe)))
	require.NoError(t, err)
	return &securemail.Parcel{
		Slip: securemail.Slip{From: securemail.Contact{Address: a}, Actor: securemail.Actor{Tenant: tenant}}, Message: m,
	}
}

// signatures verifies m and gives the domains that signed it.
func signatures(t *testing.T, dns txt, m *securemail.Message) (domains []string) {
	r, err := m.Open()
	require.NoError(t, err)
	defer r.Close()
	vs, err := dkim.Verify(t.Context(), dns, r)
	require.NoError(t, err)
	for _, v := range vs {
		require.Equal(t, dkim.Pass, v.Outcome)
		domains = append(domains, v.Domain)
	}
	return domains
}

func TestDKIM(t *testing.T) {
	dns := txt{}
	d, err := transport.DKIM(keysOf(t, dns, "example.org"), nil)
	require.NoError(t, err)
	p := parcel(t, "canary@example.org", "")
	m, err := d.Sign(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, []string{"example.org"}, signatures(t, dns, m))
	require.Same(t, p.Message.Body(), m.Body(), "the body is shared")

	_, err = d.Sign(t.Context(), parcel(t, "canary@example.com", ""))
	require.ErrorIs(t, err, dkim.ErrNoKey)
	require.NotContains(t, err.Error(), "canary")
}

func TestDKIMUnsigned(t *testing.T) {
	var told []error
	d, err := transport.DKIM(keysOf(t, txt{}, "example.org"), &transport.DKIMOptions{
		Unsigned: func(_ context.Context, _ *securemail.Slip, why error) { told = append(told, why) },
	})
	require.NoError(t, err)
	p := parcel(t, "canary@example.com", "")
	m, err := d.Sign(t.Context(), p)
	require.NoError(t, err)
	require.Same(t, p.Message, m)
	require.Len(t, told, 1)
	require.ErrorIs(t, told[0], dkim.ErrNoKey)

	// Only a missing key lets mail pass: a source that can't be read is no reason to send it unsigned.
	p.Message, err = securemail.NewMessage(&failing{text: signMe})
	require.NoError(t, err)
	p.From = parcel(t, "canary@example.org", "").From
	_, err = d.Sign(t.Context(), p)
	require.ErrorIs(t, err, errDisk)
	require.Len(t, told, 1)
}

var errDisk = errors.New("disk")

// failing gives its text the first time only.
type failing struct {
	text   string
	opened int
}

func (f *failing) Size() int64 { return int64(len(f.text)) }

func (f *failing) Open() (io.ReadCloser, error) {
	if f.opened++; f.opened == 1 {
		return io.NopCloser(strings.NewReader(f.text)), nil
	}
	return io.NopCloser(iotest.ErrReader(errDisk)), nil
}

func TestDKIMChoose(t *testing.T) {
	dns := txt{}
	own, tenant := keysOf(t, dns, "example.org", "bulk.example.org"), keysOf(t, dns, "tenant.example")
	no := errors.New("no such tenant")
	d, err := transport.DKIM(own, &transport.DKIMOptions{
		Choose: func(_ context.Context, s *securemail.Slip) (*dkim.Signer, string, error) {
			switch s.Actor.Tenant {
			case "t":
				return tenant, "tenant.example", nil
			case "bulk":
				return nil, "bulk.example.org", nil
			case "broken":
				return nil, "", no
			}
			return nil, "", nil
		},
	})
	require.NoError(t, err)
	for id, want := range map[string]string{"t": "tenant.example", "bulk": "bulk.example.org", "": "example.org"} {
		m, err := d.Sign(t.Context(), parcel(t, "canary@example.org", id))
		require.NoError(t, err)
		require.Equal(t, []string{want}, signatures(t, dns, m))
	}
	_, err = d.Sign(t.Context(), parcel(t, "canary@example.org", "broken"))
	require.ErrorIs(t, err, no)
}

func TestDKIMWithoutSigner(t *testing.T) {
	_, err := transport.DKIM(nil, nil)
	require.ErrorContains(t, err, "a signer is required")
	d, err := transport.DKIM(nil, &transport.DKIMOptions{
		Choose: func(context.Context, *securemail.Slip) (*dkim.Signer, string, error) { return nil, "", nil },
	})
	require.NoError(t, err)
	_, err = d.Sign(t.Context(), parcel(t, "canary@example.org", ""))
	require.ErrorIs(t, err, dkim.ErrNoKey)
}

func TestDKIMReports(t *testing.T) {
	dns := txt{}
	sign := transport.DKIMReports(keysOf(t, dns, "example.org"), "example.org")
	head, err := sign(t.Context(), []byte(signMe))
	require.NoError(t, err)
	vs, err := dkim.Verify(t.Context(), dns, bytes.NewReader(append(head, signMe...)))
	require.NoError(t, err)
	require.Equal(t, dkim.Pass, vs[0].Outcome)
}
