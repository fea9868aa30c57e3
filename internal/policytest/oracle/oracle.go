// SPDX-License-Identifier: Apache-2.0

// Package oracle says what policy means: an evaluator written from the text of the API alone, on the Kubernetes objects
// as they are. It has no index and keeps nothing, so that it can be read beside the text; it shares nothing with what
// it is there to test.
//
// What is quoted is the text. Without a source it is the comments of k8s.io/api/networking/v1 and of
// sigs.k8s.io/network-policy-api/apis/v1alpha2; [concepts] is
// https://kubernetes.io/docs/concepts/services-networking/network-policies/.
//
// oracle.go is the walk through the tiers, networkpolicy.go and clusternetworkpolicy.go are the two kinds, ends.go says
// who has an address, and match.go what a selector and a block hold.
package oracle

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Cluster is all that a verdict depends on.
type Cluster struct {
	Namespaces             []*corev1.Namespace
	Pods                   []*corev1.Pod
	Nodes                  []*corev1.Node
	NetworkPolicies        []*networkingv1.NetworkPolicy
	ClusterNetworkPolicies []*policyv1.ClusterNetworkPolicy
	// Domains are the addresses of names, in lower case and without a dot at their end.
	Domains map[string][]netip.Addr
}

// Verdict is whether a connection may be opened: both its ends have to agree.
type Verdict struct {
	Allowed         bool
	Why             string // of the end that denies, or of both
	Egress, Ingress Decision
}

// Decision is that of one end.
type Decision struct {
	Allowed bool
	Why     string
}

// Judge says whether from may open a connection to a port of to.
func Judge(c *Cluster, from, to netip.Addr, protocol corev1.Protocol, port uint16) Verdict {
	a, b := c.endOf(from), c.endOf(to)
	if a.pod != nil && a.pod == b.pod {
		// [concepts] "a pod cannot block access to itself"
		self := Decision{Allowed: true, Why: "a pod to itself"}
		return Verdict{Allowed: true, Why: self.Why, Egress: self, Ingress: self}
	}
	t := &traffic{cluster: c, destination: b, protocol: protocol, port: port}
	v := Verdict{Egress: t.judge(egress, a, b), Ingress: t.judge(ingress, b, a)}
	// [concepts] "For a connection from a source pod to a destination pod to be allowed, both the egress policy on the
	// source pod and the ingress policy on the destination pod need to allow the connection. If either side does not
	// allow the connection, it will not happen."
	v.Allowed = v.Egress.Allowed && v.Ingress.Allowed
	switch {
	case !v.Egress.Allowed:
		v.Why = v.Egress.Why
	case !v.Ingress.Allowed:
		v.Why = v.Ingress.Why
	default:
		v.Why = v.Egress.Why + "; " + v.Ingress.Why
	}
	return v
}

// direction is seen from the end that is judged.
type direction string

const (
	ingress direction = "ingress"
	egress  direction = "egress"
)

// traffic is a connection that is to be opened.
type traffic struct {
	cluster     *Cluster
	destination end
	protocol    corev1.Protocol
	port        uint16
}

// judge is the decision of one end, the subject, about traffic with its peer.
func (t *traffic) judge(d direction, subject, peer end) Decision {
	if subject.pod == nil {
		// "NetworkPolicy describes what network traffic is allowed for a set of Pods"; "Subject defines the pods to
		// which this ClusterNetworkPolicy applies."
		return Decision{Allowed: true, Why: string(d) + ": no pod"}
	}
	// "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline tier"
	if made := t.clusterTier(policyv1.AdminTier, d, subject, peer); made != nil {
		return *made
	}
	if made := t.networkPolicyTier(d, subject, peer); made != nil {
		return *made
	}
	if made := t.clusterTier(policyv1.BaselineTier, d, subject, peer); made != nil {
		return *made
	}
	// "If a given connection wasn't allowed or denied by any of the tiers, the default kubernetes policy is applied,
	// which says that all pods can communicate with each other."
	return Decision{Allowed: true, Why: string(d) + ": no policy decides"}
}
