package encrypt_test

import (
	"fmt"
	"strings"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/securemail"
)

// An encryptor seals the Payload in its own way and lets Outer make the message that leaves.
func ExampleOuter() {
	m, err := securemail.NewMessage(securemail.Bytes([]byte(strings.ReplaceAll(
		"Date: Tue, 24 Nov 2026 10:00:00 +0000\nFrom: post@clinic.example\nTo: anna@example.org\nSubject: Your result\n"+
			"X-Patient: 4711\nMessage-ID: <1@clinic.example>\n\nAll is well.\n", "\n", "\r\n"))))
	if err != nil {
		panic(err)
	}
	p := &securemail.Parcel{Message: m, Slip: securemail.Slip{Recipient: securemail.Mailbox("anna@example.org")}}
	payload, err := encrypt.Payload(p)
	if err != nil {
		panic(err)
	}
	fmt.Println("to be sealed:", payload.Size() > m.Size())
	out, err := encrypt.Outer(p, encrypt.Content{
		Type: "application/octet-stream", Encoding: "base64", Body: securemail.Bytes([]byte("c2VhbGVk\r\n")),
	})
	if err != nil {
		panic(err)
	}
	fmt.Print(strings.ReplaceAll(string(out.Head()), "\r\n", "\n"))
	// Output:
	// to be sealed: true
	// Date: Tue, 24 Nov 2026 10:00:00 +0000
	// From: post@clinic.example
	// To: anna@example.org
	// Subject: [...]
	// Message-ID: <1@clinic.example>
	// MIME-Version: 1.0
	// Content-Type: application/octet-stream
	// Content-Transfer-Encoding: base64
}
