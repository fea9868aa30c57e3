// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
)

// Policies describes the policies of a snapshot for which wanted is true, in the order in which they are judged.
func Policies(s *controlapi.Snapshot, wanted func(*api.Policy) bool) []*api.Policy {
	sets := make(map[uint32]*controlapi.PeerSet, len(s.GetPeerSets()))
	for _, set := range s.GetPeerSets() {
		sets[set.GetId()] = set
	}
	order := slices.SortedFunc(slices.Values(s.GetPolicies()), func(a, b *controlapi.Policy) int {
		return cmp.Or(cmp.Compare(a.GetTier(), b.GetTier()), cmp.Compare(a.GetPriority(), b.GetPriority()),
			strings.Compare(a.GetName(), b.GetName()))
	})
	var list []*api.Policy
	for _, p := range order {
		if d := describe(s, sets, p); wanted(d) {
			list = append(list, d)
		}
	}
	return list
}

func describe(s *controlapi.Snapshot, sets map[uint32]*controlapi.PeerSet, p *controlapi.Policy) *api.Policy {
	d := &api.Policy{
		Name: p.GetName(), Tier: lower(p.GetTier().String(), "TIER_"), Priority: p.GetPriority(), Staged: p.GetStaged(),
	}
	if p.GetIngress() {
		d.Isolates = append(d.Isolates, "ingress")
	}
	if p.GetEgress() {
		d.Isolates = append(d.Isolates, "egress")
	}
	if i := int(p.GetOrigin()); i < len(s.GetOrigins()) {
		d.Origin = s.GetOrigins()[i]
	}
	for _, id := range p.GetSubjects() {
		d.Subjects = append(d.Subjects, sets[id].GetIdentities()...)
	}
	slices.Sort(d.Subjects)
	d.Subjects = slices.Compact(d.Subjects)
	for _, r := range p.GetRules() {
		rule := &api.PolicyRule{
			Name: r.GetName(), Direction: lower(r.GetDirection().String(), "DIRECTION_"),
			Action: lower(r.GetAction().String(), "ACTION_"),
		}
		if !r.GetAnyPeer() {
			rule.Peers = append(rule.Peers, peers(sets, r.GetPeers())...)
		}
		if !r.GetAnyPort() {
			for _, port := range r.GetPorts() {
				rule.Ports = append(rule.Ports, portText(port))
			}
		}
		d.Rules = append(d.Rules, rule)
	}
	return d
}

func lower(enum, prefix string) string { return strings.ToLower(strings.TrimPrefix(enum, prefix)) }

// mostPeers is how many identities of a set are listed; of the others there is the number.
const mostPeers = 8

// peers says of whom sets consist. Of a rule that has none nobody is a peer.
func peers(sets map[uint32]*controlapi.PeerSet, ids []uint32) (list []string) {
	for _, id := range ids {
		set := sets[id]
		if members := set.GetIdentities(); len(members) > 0 {
			text := strings.Trim(fmt.Sprint(members[:min(len(members), mostPeers)]), "[]")
			if more := len(members) - mostPeers; more > 0 {
				text += fmt.Sprintf(" and %d more", more)
			}
			list = append(list, "identities "+text)
		}
		for _, b := range set.GetBlocks() {
			list = append(list, block(b))
		}
		list = append(list, set.GetDomains()...)
	}
	if len(list) == 0 {
		list = append(list, "nobody")
	}
	return list
}

func block(b *controlapi.PrefixSet) string {
	text := prefix(b.GetPrefix())
	for i, e := range b.GetExcept() {
		text += map[bool]string{true: " except ", false: " "}[i == 0] + prefix(e)
	}
	return text
}

func prefix(p *controlapi.Prefix) string {
	a, _ := netip.AddrFromSlice(p.GetAddress())
	return netip.PrefixFrom(a, int(p.GetBits())).String()
}

func portText(r *controlapi.PortRange) string {
	protocol := strings.TrimPrefix(r.GetProtocol().String(), "PROTOCOL_")
	switch {
	case r.GetName() != "":
		return protocol + " " + r.GetName()
	case r.GetFirst() == 0 && r.GetLast() == 0xffff:
		return protocol
	case r.GetFirst() == r.GetLast():
		return fmt.Sprintf("%s %d", protocol, r.GetFirst())
	}
	return fmt.Sprintf("%s %d-%d", protocol, r.GetFirst(), r.GetLast())
}
