package securemail

import "crypto/fips140"

// fipsEnabled reports whether crypto/tls ran in FIPS 140-3 mode (GODEBUG=fips140=on or only).
func fipsEnabled() bool { return fips140.Enabled() }
