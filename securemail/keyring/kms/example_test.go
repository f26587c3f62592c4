package kms_test

import (
	"context"
	"fmt"

	"github.com/postseal/postseal/securemail/keyring"
	"github.com/postseal/postseal/securemail/keyring/kms"
)

// A root in AWS KMS; the credentials come from wherever the host keeps them.
func ExampleNewAWS() {
	credentials := func(context.Context) (kms.Credential, error) {
		return kms.Credential{AccessKeyID: "AKIA...", SecretAccessKey: "..."}, nil
	}
	root, err := kms.NewAWS("eu-central-1", "alias/postseal", credentials, nil)
	o := &keyring.Options{Root: root} // for keyring.OpenFile
	fmt.Println(o.Root != nil, err)
	// Output: true <nil>
}

// What is wrong is said at once, all of it.
func ExampleNewVault() {
	_, err := kms.NewVault("http://vault.example.org:8200", "", nil, nil)
	fmt.Println(err)
	// Output:
	// kms: vault: a token function is required
	// kms: vault: the name of a key is required, without / ? #
	// kms: Options.Endpoint must be https, or with InsecureLoopback http to a loopback address
}

func ExampleNewGCP() {
	token := func(context.Context) (string, error) { return "ya29...", nil }
	_, err := kms.NewGCP("projects/clinic/locations/europe-west3/keyRings/mail/cryptoKeys/postseal", token, nil)
	fmt.Println(err)
	// Output: <nil>
}
