package pgp_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postseal/postseal/encrypt/pgp"
	"github.com/postseal/postseal/securemail"
)

func BenchmarkEncrypt(b *testing.B) {
	signer, _ := pair(b, "bob@clinic.example")
	_, key := pair(b, "anna@example.org")
	for _, size := range []int{4 << 10, 1 << 20} {
		for name, o := range map[string]*pgp.Options{"encrypt": nil, "sign": {SigningKeys: map[string]securemail.Secret{"": signer}}} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				e := encryptor(b, o)
				j := job(b, key)
				j.Parcel = parcel(b, original+strings.Repeat("0123456789 abcdefghijklmnopqrstuvwxyz 0123456789 abcdefg\r\n", size/58))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					_, err := e.Encrypt(b.Context(), j)
					require.NoError(b, err)
				}
			})
		}
	}
}
