// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
)

func pick[T any](t *rapid.T, list ...T) T { return rapid.SampledFrom(list).Draw(t, "pick") }

func some[T any](t *rapid.T, most int, list []T) (picked []T) {
	for _, v := range list {
		if len(picked) < most && rapid.IntRange(0, 2).Draw(t, "take") == 0 {
			picked = append(picked, v)
		}
	}
	return picked
}

var (
	allIDs   = []uint32{1, 2, 3, 4, 5, 6, 70, 200}
	ports    = []uint32{0, 53, 80, 81, 443, 8080, 65535}
	domains  = []string{"example.com", "*.example.com", "www.example.com", "*.org"}
	someName = []string{"example.com", "www.example.com", "a.b.example.com", "x.org", "none.net"}
)

// genAddr draws an address of a few, in both families.
func genAddr(t *rapid.T) netip.Addr {
	a, b := byte(rapid.IntRange(0, 1).Draw(t, "a")), byte(rapid.IntRange(0, 7).Draw(t, "b"))
	if rapid.Bool().Draw(t, "IPv6") {
		return netip.AddrFrom16([16]byte{0: 0xfd, 14: a, 15: b})
	}
	return netip.AddrFrom4([4]byte{10, 0, a, b})
}

func genPrefix(t *rapid.T, least int) netip.Prefix {
	a := genAddr(t)
	bits := pick(t, 0, 8, 23, 24, 29, 30, 31, 32)
	p := netip.PrefixFrom(a, max(bits+a.BitLen()-32, least)).Masked()
	if bits == 0 && least == 0 {
		p = netip.PrefixFrom(a, 0).Masked()
	}
	return p
}

func wire(p netip.Prefix) *api.Prefix {
	return &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}

func genIdentity(t *rapid.T, id uint32) *api.Identity {
	i := &api.Identity{Id: id, Kind: api.Identity_KIND_POD, Namespace: "default"}
	for _, name := range some(t, 2, []string{"http", "dns"}) {
		i.NamedPorts = append(i.NamedPorts, &api.NamedPort{
			Name: name, Protocol: pick(t, api.Protocol_PROTOCOL_TCP, api.Protocol_PROTOCOL_UDP), Port: pick(t, ports[1:]...),
		})
	}
	return i
}

// Sets 1 to 4 are of identities, 5 to 8 of prefixes as well, and 9 and 10 of domain names.
func genSet(t *rapid.T, id uint32, ids []uint32) *api.PeerSet {
	s := &api.PeerSet{Id: id, Identities: some(t, 5, ids)}
	if id > 8 {
		s.Domains = some(t, 2, domains)
	}
	if id < 5 || id > 8 {
		return s
	}
	for range rapid.IntRange(0, 3).Draw(t, "blocks") {
		p := genPrefix(t, 0)
		b := &api.PrefixSet{Prefix: wire(p)}
		for range rapid.IntRange(0, 2).Draw(t, "excepts") {
			if e := genPrefix(t, p.Bits()); p.Contains(e.Addr()) && e.Bits() >= p.Bits() {
				b.Except = append(b.Except, wire(e))
			}
		}
		s.Blocks = append(s.Blocks, b)
	}
	return s
}

func genRange(t *rapid.T) *api.PortRange {
	r := &api.PortRange{Protocol: pick(t, api.Protocol_PROTOCOL_ANY, api.Protocol_PROTOCOL_TCP,
		api.Protocol_PROTOCOL_UDP, api.Protocol_PROTOCOL_SCTP, api.Protocol_PROTOCOL_ICMP)}
	switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); {
	case r.Protocol == api.Protocol_PROTOCOL_ICMP || kind == 0:
		r.Last = 65535
	case kind == 1:
		r.Name = pick(t, "http", "dns")
	default:
		r.First, r.Last = pick(t, ports...), pick(t, ports...)
		if r.First > r.Last {
			r.First, r.Last = r.Last, r.First
		}
	}
	return r
}

