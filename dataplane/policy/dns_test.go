// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/viaduct-net/viaduct/dataplane/policy/names"
)

// everything is all patterns that tests speak of.
var everything = names.NewPatterns([]names.Pattern{
	{Text: domains[0], Set: 1}, {Text: domains[1], Set: 1}, {Text: domains[2], Set: 1}, {Text: domains[3], Set: 1},
})

// answer is a DNS answer with one address.
func answer(name string, ttl uint32, a netip.Addr) []byte {
	n := dnsmessage.MustNewName(name + ".")
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{Response: true})
	b.EnableCompression()
	kind := dnsmessage.TypeA
	if a.Is6() {
		kind = dnsmessage.TypeAAAA
	}
	h := dnsmessage.ResourceHeader{Name: n, Class: dnsmessage.ClassINET, TTL: ttl}
	b.StartQuestions()
	b.Question(dnsmessage.Question{Name: n, Type: kind, Class: dnsmessage.ClassINET})
	b.StartAnswers()
	if a.Is6() {
		b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
	} else {
		b.AResource(h, dnsmessage.AResource{A: a.As4()})
	}
	return must(b.Finish())
}
