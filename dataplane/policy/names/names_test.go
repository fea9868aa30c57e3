// SPDX-License-Identifier: Apache-2.0

package names

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

func patternsOf(texts ...string) *Patterns {
	var list []Pattern
	for i, text := range texts {
		list = append(list, Pattern{text, uint32(i + 1)})
	}
	return NewPatterns(list)
}

// zone is an answer as lines: "www.example.com A 10.0.0.1 60", the first "? www.example.com A".
func zone(t testing.TB, edit func(h *dnsmessage.Header), lines ...string) []byte {
	h := dnsmessage.Header{Response: true}
	if edit != nil {
		edit(&h)
	}
	b := dnsmessage.NewBuilder(nil, h)
	b.EnableCompression()
	b.StartQuestions()
	for i, line := range lines {
		f := strings.Fields(line)
		if f[0] == "?" {
			b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(f[1] + "."), Type: kindOf(f[2]),
				Class: dnsmessage.ClassINET})
			continue
		}
		if i == 1 {
			b.StartAnswers()
		}
		var ttl uint32
		fmt.Sscan(f[3], &ttl)
		h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(f[0] + "."), Class: dnsmessage.ClassINET, TTL: ttl}
		switch f[1] {
		case "A":
			b.AResource(h, dnsmessage.AResource{A: netip.MustParseAddr(f[2]).As4()})
		case "AAAA":
			b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(f[2]).As16()})
		case "CNAME":
			b.CNAMEResource(h, dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(f[2] + ".")})
		case "TXT":
			b.TXTResource(h, dnsmessage.TXTResource{TXT: []string{f[2]}})
		}
	}
	m, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func kindOf(s string) dnsmessage.Type {
	return map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "TXT": dnsmessage.TypeTXT}[s]
}

// setsOf returns the sets that an address is in for port 1.
func (s *Store) setsOf(p *Patterns, a string, now int64, existing bool) (ids []uint32) {
	var hits Hits
	s.Lookup(1, packet.AddrFrom(netip.MustParseAddr(a)), now, existing, &hits)
	for _, h := range hits.Patterns[:hits.Len] {
		ids = append(ids, p.Sets(h)...)
	}
	slices.Sort(ids)
	return ids
}

func TestLearn(t *testing.T) {
	p := patternsOf("www.example.com", "*.example.com", "example.com", "*.com", "cdn.net", "*.d.cdn.net", "other.org")
	for name, row := range map[string]struct {
		lines []string
		want  map[string][]uint32 // sets by address
	}{
		"exact and wildcards": {[]string{"? WWW.Example.COM A", "www.example.com A 10.0.0.1 60"},
			map[string][]uint32{"10.0.0.1": {1, 2, 4}}},
		"a wildcard is not for its own name": {[]string{"? example.com A", "example.com A 10.0.0.1 60"},
			map[string][]uint32{"10.0.0.1": {3, 4}}},
		"any depth": {[]string{"? a.b.c.example.com AAAA", "a.b.c.example.com AAAA fd00::1 60"},
			map[string][]uint32{"fd00::1": {2, 4}}},
		"not a part of a label": {[]string{"? myexample.com A", "myexample.com A 10.0.0.1 60"},
			map[string][]uint32{"10.0.0.1": {4}}},
		"several": {[]string{"? other.org A", "other.org A 10.0.0.1 60", "other.org A 10.0.0.2 60"},
			map[string][]uint32{"10.0.0.1": {7}, "10.0.0.2": {7}}},
		"aliases, in any order": {[]string{"? other.org A", "x.d.cdn.net A 10.0.0.1 60", "cdn.net CNAME x.d.cdn.net 60",
			"other.org CNAME cdn.net 60"}, map[string][]uint32{"10.0.0.1": {5, 6, 7}}},
		"what was not asked for": {[]string{"? other.org A", "www.example.com A 10.0.0.1 60", "other.org A 10.0.0.2 60"},
			map[string][]uint32{"10.0.0.1": nil, "10.0.0.2": {7}}},
		"aliases in a ring": {[]string{"? other.org A", "other.org CNAME cdn.net 60", "cdn.net CNAME other.org 60",
			"cdn.net A 10.0.0.1 60"}, map[string][]uint32{"10.0.0.1": nil}},
		"between others": {[]string{"? other.org A", "other.org TXT hello 60", "other.org A 10.0.0.1 60"},
			map[string][]uint32{"10.0.0.1": {7}}},
		"another question": {[]string{"? other.org TXT", "other.org A 10.0.0.1 60"}, map[string][]uint32{"10.0.0.1": nil}},
		"nobody's name":    {[]string{"? none.net A", "none.net A 10.0.0.1 60"}, map[string][]uint32{"10.0.0.1": nil}},
		"mapped": {[]string{"? other.org AAAA", "other.org AAAA ::ffff:10.0.0.1 60"},
			map[string][]uint32{"10.0.0.1": nil}},
	} {
		s := NewStore(1, 64)
		s.Learn(p, 1, zone(t, nil, row.lines...), 1)
		for a, want := range row.want {
			if got := s.setsOf(p, a, 1, false); !slices.Equal(got, want) {
				t.Errorf("%s: %s in %v, want %v", name, a, got, want)
			}
		}
	}
}

