// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
)

// InvalidError says what of a snapshot or a delta is at fault.
type InvalidError = identity.InvalidError

func invalid(origin uint32, field, reason string, args ...any) error {
	return &InvalidError{Origin: origin, Field: field, Reason: fmt.Sprintf(reason, args...)}
}

// checkSet refuses a set that says what cannot be. Whether its identities exist is looked at where it is entered.
func checkSet(field string, s *api.PeerSet) error {
	if s.GetId() == 0 {
		return invalid(0, field+".id", "0 is no peer set")
	}
	if i := unordered(s.GetIdentities()); i != 0 {
		return invalid(0, fmt.Sprintf("%s.identities[%d]", field, i), "is not in ascending order")
	}
	for i, b := range s.GetBlocks() {
		if err := checkBlock(fmt.Sprintf("%s.blocks[%d]", field, i), b); err != nil {
			return err
		}
	}
	for i, d := range s.GetDomains() {
		if reason := names.CheckPattern(d); reason != "" {
			return invalid(0, fmt.Sprintf("%s.domains[%d]", field, i), "%q %s", d, reason)
		}
	}
	return nil
}

func checkBlock(field string, b *api.PrefixSet) error {
	p, reason := identity.Parse(b.GetPrefix())
	if reason != "" {
		return invalid(0, field+".prefix", "%s", reason)
	}
	for i, except := range b.GetExcept() {
		var e netip.Prefix
		if e, reason = identity.Parse(except); reason == "" && (e.Bits() < p.Bits() || !p.Contains(e.Addr())) {
			reason = fmt.Sprintf("%s is not inside %s", e, p)
		}
		if reason != "" {
			return invalid(0, fmt.Sprintf("%s.except[%d]", field, i), "%s", reason)
		}
	}
	return nil
}

// unordered returns the first place at which a list does not grow, 0 if it does everywhere.
func unordered(list []uint32) int {
	for i := 1; i < len(list); i++ {
		if list[i-1] >= list[i] {
			return i
		}
	}
	return 0
}

