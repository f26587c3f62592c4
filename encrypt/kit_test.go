package encrypt_test

import (
	"context"
	"testing"

	"github.com/postseal/postseal/encrypt"
	"github.com/postseal/postseal/encrypt/encrypttest"
)

func TestTLSOnlyPassesTheKit(t *testing.T) {
	encrypttest.Run(t, encrypttest.Harness{New: func(context.Context, encrypttest.Setup) (*encrypttest.Rig, error) {
		return &encrypttest.Rig{Encryptor: encrypt.TLSOnly{}, Plain: true}, nil
	}})
}
