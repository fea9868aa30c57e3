// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"cmp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// clusterTier is one of the two tiers of ClusterNetworkPolicies; nil: it does not decide.
func (t *traffic) clusterTier(tier policyv1.Tier, d direction, subject, peer end) *Decision {
	for _, policy := range t.cluster.inOrder(tier) {
		if !t.cluster.hasSubject(policy, subject) {
			continue
		}
		// "The relative precedence of ingress rules within a single CNP object (all of which share the priority) will be
		// determined by the order in which the rule is written." The same of egress.
		for _, r := range clusterRulesOf(policy, d) {
			why := string(d) + ": " + string(tier) + " " + policy.Name
			switch t.apply(r, peer) {
			case policyv1.ClusterNetworkPolicyRuleActionAccept:
				return &Decision{Allowed: true, Why: why} // "This is a final decision."
			case policyv1.ClusterNetworkPolicyRuleActionDeny:
				return &Decision{Why: why} // "This is a final decision."
			case policyv1.ClusterNetworkPolicyRuleActionPass:
				// "all the rules with lower precedence at the same tier will be ignored, but evaluation will continue at
				// the next tier"
				return nil
			}
		}
	}
	return nil
}

// inOrder are the policies of a tier: "Policies with lower priority values have higher precedence, and are checked
// before policies with higher priority values in the same tier." Of equals "the implementation can apply any"; it is
// the one whose name comes first.
func (c *Cluster) inOrder(tier policyv1.Tier) []*policyv1.ClusterNetworkPolicy {
	var list []*policyv1.ClusterNetworkPolicy
	for _, policy := range c.ClusterNetworkPolicies {
		if policy.Spec.Tier == tier {
			list = append(list, policy)
		}
	}
	slices.SortFunc(list, func(a, b *policyv1.ClusterNetworkPolicy) int {
		return cmp.Or(cmp.Compare(a.Spec.Priority, b.Spec.Priority), strings.Compare(a.Name, b.Name))
	})
	return list
}

// hasSubject: "Exactly one field must be set." Pods alone are subjects, and host-networked ones are not.
func (c *Cluster) hasSubject(policy *policyv1.ClusterNetworkPolicy, subject end) bool {
	s := policy.Spec.Subject
	return c.isNamespaced(s.Namespaces, s.Pods, subject)
}

// isNamespaced says whether a pod is selected "via namespace selectors", or "via namespace AND pod selectors".
func (c *Cluster) isNamespaced(namespaces *metav1.LabelSelector, pods *policyv1.NamespacedPod, e end) bool {
	if namespaces != nil {
		return c.selectsPods(*namespaces, metav1.LabelSelector{}, e)
	}
	return pods != nil && c.selectsPods(pods.NamespaceSelector, pods.PodSelector, e)
}

// clusterRule is a rule of either direction.
type clusterRule struct {
	action    policyv1.ClusterNetworkPolicyRuleAction
	peers     []policyv1.ClusterNetworkPolicyEgressPeer
	protocols []policyv1.ClusterNetworkPolicyProtocol
}

func clusterRulesOf(policy *policyv1.ClusterNetworkPolicy, d direction) (rules []clusterRule) {
	if d == egress {
		for _, r := range policy.Spec.Egress {
			rules = append(rules, clusterRule{r.Action, r.To, r.Protocols})
		}
		return rules
	}
	for _, r := range policy.Spec.Ingress {
		rule := clusterRule{action: r.Action, protocols: r.Protocols}
		for _, from := range r.From {
			rule.peers = append(rule.peers, policyv1.ClusterNetworkPolicyEgressPeer{
				Namespaces: from.Namespaces, Pods: from.Pods,
			})
		}
		rules = append(rules, rule)
	}
	return rules
}

