// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// end is an address, and who has it: a pod, a node, or, with neither, somebody outside.
type end struct {
	address netip.Addr
	pod     *corev1.Pod
	node    *corev1.Node
}

func (c *Cluster) endOf(address netip.Addr) end {
	e := end{address: address}
	for _, pod := range c.Pods {
		if hasOwnAddress(pod) && podHas(pod, address) {
			e.pod = pod
		}
	}
	for _, node := range c.Nodes {
		if nodeHas(node, address) {
			e.node = node
		}
	}
	return e
}

// hasOwnAddress says whether what comes from the pod's address comes from the pod.
//
// "host-networked pods are not included in subject selection", and "not included in this type of peer". For
// NetworkPolicy, of the two behaviours that [concepts] leaves: "The network plugin cannot properly distinguish
// hostNetwork pod traffic, and so it ignores hostNetwork pods when matching podSelector and namespaceSelector. Traffic
// to/from hostNetwork pods is treated the same as all other traffic to/from the node IP. (This is the most common
// implementation.)"
//
// What ran to its end sends nothing, and its address may be another pod's.
func hasOwnAddress(pod *corev1.Pod) bool {
	finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	return !pod.Spec.HostNetwork && !finished
}

func podHas(pod *corev1.Pod, address netip.Addr) bool {
	for _, own := range pod.Status.PodIPs {
		if is(own.IP, address) {
			return true
		}
	}
	return is(pod.Status.PodIP, address)
}

// nodeHas: "matching on the IPs present in the node.Status.Addresses field of the node"
func nodeHas(node *corev1.Node, address netip.Addr) bool {
	for _, own := range node.Status.Addresses {
		if is(own.Address, address) {
			return true
		}
	}
	return false
}

// is says whether the text is that address; names of hosts are none.
func is(text string, address netip.Addr) bool {
	a, err := netip.ParseAddr(text)
	return err == nil && a == address
}

// runsOn says whether the node is the one where the end's pod runs.
func (e end) runsOn(node *corev1.Node) bool { return node != nil && e.pod.Spec.NodeName == node.Name }

// namedPort says whether the port is the one of that name. It is the destination's: "a named port on a pod"; "selects a
// destination port on a pod based on the ContainerPort name".
func (t *traffic) namedPort(name string) bool {
	if t.destination.pod == nil {
		return false
	}
	for _, container := range t.destination.pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == name && protocolOf(port) == t.protocol && port.ContainerPort == int32(t.port) {
				return true
			}
		}
	}
	return false
}

// protocolOf: of k8s.io/api/core/v1.ContainerPort, "Must be UDP, TCP, or SCTP. Defaults to TCP."
func protocolOf(port corev1.ContainerPort) corev1.Protocol {
	if port.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return port.Protocol
}
