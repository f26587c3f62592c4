package pgp_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
)

// A Mailer calls the Encryptor with the keys that the Policy saw; the recipient opens what left.
func Example() {
	ctx := context.Background()
	anna, annasKey, err := pgp.GenerateKey("Anna", securemail.Mailbox("anna@example.org").Address)
	if err != nil {
		panic(err)
	}
	clinic, clinicsKey, err := pgp.GenerateKey("Clinic", securemail.Mailbox("post@clinic.example").Address)
	if err != nil {
		panic(err)
	}
	e, err := pgp.New(&pgp.Options{SigningKeys: map[string]securemail.Secret{"@clinic.example": clinic}})
	if err != nil {
		panic(err)
	}

	m, err := securemail.NewMessage(securemail.Bytes([]byte(strings.ReplaceAll(
		"Date: Tue, 24 Nov 2026 10:00:00 +0000\nFrom: post@clinic.example\nTo: anna@example.org\nSubject: Your result\n"+
			"Message-ID: <1@clinic.example>\nContent-Type: text/plain\n\nAll is well.\n", "\n", "\r\n"))))
	if err != nil {
		panic(err)
	}
	sealed, err := e.Encrypt(ctx, &securemail.Job{
		Parcel: &securemail.Parcel{Message: m, Slip: securemail.Slip{
			From: securemail.Mailbox("post@clinic.example"), Recipient: securemail.Mailbox("anna@example.org"),
		}},
		Keys: []securemail.Key{annasKey},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(sealed.Message.Header("Subject"), sealed.Algorithm)

	opened, err := pgp.Open(ctx, sealed.Message, &pgp.OpenOptions{
		Keys: []securemail.Secret{anna}, Signers: []securemail.Key{clinicsKey},
	})
	if err != nil {
		panic(err)
	}
	original, err := encrypt.Restore(opened.Payload)
	if err != nil {
		panic(err)
	}
	fmt.Println(original.Header("Subject"), opened.Authenticity == pgp.SignatureGood)
	// Output:
	// [[...]] OpenPGP SEIPDv1 AES-256 ECDH-Curve25519
	// [Your result] true
}
