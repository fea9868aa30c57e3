// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is a document, an object or a field that was refused. NewError makes one.
type Error struct {
	Place  Place
	Key    Key    // zero when the document did not say what it is
	Field  string // "spec.nextHops[0].via"; empty when the whole is meant
	Reason string // lower case, one line
}

// NewError returns an Error whose field and reason are lines of UTF-8, of at most about a KiB each, whatever the
// object had in them.
func NewError(place Place, key Key, field, reason string) *Error {
	return &Error{Place: place, Key: key, Field: line(field), Reason: line(reason)}
}

// Error returns "routes.yaml:12 (document 2): Route a: spec.destination: not a prefix".
func (e *Error) Error() string {
	var b strings.Builder
	if place := e.Place.String(); place != "" {
		b.WriteString(place)
		if e.Place.Document > 0 {
			fmt.Fprintf(&b, " (document %d)", e.Place.Document)
		}
		b.WriteString(": ")
	}
	if e.Key != (Key{}) {
		fmt.Fprintf(&b, "%s: ", e.Key)
	}
	if e.Field != "" {
		fmt.Fprintf(&b, "%s: ", line(e.Field))
	}
	b.WriteString(line(e.Reason))
	return b.String()
}

// maxLine bounds what is said of an object in one place, in bytes.
const maxLine = 1 << 10

// line makes text fit for logs, for one line of a terminal and for the protocols, whose strings are UTF-8: names of
// files, keys of etcd and what stands in a document may be anything.
func line(text string) string {
	if len(text) > maxLine {
		end := maxLine
		for end > maxLine-utf8.UTFMax && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	text = strings.ToValidUTF8(text, "\uFFFD")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}
