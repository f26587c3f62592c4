package audit_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/audit"
)

// TestKnownInWords: each answer a look-up can have stands in the entry and in the statement.
func TestKnownInWords(t *testing.T) {
	for name, c := range map[string]struct {
		f    securemail.Facts
		want audit.Known
		says string
	}{
		"nothing": {securemail.Facts{}, audit.Known{Class: "phi"}, "The policy knew: the content may hold PHI."},
		"cleared": {
			securemail.Facts{Slip: securemail.Slip{Class: securemail.Class{Level: securemail.LevelCleared}, Escalate: securemail.EscalateSealed}},
			audit.Known{Class: "cleared", Escalate: "sealed"}, "the content was cleared of PHI; the sender asked for sealed.",
		},
		"pending": {
			securemail.Facts{Keys: map[securemail.Method]securemail.KeyFact{"pgp": {State: securemail.KeyPending}}},
			audit.Known{Class: "phi", Keys: map[string]audit.KnownKeys{"pgp": {State: "pending"}}}, "Keys for pgp were looked up: pending.",
		},
		"unknown": {
			securemail.Facts{Keys: map[securemail.Method]securemail.KeyFact{"pgp": {}}},
			audit.Known{Class: "phi", Keys: map[string]audit.KnownKeys{"pgp": {State: "unknown"}}}, "Keys for pgp were looked up: unknown.",
		},
		"trust": {
			securemail.Facts{Keys: map[securemail.Method]securemail.KeyFact{"pgp": {State: securemail.KeyFound, Keys: []securemail.Key{
				{Fingerprint: "a"}, {Fingerprint: "b", Trust: securemail.TrustPinned}, {Fingerprint: "c", Trust: 9},
			}}}},
			audit.Known{Class: "phi", Keys: map[string]audit.KnownKeys{"pgp": {State: "found", Keys: []audit.KnownKey{
				{Fingerprint: "a", Trust: "found"}, {Fingerprint: "b", Trust: "pinned"}, {Fingerprint: "c", Trust: "trust-9"},
			}}}}, "Key b, trust: pinned.",
		},
		"no TLS": {
			securemail.Facts{Route: &securemail.Route{Known: true}},
			audit.Known{Class: "phi", Route: &audit.KnownRoute{Known: true}}, "was looked up: no TLS.",
		},
		"no answer": {
			securemail.Facts{Route: &securemail.Route{Wire: securemail.Wire{Reasons: []securemail.Reason{{Rule: "route-unknown"}}}}},
			audit.Known{Class: "phi", Route: &audit.KnownRoute{Rules: []string{"route-unknown"}}}, "was looked up: not known then; rules route-unknown.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t, logDir(t), nil)
			e := event("e")
			e.Status.ID, e.Facts = "p", &c.f
			_, got := proveFull(t, l, e)
			require.Equal(t, &c.want, got.Known)
			b, err := l.Evidence(t.Context(), "p")
			require.NoError(t, err)
			v, err := audit.VerifyEvidence(b, l.Verifier())
			require.NoError(t, err)
			require.Contains(t, strings.Join(v.Statement, "\n"), c.says)
		})
	}
}
