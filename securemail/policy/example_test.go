package policy_test

import (
	"context"
	"fmt"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/policy"
)

func ExampleHIPAA() {
	// No portal yet, and no S/MIME: what neither TLS nor PGP can carry waits for a person.
	p, err := policy.HIPAA(&policy.Options{Methods: []securemail.Method{securemail.MethodPGP}})
	if err != nil {
		fmt.Println(err)
		return
	}
	d, _ := p.Decide(context.Background(), securemail.Facts{})
	for _, c := range d.Choices {
		fmt.Println(c.Method, c.Channel == securemail.ChannelNamed)
	}
	fmt.Println("held else:", d.Else == securemail.OutcomeHold)
	for _, r := range d.Reasons {
		fmt.Println(r.Rule+":", r.Text)
	}
	// Output:
	// tls true
	// pgp false
	// held else: true
	// floor: tls needs the channel named
	// no-escrow: escrow is not set up, so what nothing else can carry is held
}
