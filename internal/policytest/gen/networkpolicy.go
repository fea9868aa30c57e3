// SPDX-License-Identifier: Apache-2.0

package gen

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func (d draw) networkPolicy(i int) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{
		Namespace: d.one("policy namespace", namespaceNames...), Name: fmt.Sprintf("np%d", i),
	}}
	p.Spec.PodSelector = d.selector("app", "tier")
	for _, t := range d.someOf("policyTypes", 0, "Ingress", "Egress") {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyType(t))
	}
	for range d.number("ingress rules", 0, 2) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: d.peers(), Ports: d.ports()})
	}
	for range d.number("egress rules", 0, 2) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: d.peers(), Ports: d.ports()})
	}
	return p
}

// selector is over the keys; the first may be asked for as all labels are, the others by expressions.
func (d draw) selector(keys ...string) metav1.LabelSelector {
	s := metav1.LabelSelector{}
	switch d.one("selector", "empty", "labels", "labels", "expression", "both") {
	case "labels":
		s.MatchLabels = map[string]string{d.one("key", keys...): d.value()}
	case "expression":
		s.MatchExpressions = []metav1.LabelSelectorRequirement{d.requirement(keys)}
	case "both":
		s.MatchLabels = map[string]string{d.one("key", keys...): d.value()}
		s.MatchExpressions = []metav1.LabelSelectorRequirement{d.requirement(keys), d.requirement(keys)}
	}
	return s
}

func (d draw) value() string { return d.one("value", "a", "b", "x", "") }

func (d draw) requirement(keys []string) metav1.LabelSelectorRequirement {
	r := metav1.LabelSelectorRequirement{Key: d.one("key", keys...)}
	r.Operator = metav1.LabelSelectorOperator(d.one("operator", "In", "NotIn", "Exists", "DoesNotExist"))
	if r.Operator == metav1.LabelSelectorOpIn || r.Operator == metav1.LabelSelectorOpNotIn {
		r.Values = d.some("values", "a", "b", "x", "")
	}
	return r
}

func (d draw) namespaceSelector() metav1.LabelSelector {
	return d.selector(corev1.LabelMetadataName, "app", "tier")
}

func (d draw) peers() (list []networkingv1.NetworkPolicyPeer) {
	for range d.number("peers", 0, 2) {
		list = append(list, d.peer())
	}
	return list
}

func (d draw) peer() (p networkingv1.NetworkPolicyPeer) {
	kind := d.one("peer", "pods", "namespaces", "both", "block")
	if kind == "pods" || kind == "both" {
		s := d.selector("app", "tier")
		p.PodSelector = &s
	}
	if kind == "namespaces" || kind == "both" {
		s := d.namespaceSelector()
		p.NamespaceSelector = &s
	}
	if kind == "block" {
		p.IPBlock = d.block()
	}
	return p
}

// blocks are those of the cluster and of the world outside, each with some that lie in it.
var blocks = []networkingv1.IPBlock{
	{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8", "203.0.113.0/25", "192.0.2.1/32"}},
	{CIDR: "10.244.0.0/16", Except: []string{"10.244.1.0/24", "10.244.1.10/31", "10.244.2.11/32"}},
	{CIDR: "203.0.113.0/24", Except: []string{"203.0.113.64/26", "203.0.113.7/32"}},
	{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.2/32"}},
	{CIDR: "::/0", Except: []string{"fd00::/8", "2001:db8:2::/48"}},
	{CIDR: "fd00:244::/32", Except: []string{"fd00:244:1::/64", "fd00:244:2::11/128"}},
	{CIDR: "2001:db8::/32", Except: []string{"2001:db8:2::1/128", "2001:db8::/112"}},
}

func (d draw) block() *networkingv1.IPBlock {
	of := blocks[d.number("block", 0, len(blocks)-1)]
	block := &networkingv1.IPBlock{CIDR: of.CIDR}
	if d.maybe("except") {
		block.Except = d.some("excepted", of.Except...)
	}
	return block
}

func (d draw) ports() (list []networkingv1.NetworkPolicyPort) {
	for range d.number("ports", 0, 2) {
		list = append(list, d.policyPort())
	}
	return list
}

func (d draw) policyPort() (p networkingv1.NetworkPolicyPort) {
	if name := d.one("protocol", append([]string{""}, protocols...)...); name != "" {
		protocol := corev1.Protocol(name)
		p.Protocol = &protocol
	}
	switch d.one("kind of port", "all", "number", "number", "range", "name", "name") {
	case "number":
		port := intstr.FromInt32(int32(d.number("port", firstPort, lastPort)))
		p.Port = &port
	case "range":
		first := d.number("first", firstPort, lastPort)
		last := int32(d.number("last", first, lastPort))
		port := intstr.FromInt32(int32(first))
		p.Port, p.EndPort = &port, &last
	case "name":
		port := intstr.FromString(d.one("port name", portNames...))
		p.Port = &port
	}
	return p
}
