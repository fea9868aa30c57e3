// SPDX-License-Identifier: Apache-2.0

// Package names knows addresses by the domain names that policies speak of: as answers to a station's DNS queries gave
// them to it, for as long as they said.
//
// Files: patterns.go (what is looked for), message.go (a DNS message, read in place), learn.go (what an answer says),
// store.go (what is known), learned.go (and of it, for another process).
package names

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"
)

// Pattern is a domain name, "www.example.com", or all below one, "*.example.com", and a set that it belongs to.
type Pattern struct {
	Text string
	Set  uint32 // PeerSet.id
}

// Patterns is what policies speak of. It does not change. Nil is none.
//
// A pattern is known by a number that is made of its text: what has been learned outlives the policies that asked for
// it, and the process, and serves the next ones.
type Patterns struct {
	byHash map[uint64]pattern
	sets   map[uint64][]uint32 // of patterns, ascending
}

type pattern struct {
	text   string // without the star
	number uint64
}

// The seeds, of names and of what is behind the star.
var exactly, below = maphash.MakeSeed(), maphash.MakeSeed()

func hash(pattern string) uint64 {
	if rest, wild := strings.CutPrefix(pattern, "*."); wild {
		return maphash.String(below, rest)
	}
	return maphash.String(exactly, pattern)
}

// numberOf is the pattern's number, which is the same in every build: files have it.
func numberOf(pattern string) uint64 {
	sum := sha256.Sum256([]byte(pattern))
	return binary.BigEndian.Uint64(sum[:])
}

// NewPatterns makes patterns, in the order of their sets; nil of none.
func NewPatterns(list []Pattern) *Patterns {
	if len(list) == 0 {
		return nil
	}
	p := &Patterns{make(map[uint64]pattern, len(list)), make(map[uint64][]uint32, len(list))}
	for _, of := range list {
		is := pattern{strings.TrimPrefix(of.Text, "*."), numberOf(of.Text)}
		p.byHash[hash(of.Text)] = is
		if ids := p.sets[is.number]; len(ids) == 0 || ids[len(ids)-1] != of.Set {
			p.sets[is.number] = append(ids, of.Set)
		}
	}
	return p
}

// Sets returns the sets that a pattern belongs to, ascending; not to be changed.
func (p *Patterns) Sets(pattern uint64) []uint32 { return p.sets[pattern] }

// match appends the patterns that a name fits; it is in lower case, without the last dot.
func (p *Patterns) match(list []uint64, name []byte) []uint64 {
	list = p.matchOne(list, maphash.Bytes(exactly, name), name)
	for i, c := range name {
		if c == '.' {
			list = p.matchOne(list, maphash.Bytes(below, name[i+1:]), name[i+1:])
		}
	}
	return list
}

func (p *Patterns) matchOne(list []uint64, h uint64, text []byte) []uint64 {
	if s, there := p.byHash[h]; there && s.text == string(text) &&
		len(list) < cap(list) && !slices.Contains(list, s.number) {
		return append(list, s.number)
	}
	return list
}

// The longest name and label, in bytes (RFC 1035 2.3.4); a name in text is two shorter than on the wire.
const (
	maxName  = 253
	maxLabel = 63
)

// CheckPattern says why a text is no pattern; empty: it is one.
func CheckPattern(text string) (reason string) {
	name, _ := strings.CutPrefix(text, "*.")
	if name == "" || len(text) > maxName {
		return "is not 1 to 253 bytes long"
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return "has an empty label, or a dot at its end"
		case len(label) > maxLabel:
			return "has a label longer than 63 bytes"
		case strings.ContainsFunc(label, func(r rune) bool { return r <= ' ' || r == '*' || r > '~' }):
			return "has bytes that no name has; a star is at the beginning only"
		case strings.ToLower(label) != label:
			return "is not in lower case"
		}
	}
	return ""
}