func TestNotLearned(t *testing.T) {
	p := patternsOf("a.b")
	good := []string{"? a.b A", "a.b A 10.0.0.1 60"}
	for name, m := range map[string][]byte{
		"query":         zone(t, func(h *dnsmessage.Header) { h.Response = false }, good...),
		"error":         zone(t, func(h *dnsmessage.Header) { h.RCode = dnsmessage.RCodeNameError }, good...),
		"opcode":        zone(t, func(h *dnsmessage.Header) { h.OpCode = 2 }, good...),
		"two questions": zone(t, nil, "? a.b A", "? a.b A"),
		"cut off":       zone(t, nil, good...)[:36],
		"nothing":       nil,
	} {
		s := NewStore(1, 64)
		s.Learn(p, 1, m, 1)
		if got := s.setsOf(p, "10.0.0.1", 1, true); got != nil {
			t.Errorf("%s: learned %v", name, got)
		}
	}
}

// Names may lead back, and never to themselves or ahead (RFC 1035 4.1.4).
func TestPointers(t *testing.T) {
	for what, row := range map[string]struct {
		tail string // behind a header of 12 bytes
		at   int
		want string
		ok   bool
	}{
		"plain":          {"\x01a\x01b\x00", 12, "a.b", true},
		"lower case":     {"\x02Ab\x00", 12, "ab", true},
		"root":           {"\x00", 12, "", true},
		"back":           {"\x01a\x00\x01b\xc0\x0c", 15, "b.a", true},
		"back twice":     {"\x01a\x00\x01b\xc0\x0c\x01c\xc0\x0f", 19, "c.b.a", true},
		"itself":         {"\xc0\x0c", 12, "", false},
		"ring":           {"\x01a\xc0\x0c", 12, "", false},
		"ahead":          {"\xc0\x0e\x01a\x00", 12, "", false},
		"into header":    {"\x01a\xc0\x00", 12, "", false},
		"cut off":        {"\x05ab", 12, "", false},
		"no end":         {"\x01a", 12, "", false},
		"half a pointer": {"\xc0", 12, "", false},
		"other label":    {"\x41a\x00", 12, "", false},
		"long":           {strings.Repeat("\x3f"+strings.Repeat("x", 63), 4) + "\x00", 12, "", false},
		"a dot inside":   {"\x03a.b\x00", 12, "", false},
		"a star":         {"\x01*\x01b\x00", 12, "*.b", true},
	} {
		r := reader{message: append(make([]byte, 12), row.tail...), at: row.at}
		var n name
		r.name(&n)
		if r.failed == row.ok || row.ok && (string(n.bytes()) != row.want || r.at != 12+len(row.tail)) {
			t.Errorf("%s: %q at %d, failed %v", what, n.bytes(), r.at, r.failed)
		}
	}
}

// A TTL counts from the answer, and grace is added; one alias with a shorter one shortens it.
func TestExpiry(t *testing.T) {
	p := patternsOf("a.b")
	for _, row := range []struct {
		ttl, alias string
		holds      int64 // seconds
	}{{"0", "9", 60}, {"10", "99", 70}, {"100", "5", 65}, {"4294967295", "100", 60}, {"2147483647", "2147483647",
		24*3600 + 60}} {
		s := NewStore(1, 16)
		s.Learn(p, 1, zone(t, nil, "? a.b A", "a.b CNAME c.d "+row.alias, "c.d A 10.0.0.1 "+row.ttl), 1000)
		end := 1000 + row.holds*1e9
		for now, want := range map[int64]bool{1000: true, end - 1: true, end: false} {
			if got := s.setsOf(p, "10.0.0.1", now, false) != nil; got != want {
				t.Errorf("TTL %s and %s: known at %d: %v", row.ttl, row.alias, now, got)
			}
		}
		if s.setsOf(p, "10.0.0.1", end+1, true) == nil {
			t.Errorf("TTL %s: forgotten for flows that exist", row.ttl)
		}
	}
}

func TestCheckPattern(t *testing.T) {
	for text, ok := range map[string]bool{
		"a": true, "a.b": true, "*.a.b": true, "x-1_y.z": true, "": false, "*": false, "*.": false, "a.": false, ".a": false,
		"a..b": false, "A.b": false, "a.*.b": false, "*a.b": false, "a b": false, "é.b": false,
		strings.Repeat("a", 63) + ".b": true, strings.Repeat("a", 64) + ".b": false, strings.Repeat("a.", 127) + "a": false,
	} {
		if reason := CheckPattern(text); (reason == "") != ok {
			t.Errorf("%q: %q", text, reason)
		}
	}
}