// checkPolicy refuses a policy that says what cannot be, or what would have no effect.
func (b *builder) checkPolicy(field string, p *api.Policy) error {
	switch isolates := p.GetIngress() || p.GetEgress(); {
	case p.GetName() == "":
		return invalid(p.GetOrigin(), field+".name", "is empty")
	case p.GetTier() < api.Policy_TIER_ADMIN || p.GetTier() > api.Policy_TIER_BASELINE:
		return invalid(p.GetOrigin(), field+".tier", "%d is not known", p.GetTier())
	case isolates && p.GetTier() != api.Policy_TIER_NAMESPACE:
		return invalid(p.GetOrigin(), field+".tier", "only policies of the Namespace tier isolate")
	}
	for i, id := range p.GetSubjects() {
		at := fmt.Sprintf("%s.subjects[%d]", field, i)
		s := b.set(id)
		if s == nil {
			return invalid(p.GetOrigin(), at, "there is no peer set %d", id)
		}
		if len(s.config.GetBlocks())+len(s.config.GetDomains()) > 0 {
			return invalid(p.GetOrigin(), at, "peer set %d is not of identities alone", id)
		}
	}
	for i, r := range p.GetRules() {
		if err := b.checkRule(fmt.Sprintf("%s.rules[%d]", field, i), p, r); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) checkRule(field string, p *api.Policy, r *api.PolicyRule) error {
	isolated := r.GetDirection() == ingress && p.GetIngress() || r.GetDirection() == egress && p.GetEgress()
	namespaced := p.GetTier() == api.Policy_TIER_NAMESPACE
	switch {
	case r.GetDirection() != ingress && r.GetDirection() != egress:
		return invalid(p.GetOrigin(), field+".direction", "%d is not known", r.GetDirection())
	case r.GetAction() < api.PolicyRule_ACTION_ALLOW || r.GetAction() > api.PolicyRule_ACTION_PASS:
		return invalid(p.GetOrigin(), field+".action", "%d is not known", r.GetAction())
	case namespaced && !isolated:
		return invalid(p.GetOrigin(), field+".direction", "the policy does not isolate this direction")
	case namespaced && r.GetAction() != api.PolicyRule_ACTION_ALLOW:
		return invalid(p.GetOrigin(), field+".action", "rules of the Namespace tier only allow")
	case r.GetAnyPeer() && len(r.GetPeers()) > 0:
		return invalid(p.GetOrigin(), field+".peers", "every peer matches already")
	case r.GetAnyPort() && len(r.GetPorts()) > 0:
		return invalid(p.GetOrigin(), field+".ports", "every port matches already")
	}
	if i := unordered(r.GetPeers()); i != 0 {
		return invalid(p.GetOrigin(), fmt.Sprintf("%s.peers[%d]", field, i), "is not in ascending order")
	}
	for i, id := range r.GetPeers() {
		at := fmt.Sprintf("%s.peers[%d]", field, i)
		switch s := b.set(id); {
		case s == nil:
			return invalid(p.GetOrigin(), at, "there is no peer set %d", id)
		case r.GetDirection() == ingress && len(s.config.GetDomains()) > 0:
			return invalid(p.GetOrigin(), at, "peer set %d has domain names, which sources are not known by", id)
		}
	}
	for i, ports := range r.GetPorts() {
		if part, reason := checkRange(ports); reason != "" {
			return invalid(p.GetOrigin(), fmt.Sprintf("%s.ports[%d].%s", field, i, part), "%s", reason)
		}
	}
	return nil
}

// checkRange says which part of a range cannot be.
func checkRange(r *api.PortRange) (part, reason string) {
	p := r.GetProtocol()
	if _, known := api.Protocol_name[int32(p)]; !known {
		return "protocol", fmt.Sprintf("%d is not known", p)
	}
	without := p != api.Protocol_PROTOCOL_ANY && !hasPorts(p)
	switch {
	case r.GetName() != "" && (r.GetFirst() != 0 || r.GetLast() != 0):
		return "name", "is there beside numbers"
	case r.GetName() != "" && without:
		return "name", fmt.Sprintf("protocol %d has no ports", p)
	case r.GetName() != "":
		return "", ""
	case r.GetLast() > 0xffff:
		return "last", fmt.Sprintf("%d is more than 65535", r.GetLast())
	case r.GetFirst() > r.GetLast():
		return "first", fmt.Sprintf("%d is more than the last, %d", r.GetFirst(), r.GetLast())
	case without && !whole(r):
		return "protocol", fmt.Sprintf("%d has no ports", p)
	}
	return "", ""
}

// checkIdentity refuses numbers that are too large, and names of ports that no port has.
func checkIdentity(field string, id *api.Identity) error {
	if id.GetId() > maxIdentity {
		return invalid(0, field+".id", "%d is more than %d", id.GetId(), maxIdentity)
	}
	for i, p := range id.GetNamedPorts() {
		at := fmt.Sprintf("%s.named_ports[%d]", field, i)
		switch {
		case p.GetName() == "":
			return invalid(0, at+".name", "is empty")
		case !hasPorts(p.GetProtocol()):
			return invalid(0, at+".protocol", "%d has no ports", p.GetProtocol())
		case p.GetPort() == 0 || p.GetPort() > 0xffff:
			return invalid(0, at+".port", "%d is not from 1 to 65535", p.GetPort())
		}
	}
	return nil
}

// checkFailSafe refuses fail-safe ports that the node has not by number.
func checkFailSafe(node *api.NodeSettings) error {
	for field, list := range map[string][]*api.PortRange{
		"node.fail_safe_ingress": node.GetFailSafeIngress(), "node.fail_safe_egress": node.GetFailSafeEgress(),
	} {
		for i, r := range list {
			part, reason := checkRange(r)
			if r.GetName() != "" {
				part, reason = "name", "a node has no names for ports"
			}
			if reason != "" {
				return invalid(node.GetOrigin(), fmt.Sprintf("%s[%d].%s", field, i, part), "%s", reason)
			}
		}
	}
	return nil
}
