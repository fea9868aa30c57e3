// SPDX-License-Identifier: Apache-2.0

package model

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxRulePairs bounds the pairs of a peer and a port of a policy's rules, the prefixes of a rule being one peer: the
// dataplane has memory for each, of each set of pods that policies tell apart. A ClusterNetworkPolicy has 31,250 at
// most.
const maxRulePairs = 1 << 15

// networkPolicyOf reads a NetworkPolicy, with the meaning that the text of its API gives each field.
func networkPolicyOf(c *checker, from *networkingv1.NetworkPolicy) *Policy {
	namespace := from.Namespace
	if namespace == "" {
		namespace = "default"
	}
	p := &Policy{Tier: TierNamespace}
	p.Staged, _ = c.annotations(from.Annotations, stagedAnnotation)
	c.within("spec", func() {
		p.Subject = Peer{Namespace: intern(namespace), Selector: c.selector("podSelector", &from.Spec.PodSelector)}
		p.Ingress, p.Egress = c.policyTypes(&from.Spec)
		for i, rule := range from.Spec.Ingress {
			c.within(index("ingress", i), func() {
				r := c.allow(namespace, "from", rule.From, rule.Ports)
				r.Name = rulePath("ingress", i, "")
				p.Rules = append(p.Rules, r)
			})
		}
		for i, rule := range from.Spec.Egress {
			c.within(index("egress", i), func() {
				r := c.allow(namespace, "to", rule.To, rule.Ports)
				r.Name, r.Egress = rulePath("egress", i, ""), true
				p.Rules = append(p.Rules, r)
			})
		}
	})
	pairs := 0
	for i := range p.Rules {
		pairs += len(p.Rules[i].Peers) * max(len(p.Rules[i].Ports), 1)
	}
	c.check(pairs <= maxRulePairs, "spec", "its rules have %d pairs of a peer and a port, more than %d: "+
		"say ranges of ports (endPort), or selectors that select more", pairs, maxRulePairs)
	// Rules of a direction that the policy does not relate to say nothing.
	p.Rules = slices.DeleteFunc(p.Rules, func(r PolicyRule) bool {
		return r.Egress && !p.Egress || !r.Egress && !p.Ingress
	})
	return p
}

// policyTypes are the directions that the policy relates to. Where it does not say: ingress always, egress where it has
// rules for it.
func (c *checker) policyTypes(s *networkingv1.NetworkPolicySpec) (ingress, egress bool) {
	if len(s.PolicyTypes) == 0 {
		return true, len(s.Egress) > 0
	}
	for i, t := range s.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			ingress = true
		case networkingv1.PolicyTypeEgress:
			egress = true
		default:
			c.check(false, index("policyTypes", i), "%q is not one of Ingress, Egress", t)
		}
	}
	return ingress, egress
}

// allow reads a rule: no peers are all peers, and no ports are all ports.
func (c *checker) allow(
	namespace, list string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort,
) PolicyRule {
	r := PolicyRule{Any: len(peers) == 0}
	blocks := Peer{Kind: Blocks}
	for i := range peers {
		c.within(index(list, i), func() { c.networkPeer(&r, &blocks, namespace, &peers[i]) })
	}
	if blocks.ordered(); len(blocks.Blocks) > 0 {
		r.Peers = append(r.Peers, blocks)
	}
	for i := range ports {
		c.within(index("ports", i), func() { r.Ports = append(r.Ports, c.networkPort(&ports[i])) })
	}
	return r
}

func (c *checker) networkPeer(r *PolicyRule, blocks *Peer, namespace string, from *networkingv1.NetworkPolicyPeer) {
	pods, namespaces := from.PodSelector != nil, from.NamespaceSelector != nil
	switch {
	case from.IPBlock != nil:
		c.check(!pods && !namespaces, "ipBlock", "excludes podSelector and namespaceSelector")
		c.within("ipBlock", func() { blocks.Blocks = append(blocks.Blocks, c.ipBlock(from.IPBlock)) })
	case namespaces:
		r.Peers = append(r.Peers, Peer{Namespaces: c.selector("namespaceSelector", from.NamespaceSelector),
			Selector: c.selector("podSelector", from.PodSelector)})
	case pods:
		r.Peers = append(r.Peers,
			Peer{Namespace: intern(namespace), Selector: c.selector("podSelector", from.PodSelector)})
	default: // from an API server it is of a kind that came later: nobody matches it
		c.check(c.served, "", "needs podSelector, namespaceSelector or ipBlock")
	}
}

func (c *checker) ipBlock(from *networkingv1.IPBlock) Block {
	b := Block{Prefix: c.block("cidr", from.CIDR)}
	for i, text := range from.Except {
		e := c.block(index("except", i), text)
		inside := b.Prefix.Bits() < e.Bits() && b.Prefix.Contains(e.Addr())
		c.check(inside, index("except", i), "%s is not inside %s", text, from.CIDR)
		b.Except = append(b.Except, e)
	}
	slices.SortFunc(b.Except, comparePrefixes)
	b.Except = slices.Compact(b.Except)
	return b
}

// networkPort reads a port of a rule: without a number all of the protocol, which is TCP where none is said.
func (c *checker) networkPort(from *networkingv1.NetworkPolicyPort) PortRange {
	r := everyPort("TCP")
	if from.Protocol != nil {
		r.Protocol = c.oneOf("protocol", string(*from.Protocol), protocols...)
	}
	switch {
	case from.Port == nil:
		c.check(from.EndPort == nil, "endPort", "needs port")
		return r
	case from.Port.Type == intstr.String:
		c.check(from.EndPort == nil, "endPort", "excludes a port with a name")
		return PortRange{Protocol: r.Protocol, Name: c.portName("port", from.Port.StrVal)}
	}
	first := c.between("port", int64(from.Port.IntVal), 1, maxPort)
	r.First, r.Last = uint16(first), uint16(first)
	if from.EndPort != nil {
		last := c.between("endPort", int64(*from.EndPort), 1, maxPort)
		c.check(last >= first, "endPort", "%d is less than port, %d", last, first)
		r.Last = uint16(last)
	}
	return r
}
