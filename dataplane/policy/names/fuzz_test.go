// SPDX-License-Identifier: Apache-2.0

package names

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// FuzzLearn checks that what is learned of any message is what golang.org/x/net reads there: addresses of the name that
// was asked for, or of one that it is an alias of. Nothing else is ever known.
func FuzzLearn(f *testing.F) {
	f.Add(zone(f, nil, "? a.b A", "a.b A 10.0.0.1 60"))
	f.Add(zone(f, nil, "? a.b AAAA", "a.b CNAME c.d 60", "c.d AAAA fd00::1 60", "c.d AAAA fd00::2 60"))
	f.Add(zone(f, nil, "? a.b A", "a.b TXT x 60", "c.d A 10.0.0.1 60"))
	f.Add([]byte("\x00\x00\x80\x00\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x01b\x00\x00\x01\x00\x01\xc0\x0c\x00\x01\x00\x01" +
		"\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01"))
	p := patternsOf("a.b", "*.b", "c.d", "*.d")
	f.Fuzz(func(t *testing.T, m []byte) {
		s := NewStore(1, 1024)
		s.Learn(p, 1, m, 1)
		tbl := (*s.ports.Load())[1]
		if tbl == nil {
			return
		}
		var known []packet.Addr
		for _, e := range tbl.entries {
			if e.expires != 0 {
				known = append(known, e.addr)
			}
		}
		want := addresses(m)
		for _, a := range known {
			if !slices.Contains(want, a) {
				t.Fatalf("%s is known, of %v", a, want)
			}
		}
	})
}

// addresses are those that a message gives for the names that its question's leads to, by another parser. A message
// that this one cannot read to the end gives what came before.
func addresses(m []byte) (list []packet.Addr) {
	var parser dnsmessage.Parser
	if _, err := parser.Start(m); err != nil {
		return nil
	}
	q, err := parser.Question()
	if err != nil || parser.SkipAllQuestions() != nil {
		return nil
	}
	var answers []dnsmessage.Resource
	for {
		h, err := parser.AnswerHeader()
		if err != nil {
			break
		}
		r := dnsmessage.Resource{Header: h}
		switch kind := h.Type; {
		case h.Class != dnsmessage.ClassINET: // which may hold anything
			err = parser.SkipAnswer()
		case kind == dnsmessage.TypeA, kind == dnsmessage.TypeAAAA, kind == dnsmessage.TypeCNAME:
			r, err = parser.Answer()
		default:
			err = parser.SkipAnswer()
		}
		if err != nil {
			break
		}
		answers = append(answers, r)
	}
	names := []string{strings.ToLower(q.Name.String())}
	for range maxAliases {
		for _, r := range answers {
			c, ok := r.Body.(*dnsmessage.CNAMEResource)
			if ok && slices.Contains(names, strings.ToLower(r.Header.Name.String())) {
				names = append(names, strings.ToLower(c.CNAME.String()))
			}
		}
		slices.Sort(names)
		names = slices.Compact(names)
	}
	for _, r := range answers {
		if !slices.Contains(names, strings.ToLower(r.Header.Name.String())) {
			continue
		}
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			list = append(list, packet.AddrFrom(netip.AddrFrom4(body.A)))
		case *dnsmessage.AAAAResource:
			list = append(list, packet.AddrFrom(netip.AddrFrom16(body.AAAA)))
		}
	}
	return list
}
