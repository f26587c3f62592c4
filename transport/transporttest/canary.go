package transporttest

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"strings"
)

// canary is a random word planted in one place of a message.
type canary struct{ place, word string }

func newCanary(place string) canary {
	var b [15]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return canary{place, "c" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))}
}

// in says whether text holds the word, as it is, in other case, or inside base64 at any of the three alignments.
func (c canary) in(text string) bool {
	if strings.Contains(strings.ToLower(text), c.word) {
		return true
	}
	for shift := range 3 {
		if strings.Contains(text, c.base64(shift)) {
			return true
		}
	}
	return false
}

// base64 is the part of the word's encoding, shift octets into a group, that does not depend on its neighbours.
func (c canary) base64(shift int) string {
	enc := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + c.word))
	return enc[(shift*8+5)/6 : (shift+len(c.word))*8/6]
}

// canaries are those of one rig.
type canaries []canary

const (
	placeLocal   = "local part"
	placeName    = "display name"
	placeSubject = "subject"
	placeBody    = "body"
)

func newCanaries() canaries {
	return canaries{newCanary(placeLocal), newCanary(placeName), newCanary(placeSubject), newCanary(placeBody)}
}

func (cs canaries) word(place string) string {
	for _, c := range cs {
		if c.place == place {
			return c.word
		}
	}
	panic("transporttest: no canary for " + place)
}

// found names the places whose canary is in text.
func (cs canaries) found(text string) []string {
	var places []string
	for _, c := range cs {
		if c.in(text) {
			places = append(places, c.place)
		}
	}
	return places
}

// echo is what the far end is asked to repeat.
func (cs canaries) echo() string {
	words := make([]string, len(cs))
	for i, c := range cs {
		words[i] = c.word
	}
	return strings.Join(words, " ")
}
