package securemail

import (
	"crypto/tls"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func fullStatus() Status {
	at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.FixedZone("", 3600))
	c := Contact{Name: "canary", Address: Mailbox("canary@canary.example").Address, Ref: "canary", Attrs: map[string]string{"canary": "canary"}}
	return Status{
		Slip: Slip{
			ID: "p1", Submission: "s1", Actor: Actor{Tenant: "t1", ID: "u1", Kind: "person"}, From: c, Recipient: c,
			ReturnPath: c.Address, Subjects: []Subject{"canary"}, Purpose: PurposeTreatment,
			Labels: map[string]string{"visit": "42"}, Submitted: at,
		},
		State: StateDelivered, Attempt: 2, Choice: Choice{Method: MethodTLS}, Policy: "hipaa/1",
		Reasons: []Reason{{"floor", "named"}, {"only-rule", ""}}, Protection: &Protection{Algorithm: "tls", Keys: []string{"ab"}},
		Receipt: &Receipt{
			Wire: Wire{
				TLS:   &TLSFacts{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256, Group: tls.X25519MLKEM768, FIPS: true},
				Proof: ProofPKIX, Hop: HopFinal, Reasons: []Reason{{"pkix", "mx.canary.example"}},
			},
			Time: at, Peer: "mx.canary.example", RemoteID: "canary",
		},
		Failure: "none", Next: at, Changed: at, Read: at,
	}
}

const statusJSON = `{"parcel":"p1","submission":"s1","tenant":"t1","state":"delivered","attempt":2,"purpose":"treatment",
	"method":"tls","policy":"hipaa/1","reasons":[{"rule":"floor","text":"named"},{"rule":"only-rule"}],
	"labels":{"visit":"42"},"protection":{"algorithm":"tls","keys":["ab"]},
	"receipt":{"time":"2026-11-24T09:00:00Z","proof":"pkix","hop":"final","tls_version":"TLS 1.3","tls_suite":"TLS_AES_128_GCM_SHA256",
		"tls_group":"X25519MLKEM768","fips":true,"rules":["pkix"]},
	"failure":"none","submitted":"2026-11-24T09:00:00Z","next":"2026-11-24T09:00:00Z",
	"changed":"2026-11-24T09:00:00Z","read":"2026-11-24T09:00:00Z"}`

func TestStatusJSON(t *testing.T) {
	s := fullStatus()
	for _, v := range []any{s, &s} {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		require.JSONEq(t, statusJSON, string(b))
		require.NotContains(t, string(b), "canary")
	}
	b, err := json.Marshal(Status{})
	require.NoError(t, err)
	require.JSONEq(t, `{}`, string(b))
}

func TestEventJSON(t *testing.T) {
	s := fullStatus()
	e := Event{
		ID: "e1", Seq: 7, Kind: "delivered", Time: s.Submitted, By: Actor{Tenant: "t1", ID: "mailer", Kind: "part"}, Status: s,
		Facts: &Facts{Slip: s.Slip}, Decision: &Decision{}, Detail: map[string]string{"k": "v"},
	}
	b, err := json.Marshal(e)
	require.NoError(t, err)
	require.NotContains(t, string(b), "canary")
	require.JSONEq(t, `{"id":"e1","seq":7,"kind":"delivered","time":"2026-11-24T09:00:00Z","tenant":"t1","by":"mailer",
		"detail":{"k":"v"},"status":`+statusJSON+`}`, string(b))
	b, err = json.Marshal(&Event{ID: "e2", Kind: "posture", Time: s.Submitted})
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"e2","kind":"posture","time":"2026-11-24T09:00:00Z"}`, string(b))
}

func TestHopNames(t *testing.T) {
	require.Equal(t, []string{"relay", "asserted", "final", "relay"},
		[]string{HopRelay.name(), HopAsserted.name(), HopFinal.name(), Hop(9).name()})
}
