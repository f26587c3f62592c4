package encrypttest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/postseal/postseal/internal/kit"
)

// canary is a random word planted in one place of a message.
type canary struct{ place, word string }

func newCanary(place string) canary { return canary{place, kit.NewWord()} }

// in says whether text holds the word: as it is, in other case, in hex, or in base64 at any alignment, also across line
// ends and soft line breaks (RFC 2045 section 6.7).
func (c canary) in(text string) bool { return c.inNormal(normal(text)) }

// normalText is a text as canaries are looked for.
type normalText struct{ plain, lower string }

func normal(text string) normalText {
	text = strings.NewReplacer("=\r\n", "", "\r\n", "").Replace(text)
	return normalText{text, strings.ToLower(text)}
}

func (c canary) inNormal(t normalText) bool {
	return strings.Contains(t.lower, c.word) || strings.Contains(t.lower, hex.EncodeToString([]byte(c.word))) ||
		kit.InBase64(t.plain, c.word)
}

// The places of canaries. What is in a hidden place must not be seen on the outside of sealed mail.
const (
	placeRecipient = "recipient's address"
	placeName      = "recipient's name"
	placeSender    = "sender's address"
	placeSubject   = "subject"
	placeBody      = "body"
	placeFile      = "file name"
	placeBcc       = "Bcc"
	placeHeader    = "other header field"
	placePatient   = "subject of care"
)

type canaries map[string]canary

func newCanaries() canaries {
	cs := canaries{}
	for _, p := range []string{placeRecipient, placeName, placeSender, placeSubject, placeBody, placeFile, placeBcc, placeHeader, placePatient} {
		cs[p] = newCanary(p)
	}
	return cs
}

// found names the places whose canary is in text, of those given; none given: of all.
func (cs canaries) found(text string, places ...string) []string {
	if len(places) == 0 {
		for p := range cs {
			places = append(places, p)
		}
	}
	var out []string
	t := normal(text)
	for _, p := range places {
		if cs[p].inNormal(t) {
			out = append(out, p)
		}
	}
	return out
}

// errorText is the text of err and of everything in its tree, in several formats.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		return text + errorText(u.Unwrap())
	case interface{ Unwrap() []error }:
		for _, e := range u.Unwrap() {
			text += errorText(e)
		}
	}
	return text
}

// oneOf says whether err Is one of targets.
func oneOf(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
