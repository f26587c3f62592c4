package encrypt

import (
	"fmt"

	"github.com/postseal/postseal/securemail"
)

// ErrUnavailable says that this process can't use the method at all, such as OpenPGP under GODEBUG=fips140=only. It Is
// [securemail.ErrNoKey]: no key can help, so the next Choice is tried. A KeySource that meets it answers "none", where it
// answers "not known" for a key that it can't read.
var ErrUnavailable = fmt.Errorf("encrypt: method not available in this process: %w", securemail.ErrNoKey)
