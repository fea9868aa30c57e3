// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// learn has each pod ask for the cluster's domain names, and see the answers.
func (e *Engine) learn(c *oracle.Cluster) error {
	patterns := e.tables.Policy.Domains()
	if patterns == nil {
		return nil
	}
	for name, addresses := range c.Domains {
		for _, address := range addresses {
			message, err := answer(name, address)
			if err != nil {
				return err
			}
			for port := range e.attached {
				e.names.Learn(patterns, e.tables.ByName(port).ID, message, e.now)
			}
		}
	}
	return nil
}

// answer is a DNS server's, about the address of a name (RFC 1035 4.1).
func answer(name string, address netip.Addr) ([]byte, error) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, err
	}
	question := dnsmessage.Question{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	var body dnsmessage.ResourceBody
	if address.Is4() {
		body = &dnsmessage.AResource{A: address.As4()}
	} else {
		question.Type = dnsmessage.TypeAAAA
		body = &dnsmessage.AAAAResource{AAAA: address.As16()}
	}
	const ttl = 3600 // seconds
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{Response: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{question},
		Answers: []dnsmessage.Resource{{Body: body, Header: dnsmessage.ResourceHeader{
			Name: n, Type: question.Type, Class: dnsmessage.ClassINET, TTL: ttl}}},
	}
	return m.Pack()
}
