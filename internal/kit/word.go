package kit

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
)

// NewWord gives a random word to plant in a message, in lower case.
func NewWord() string { return "c" + strings.ToLower(rand.Text()) }

// InBase64 says whether word is in text, encoded in base64 at any of the three alignments.
func InBase64(text, word string) bool {
	for shift := range 3 {
		// The part of the encoding that does not depend on the word's neighbours.
		enc := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + word))
		if strings.Contains(text, enc[(shift*8+5)/6:(shift+len(word))*8/6]) {
			return true
		}
	}
	return false
}
