package securemail_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/securemailtest"
)

// A host sends to two people at once. One of their mail hosts has no TLS; what then happens is the Policy's to say: here it
// bounces.
func ExampleMailer_Send() {
	k := securemailtest.New(&testing.T{}, nil)
	k.Transport.Script("clear.example", securemailtest.Answer{Wire: securemailtest.Clear()})
	ctx := context.Background()
	sub, err := k.Send(ctx, &securemail.Draft{
		Key:     "reminder-4711", // a second Send with this key gives the first answer
		From:    securemail.Mailbox("Clinic <clinic@example.org>"),
		To:      securemail.To("Anna <anna@example.net>", "ben@clear.example"),
		Subject: "Your appointment", Text: "Tomorrow at nine.\n", Purpose: securemail.PurposeTreatment,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := k.RunDue(ctx); err != nil {
		fmt.Println(err)
		return
	}
	for st, err := range k.Find(ctx, securemail.Query{Submission: sub.ID}) {
		fmt.Println(st.State, st.Choice.Method, err)
	}
	// Output:
	// delivered tls <nil>
	// bounced tls <nil>
}

// Every fault of a Draft is named at once, by place and rule, never by value.
func ExampleDraftError() {
	k := securemailtest.New(&testing.T{}, nil)
	_, err := k.Send(context.Background(), &securemail.Draft{
		To: securemail.To("anna@example.net", "no address"), Subject: "Hello\r\nBcc: eve@example.com", Text: "Hello\n",
	})
	fmt.Println(err)
	// Output:
	// securemail: draft: From (required), To[1] (address), Subject (crlf)
}

// An address shows itself to a wire only.
func ExampleAddress() {
	a, err := securemail.ParseAddress("anna@Bücher.example")
	fmt.Println(a, err)
	fmt.Println(a.Domain())
	// Output:
	// [redacted] <nil>
	// xn--bcher-kva.example
}
