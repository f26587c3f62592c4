package preset_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/preset"
)

// TestOctetsThatAreNoTextStopNothing: what a part or a far end says must not make the log unreadable for everybody.
func TestOctetsThatAreNoTextStopNothing(t *testing.T) {
	for _, where := range []string{"failure", "receipt", "policy", "stage", "key", "class", "actor", "time"} {
		t.Run(where, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "m.db"), &preset.Options{Override: func(c *securemail.Config) {
				c.Transport = securemail.TransportFunc(func(ctx context.Context, s *securemail.Shipment) (*securemail.Receipt, error) {
					switch where {
					case "failure":
						return nil, &securemail.DeliveryError{Stage: "rcpt\xff", Err: errBytes("\xff")}
					case "stage":
						return nil, &securemail.ChannelError{Wire: securemail.Wire{Reasons: []securemail.Reason{{Rule: "\xff", Text: "\xff"}}}}
					}
					if err := s.Intend(ctx); err != nil {
						return nil, err
					}
					r := &securemail.Receipt{}
					if where == "receipt" {
						r.RemoteID, r.Peer = "\xff", "\xff"
					}
					if where == "time" {
						r.Time = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)
					}
					return r, nil
				})
				c.Keys = securemail.KeySourceFunc(func(context.Context, securemail.Lookup) ([]securemail.Key, error) {
					return []securemail.Key{{Method: "pgp", NotAfter: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC), Origin: "\xff", Capabilities: []string{"\xff"}}}, nil
				})
				if where == "class" {
					c.Classifier = badWords{}
				}
				c.Policy = securemail.PolicyFunc(func(_ context.Context, f securemail.Facts) (securemail.Decision, error) {
					if where == "key" && f.Keys == nil {
						return securemail.Decision{Need: []securemail.Method{"pgp"}}, nil
					}
					d := securemail.Decision{Choices: []securemail.Choice{{Method: "tls", Channel: securemail.ChannelNamed}}}
					if where == "policy" {
						d.Policy, d.Reasons = "\xff", []securemail.Reason{{Rule: "\xff", Text: "\xff"}}
					}
					return d, nil
				})
			}})
			by := securemail.Actor{ID: "u", Kind: "person"}
			if where == "actor" {
				by.Origin.Device, by.Roles = "\xff", []string{"\xff"}
			}
			sub, err := s.Send(securemail.WithActor(context.Background(), by), &securemail.Draft{From: securemail.Mailbox("a@example.org"), To: securemail.To("b@x.example"), Text: "x"})
			require.NoError(t, err)
			_, err = s.RunDue(context.Background())
			require.NoError(t, err)
			for st, err := range s.Find(context.Background(), securemail.Query{Submission: sub.ID}) {
				require.NoError(t, err)
				require.NotEmpty(t, st.State)
			}
		})
	}
}

type badWords struct{}

func (badWords) Classify(context.Context, *securemail.Draft, *securemail.Message) (securemail.Class, error) {
	return securemail.Class{Special: []string{"\xff"}, Findings: []securemail.Finding{{Rule: "\xff"}}}, nil
}

type errBytes string

func (e errBytes) Error() string { return string(e) }
