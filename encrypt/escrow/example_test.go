package escrow_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/postseal/postseal/encrypt/escrow"
	"github.com/postseal/postseal/securemail"
	"github.com/postseal/postseal/securemail/keyring"
)

// A Mailer calls Encrypt for a recipient whose mail host can't be trusted; what leaves is the notice.
func ExampleEscrow_Encrypt() {
	dir, err := os.MkdirTemp("", "escrow")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "mail.db"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	ring, err := keyring.OpenFile(filepath.Join(dir, "ring.key"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer ring.Close()

	ctx := context.Background()
	e, err := escrow.New(ctx, db, ring, &escrow.Options{BaseURL: "https://mail.clinic.example"})
	if err != nil {
		log.Fatal(err)
	}
	m, err := securemail.NewMessage(securemail.Bytes([]byte("From: desk@clinic.example\r\nSubject: Your biopsy\r\n" +
		"Message-ID: <1@clinic.example>\r\n\r\nDear Anna, ...\r\n")))
	if err != nil {
		log.Fatal(err)
	}
	p := &securemail.Parcel{Message: m, Factors: []securemail.Factor{{Kind: "code", Value: securemail.NewSecret("7391-KX42")}}}
	p.ID = "06f2k"
	p.From, p.Recipient = securemail.Mailbox("desk@clinic.example"), securemail.Mailbox("anna@mail.example.com")

	sealed, err := e.Encrypt(ctx, &securemail.Job{Parcel: p})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(sealed.Algorithm)
	fmt.Println(sealed.Message.Header("Subject"), sealed.Message.Header("Message-ID"))
	fmt.Println(strings.Contains(string(sealed.Message.Head()), "biopsy"))
	// Output:
	// escrow AES-256-GCM chunked
	// [You have a secure message] [<1@clinic.example>]
	// false
}
