package dkim_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/postseal/postseal/transport/dkim"
)

func Example() {
	private, err := dkim.Generate(dkim.Ed25519)
	if err != nil {
		fmt.Println(err)
		return
	}
	key := dkim.Key{Domain: "example.org", Selector: "nov26", Private: private}
	dns := zone{key.RecordName(): {key.Record().String()}} // what the operator publishes

	s, err := dkim.New([]dkim.Key{key}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	const message = "From: a@example.org\r\nSubject: hello\r\n\r\nText.\r\n"
	fields, err := s.Sign(context.Background(), "example.org", strings.NewReader(message))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(dkim.CheckPublished(context.Background(), dns, key))
	found, err := dkim.Verify(context.Background(), dns, strings.NewReader(string(fields)+message))
	fmt.Println(found[0].Domain, found[0].Outcome, err)
	// Output:
	// <nil>
	// example.org pass <nil>
}