// apply is what the rule does with the traffic; empty: nothing.
func (t *traffic) apply(r clusterRule, peer end) policyv1.ClusterNetworkPolicyRuleAction {
	if slices.ContainsFunc(r.peers, unknownPeer) {
		// "If an implementation sees no fields are set then it can infer that the deployed CRD is of an incompatible
		// version with an unknown field. In that case it should fail closed. For "Accept" rules, "fail closed" means:
		// "treat the rule as matching no traffic". For "Deny" and "Pass" rules, "fail closed" means: "treat the rule as
		// a 'Deny all' rule"."
		if r.action == policyv1.ClusterNetworkPolicyRuleActionAccept {
			return ""
		}
		return policyv1.ClusterNetworkPolicyRuleActionDeny
	}
	// "If any element matches the source of incoming traffic then the specified action is applied." "Protocols allows for
	// more fine-grain matching [...] If unspecified, protocol-specific attributes will not be used to match traffic."
	isPeer := slices.ContainsFunc(r.peers, func(p policyv1.ClusterNetworkPolicyEgressPeer) bool {
		return t.cluster.isClusterPeer(p, peer)
	})
	if isPeer && (len(r.protocols) == 0 || slices.ContainsFunc(r.protocols, t.isProtocol)) {
		return r.action
	}
	return ""
}

func unknownPeer(p policyv1.ClusterNetworkPolicyEgressPeer) bool {
	return p.Namespaces == nil && p.Pods == nil && p.Nodes == nil && len(p.Networks) == 0 && len(p.DomainNames) == 0
}

// isClusterPeer: "Exactly one of the fields must be set for a given peer".
func (c *Cluster) isClusterPeer(p policyv1.ClusterNetworkPolicyEgressPeer, peer end) bool {
	switch {
	case p.Namespaces != nil, p.Pods != nil:
		return c.isNamespaced(p.Namespaces, p.Pods, peer)
	case p.Nodes != nil:
		// "select a set of nodes in the cluster (based on the node's labels)"; "if present but empty, it selects all
		// Nodes"
		return peer.node != nil && selects(*p.Nodes, peer.node.Labels)
	case len(p.Networks) > 0:
		// "cluster-internal traffic will be checked against the rule as well"
		return slices.ContainsFunc(p.Networks, func(n policyv1.CIDR) bool { return holds(string(n), peer.address) })
	}
	return slices.ContainsFunc(p.DomainNames, func(n policyv1.DomainName) bool { return c.isNamed(n, peer) })
}

// isNamed: "DomainName can be an exact match, or use the wildcard specifier '*' to match one or more labels." Names of
// hosts are one whatever their case (RFC 4343), and the dot at the end says that they are whole (RFC 1034 3.1).
func (c *Cluster) isNamed(pattern policyv1.DomainName, e end) bool {
	want := strings.ToLower(strings.TrimSuffix(string(pattern), "."))
	suffix, wild := strings.CutPrefix(want, "*")
	for name, addresses := range c.Domains {
		// "`*.kubernetes.io` matches subdomains of kubernetes.io. [...] however "kubernetes.io" [...] do not"
		matches := name == want || wild && strings.HasSuffix(name, suffix)
		if matches && slices.Contains(addresses, e.address) {
			return true
		}
	}
	return false
}

// isProtocol: "Exactly one field must be set."
func (t *traffic) isProtocol(p policyv1.ClusterNetworkPolicyProtocol) bool {
	switch {
	case p.TCP != nil:
		return t.protocol == "TCP" && t.isDestinationPort(p.TCP.DestinationPort)
	case p.UDP != nil:
		return t.protocol == "UDP" && t.isDestinationPort(p.UDP.DestinationPort)
	case p.SCTP != nil:
		return t.protocol == "SCTP" && t.isDestinationPort(p.SCTP.DestinationPort)
	}
	return t.namedPort(p.DestinationNamedPort)
}

// isDestinationPort: "Port matches on port number. You must specify either Port or Range." "PortRange defines an
// inclusive range of ports". Without either the protocol's other attributes decide, of which there are none.
func (t *traffic) isDestinationPort(p *policyv1.Port) bool {
	switch {
	case p == nil:
		return true
	case p.Range != nil:
		return p.Range.Start <= int32(t.port) && int32(t.port) <= p.Range.End
	}
	return p.Number == int32(t.port)
}
