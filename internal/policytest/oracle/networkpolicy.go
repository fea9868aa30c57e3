// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// networkPolicyTier is the tier of NetworkPolicies; nil: it does not decide.
//
// "v1.NetworkPolicy always makes a final decision for selected pods. Further evaluation only happens for Pods not
// selected by a v1.NetworkPolicy." Selected is here by direction: [concepts] "There are two sorts of isolation for a
// pod: isolation for egress, and isolation for ingress. [...] The two sorts of isolation (or not) are declared
// independently".
func (t *traffic) networkPolicyTier(d direction, subject, peer end) *Decision {
	var selecting []*networkingv1.NetworkPolicy
	for _, policy := range t.cluster.NetworkPolicies {
		if affects(policy, d) && appliesTo(policy, subject) {
			selecting = append(selecting, policy)
		}
	}
	if len(selecting) == 0 {
		// "Traffic is allowed to a pod if there are no NetworkPolicies selecting the pod (and cluster policy otherwise
		// allows the traffic)"; the same words for egress.
		return nil
	}
	if subject.runsOn(peer.node) {
		// "OR if the traffic source is the pod's local node"; for both directions, [concepts]: "traffic to and from the
		// node where a Pod is running is always allowed, regardless of the IP address of the Pod or the node".
		return &Decision{Allowed: true, Why: string(d) + ": the pod's own node"}
	}
	// "OR if the traffic matches at least one ingress rule across all of the NetworkPolicy objects whose podSelector
	// matches the pod"; the same words for egress.
	for _, policy := range selecting {
		for _, r := range rulesOf(policy, d) {
			if t.matches(policy, r, peer) {
				return &Decision{Allowed: true, Why: string(d) + ": allowed by " + nameOf(policy)}
			}
		}
	}
	return &Decision{Why: string(d) + ": isolated by " + nameOf(selecting[0])}
}

func nameOf(policy *networkingv1.NetworkPolicy) string {
	return "NetworkPolicy " + policy.Namespace + "/" + policy.Name
}

// affects says whether the policy is one for that direction.
func affects(policy *networkingv1.NetworkPolicy, d direction) bool {
	if len(policy.Spec.PolicyTypes) > 0 {
		// "policyTypes is a list of rule types that the NetworkPolicy relates to."
		want := networkingv1.PolicyTypeIngress
		if d == egress {
			want = networkingv1.PolicyTypeEgress
		}
		return slices.Contains(policy.Spec.PolicyTypes, want)
	}
	// "If this field is not specified, it will default based on the existence of ingress or egress rules; policies that
	// contain an egress section are assumed to affect egress, and all policies (whether or not they contain an ingress
	// section) are assumed to affect ingress."
	return d == ingress || len(policy.Spec.Egress) > 0
}

// appliesTo: "podSelector selects the pods to which this NetworkPolicy object applies. [...] An empty selector matches
// all pods in the policy's namespace."
func appliesTo(policy *networkingv1.NetworkPolicy, subject end) bool {
	return subject.pod.Namespace == policy.Namespace && selects(policy.Spec.PodSelector, subject.pod.Labels)
}

// rule is a rule of either direction.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

func rulesOf(policy *networkingv1.NetworkPolicy, d direction) (rules []rule) {
	if d == ingress {
		for _, r := range policy.Spec.Ingress {
			rules = append(rules, rule{r.From, r.Ports})
		}
		return rules
	}
	for _, r := range policy.Spec.Egress {
		rules = append(rules, rule{r.To, r.Ports})
	}
	return rules
}

// matches: "The traffic must match both ports and from." "Items in this list are combined using a logical OR operation.
// If this field is empty or missing, this rule matches all sources (traffic not restricted by source)." The same of
// destinations, and of ports.
func (t *traffic) matches(policy *networkingv1.NetworkPolicy, r rule, peer end) bool {
	fromPeer, atPort := len(r.peers) == 0, len(r.ports) == 0
	for _, p := range r.peers {
		fromPeer = fromPeer || t.cluster.isPeer(policy, p, peer)
	}
	for _, p := range r.ports {
		atPort = atPort || t.isPort(p)
	}
	return fromPeer && atPort
}

func (c *Cluster) isPeer(policy *networkingv1.NetworkPolicy, p networkingv1.NetworkPolicyPeer, peer end) bool {
	if p.IPBlock != nil {
		// "If this field is set then neither of the other fields can be." "except is a slice of CIDRs that should not be
		// included within an IPBlock". Nothing says that the addresses of pods are in no block.
		in := holds(p.IPBlock.CIDR, peer.address)
		for _, except := range p.IPBlock.Except {
			in = in && !holds(except, peer.address)
		}
		return in
	}
	pods := metav1.LabelSelector{}
	if p.PodSelector != nil {
		pods = *p.PodSelector
	} // "Otherwise it selects all pods in the namespaces selected by namespaceSelector."
	if p.NamespaceSelector != nil {
		// "If namespaceSelector is also set, then the NetworkPolicyPeer as a whole selects the pods matching podSelector
		// in the Namespaces selected by NamespaceSelector."
		return c.selectsPods(*p.NamespaceSelector, pods, peer)
	}
	// "Otherwise it selects the pods matching podSelector in the policy's own namespace."
	return peer.pod != nil && peer.pod.Namespace == policy.Namespace && selects(pods, peer.pod.Labels)
}

func (t *traffic) isPort(p networkingv1.NetworkPolicyPort) bool {
	protocol := corev1.ProtocolTCP // "If not specified, this field defaults to TCP."
	if p.Protocol != nil {
		protocol = *p.Protocol
	}
	switch {
	case protocol != t.protocol:
		return false // "only traffic on the specified protocol AND port will be matched"
	case p.Port == nil:
		return true // "If this field is not provided, this matches all port names and numbers."
	case p.Port.Type == intstr.String:
		return t.namedPort(p.Port.StrVal) // "This can either be a numerical or named port on a pod."
	case p.EndPort != nil:
		// "endPort indicates that the range of ports from port to endPort if set, inclusive, should be allowed"
		return p.Port.IntVal <= int32(t.port) && int32(t.port) <= *p.EndPort
	}
	return p.Port.IntVal == int32(t.port)
}
