package transporttest

import (
	"strings"

	"github.com/postseal/postseal/internal/kit"
)

// canary is a random word planted in one place of a message.
type canary struct{ place, word string }

func newCanary(place string) canary { return canary{place, kit.NewWord()} }

// in says whether text holds the word, as it is, in other case, or inside base64 at any of the three alignments.
func (c canary) in(text string) bool {
	return strings.Contains(strings.ToLower(text), c.word) || kit.InBase64(text, c.word)
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
