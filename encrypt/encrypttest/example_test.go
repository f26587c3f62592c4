package encrypttest_test

import (
	"context"
	"fmt"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/encrypttest"
	"github.com/postseal/postseal/securemail"
)

// careless is an Encryptor whose author forgot that a subject is read by everybody on the way.
type careless struct{ encrypt.TLSOnly }

func (careless) Encrypt(_ context.Context, j *securemail.Job) (*securemail.Sealed, error) {
	return nil, fmt.Errorf("careless: can't seal %q", j.Message.Header("Subject"))
}

// A contributor's test calls Run; Check gives the same as a value.
func ExampleCheck() {
	r := encrypttest.Check(context.Background(), encrypttest.Harness{
		New: func(context.Context, encrypttest.Setup) (*encrypttest.Rig, error) {
			return &encrypttest.Rig{Encryptor: careless{}, Plain: true}, nil
		},
	})
	fmt.Println(r.Failures[0].Case)
	fmt.Println(r.Failures[0].Rule)
	fmt.Println(r.Failures[0].Detail)
	// Output:
	// shape/text
	// errors, logs and evidence carry no content and no address (securemail.Encryptor)
	// in an error or log: subject
}