func genPolicy(t *rapid.T, name string, sets []uint32) *api.Policy {
	p := &api.Policy{
		Name: name, Tier: api.Policy_Tier(rapid.IntRange(0, 2).Draw(t, "tier")), Priority: pick[int32](t, 0, 1),
		Staged: rapid.IntRange(0, 4).Draw(t, "staged") == 0,
	}
	p.Subjects = some(t, 3, []uint32{1, 2, 3, 4})
	namespaced := p.Tier == api.Policy_TIER_NAMESPACE
	if namespaced {
		p.Ingress, p.Egress = rapid.Bool().Draw(t, "ingress"), rapid.Bool().Draw(t, "egress")
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "rules") {
		r := &api.PolicyRule{Name: fmt.Sprintf("r%d", i), Action: api.PolicyRule_ACTION_ALLOW}
		r.Direction = pick(t, api.PolicyRule_DIRECTION_INGRESS, api.PolicyRule_DIRECTION_EGRESS)
		peers := sets
		if r.Direction == api.PolicyRule_DIRECTION_INGRESS {
			peers = slices.DeleteFunc(slices.Clone(sets), func(id uint32) bool { return id > 8 })
		}
		switch {
		case !namespaced:
			r.Action = pick(t, api.PolicyRule_ACTION_ALLOW, api.PolicyRule_ACTION_DENY, api.PolicyRule_ACTION_PASS)
		case r.Direction == api.PolicyRule_DIRECTION_INGRESS && !p.Ingress,
			r.Direction == api.PolicyRule_DIRECTION_EGRESS && !p.Egress:
			continue
		}
		if r.AnyPeer = rapid.IntRange(0, 3).Draw(t, "any peer") == 0; !r.AnyPeer {
			r.Peers = some(t, 3, peers)
		}
		if r.AnyPort = rapid.IntRange(0, 2).Draw(t, "any port") == 0; !r.AnyPort {
			for range rapid.IntRange(0, 3).Draw(t, "ports") {
				r.Ports = append(r.Ports, genRange(t))
			}
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

// genSnapshot draws a snapshot; of was, about half is kept.
func genSnapshot(t *rapid.T, was *api.Snapshot) *api.Snapshot {
	s := proto.Clone(was).(*api.Snapshot)
	s.Epoch++
	keep := func() bool { return rapid.IntRange(0, 2).Draw(t, "keep") > 0 }
	s.Identities = redraw(t, s.Identities, allIDs, func(id uint32, was *api.Identity) *api.Identity {
		if was != nil && keep() {
			return was
		}
		return genIdentity(t, id)
	})
	ids := keysOf(s.Identities)
	s.PeerSets = redraw(t, s.PeerSets, []uint32{5, 6, 7, 8, 9, 10}, func(id uint32, was *api.PeerSet) *api.PeerSet {
		if was != nil && keep() {
			was.Identities = some(t, 5, ids)
			return was
		}
		return genSet(t, id, ids)
	})
	for id := uint32(1); id < 5; id++ { // subjects stay
		s.PeerSets = append(s.PeerSets, genSet(t, id, ids))
	}
	var policies []*api.Policy
	for i := range 6 {
		name := fmt.Sprintf("p%d", i)
		at := slices.IndexFunc(s.Policies, func(p *api.Policy) bool { return p.Name == name })
		if at >= 0 && keep() && !refersTo(s.Policies[at], was, s) {
			policies = append(policies, s.Policies[at])
		} else if keep() {
			policies = append(policies, genPolicy(t, name, keysOf(s.PeerSets)[4:]))
		}
	}
	s.Policies = policies
	genPrefixes(t, s, ids)
	s.Order()
	slices.SortFunc(s.Policies, func(a, b *api.Policy) int { return cmpStrings(a.Name, b.Name) })
	if keep() {
		s.Node = &api.NodeSettings{}
		for range rapid.IntRange(0, 1).Draw(t, "fail-safe") {
			r := &api.PortRange{Protocol: api.Protocol_PROTOCOL_TCP, First: 80, Last: 81}
			s.Node.FailSafeIngress, s.Node.FailSafeEgress = []*api.PortRange{r}, []*api.PortRange{r}
		}
	}
	return s
}
