// SPDX-License-Identifier: Apache-2.0

package gen

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

func (d draw) clusterNetworkPolicy(i int) *policyv1.ClusterNetworkPolicy {
	p := &policyv1.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("cnp%d", i)}}
	p.Spec.Tier = policyv1.Tier(d.one("tier", "Admin", "Baseline"))
	p.Spec.Priority = int32(d.number("priority", 0, 2)) // equal ones too: the name decides
	p.Spec.Subject.Namespaces, p.Spec.Subject.Pods = d.selected()
	for range d.number("ingress rules", 0, 2) {
		p.Spec.Ingress = append(p.Spec.Ingress, d.clusterIngress())
	}
	for range d.number("egress rules", 0, 2) {
		p.Spec.Egress = append(p.Spec.Egress, d.clusterEgress())
	}
	return p
}

// selected are pods by namespaces alone, or by both.
func (d draw) selected() (*metav1.LabelSelector, *policyv1.NamespacedPod) {
	namespaces := d.namespaceSelector()
	if d.maybe("by namespaces") {
		return &namespaces, nil
	}
	return nil, &policyv1.NamespacedPod{NamespaceSelector: namespaces, PodSelector: d.selector("app", "tier")}
}

func (d draw) action(actions ...string) policyv1.ClusterNetworkPolicyRuleAction {
	return policyv1.ClusterNetworkPolicyRuleAction(d.one("action", actions...))
}

func (d draw) clusterIngress() policyv1.ClusterNetworkPolicyIngressRule {
	r := policyv1.ClusterNetworkPolicyIngressRule{Action: d.action("Accept", "Deny", "Pass")}
	for range d.number("peers", 1, 2) {
		var peer policyv1.ClusterNetworkPolicyIngressPeer
		if !d.unknown() {
			peer.Namespaces, peer.Pods = d.selected()
		}
		r.From = append(r.From, peer)
	}
	r.Protocols = d.clusterProtocols(true)
	return r
}

func (d draw) unknown() bool { return d.options.Unknown && d.seldom("unknown peer") }

func (d draw) clusterEgress() policyv1.ClusterNetworkPolicyEgressRule {
	r := policyv1.ClusterNetworkPolicyEgressRule{Action: d.action("Accept", "Deny", "Pass")}
	pods := true
	for range d.number("peers", 1, 2) {
		peer := d.clusterPeer(r.Action)
		pods = pods && (peer.Namespaces != nil || peer.Pods != nil)
		r.To = append(r.To, peer)
	}
	// "networks/nodes/domainNames peer cannot be set with namedPorts"
	r.Protocols = d.clusterProtocols(pods)
	return r
}

func (d draw) clusterPeer(action policyv1.ClusterNetworkPolicyRuleAction) (p policyv1.ClusterNetworkPolicyEgressPeer) {
	kinds := []string{"pods", "pods", "nodes", "networks"}
	if d.options.Domains && action == policyv1.ClusterNetworkPolicyRuleActionAccept {
		kinds = append(kinds, "domains") // "DomainNames is only supported for Accept rules."
	}
	if d.unknown() {
		return p
	}
	switch d.one("peer", kinds...) {
	case "pods":
		p.Namespaces, p.Pods = d.selected()
	case "nodes":
		nodes := d.selector("app", "tier")
		p.Nodes = &nodes
	case "networks":
		for range d.number("networks", 1, 2) {
			block := blocks[d.number("network", 0, len(blocks)-1)]
			cidr := policyv1.CIDR(d.one("CIDR", append([]string{block.CIDR}, block.Except...)...))
			if !slices.Contains(p.Networks, cidr) { // it is a set
				p.Networks = append(p.Networks, cidr)
			}
		}
	case "domains":
		for _, name := range d.some("domains", "example.com", "*.example.com", "A.example.com.", "*.a.example.com") {
			p.DomainNames = append(p.DomainNames, policyv1.DomainName(name))
		}
	}
	return p
}

func (d draw) clusterProtocols(named bool) (list []policyv1.ClusterNetworkPolicyProtocol) {
	kinds := protocols
	if named {
		kinds = append([]string{"name"}, kinds...)
	}
	for range d.number("protocols", 0, 2) {
		var p policyv1.ClusterNetworkPolicyProtocol
		switch d.one("protocol", kinds...) {
		case "TCP":
			p.TCP = &policyv1.ClusterNetworkPolicyProtocolTCP{DestinationPort: d.clusterPort()}
		case "UDP":
			p.UDP = &policyv1.ClusterNetworkPolicyProtocolUDP{DestinationPort: d.clusterPort()}
		case "SCTP":
			p.SCTP = &policyv1.ClusterNetworkPolicyProtocolSCTP{DestinationPort: d.clusterPort()}
		default:
			p.DestinationNamedPort = d.one("port name", portNames...)
		}
		list = append(list, p)
	}
	return list
}

func (d draw) clusterPort() *policyv1.Port {
	if d.maybe("number") {
		return &policyv1.Port{Number: int32(d.number("port", firstPort, lastPort))}
	}
	start := d.number("start", firstPort, lastPort-1) // "The Start value must be less than End."
	return &policyv1.Port{Range: &policyv1.PortRange{Start: int32(start), End: int32(d.number("end", start+1, lastPort))}}
}
