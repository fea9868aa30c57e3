// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Pod is what is used of a pod. Its labels are the Object's.
type Pod struct {
	Node        string // that it is bound to; empty: to none yet
	HostNetwork bool   // it has its node's addresses
	Finished    bool   // it ran to its end, and its addresses may be another pod's
	Addresses   []netip.Addr
	Ports       []ContainerPort // those with a name
}

// ContainerPort is a port that policies and services may name.
type ContainerPort struct {
	Name     string
	Protocol string // "TCP", "UDP" or "SCTP"
	Port     uint16 // 1..65535
}

// Namespace is a namespace. Its labels are the Object's; kubernetes.io/metadata.name is always among them.
type Namespace struct{}

// NamespaceLabel is the label that every namespace has, with its name.
const NamespaceLabel = corev1.LabelMetadataName

func podOf(c *checker, from *corev1.Pod) *Pod {
	p := &Pod{
		Node:        intern(from.Spec.NodeName),
		HostNetwork: from.Spec.HostNetwork,
		Finished:    from.Status.Phase == corev1.PodSucceeded || from.Status.Phase == corev1.PodFailed,
	}
	for i := range from.Status.PodIPs {
		p.Addresses = append(p.Addresses, c.unicast(index("status.podIPs", i)+".ip", from.Status.PodIPs[i].IP))
	}
	if from.Status.PodIP != "" && len(p.Addresses) == 0 {
		p.Addresses = []netip.Addr{c.unicast("status.podIP", from.Status.PodIP)}
	}
	for i := range from.Spec.Containers {
		for j, port := range from.Spec.Containers[i].Ports {
			field := index(index("spec.containers", i)+".ports", j)
			c.between(field+".containerPort", int64(port.ContainerPort), 1, maxPort)
			if port.Name != "" {
				p.Ports = append(p.Ports, ContainerPort{
					Name:     intern(port.Name),
					Protocol: c.oneOf(field+".protocol", string(port.Protocol), "TCP", "UDP", "SCTP"),
					Port:     uint16(port.ContainerPort),
				})
			}
		}
	}
	return p
}

const maxPort = 65535
