// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Pod is what is used of a pod. Its labels are the Object's.
type Pod struct {
	// UID is what a runtime calls the pod: its own, or, of one that mirrors a static pod, that one's. Empty: not said.
	UID         string
	Node        string // that it is bound to; empty: to none yet
	HostNetwork bool   // it has its node's addresses
	Finished    bool   // it ran to its end, and its addresses may be another pod's
	Addresses   []netip.Addr
	Ports       []ContainerPort // those with a name
	Weight      uint16          // as a backend, relative to a service's others; 0: not said
	// Offload is "true" or "false": whether the kernel may carry its flows; empty: as the namespace says.
	Offload string
	// Unready and Terminating are known of pods of documents, where EndpointSlices need not say so.
	Unready, Terminating bool
}

// ContainerPort is a port that policies and services may name.
type ContainerPort struct {
	Name     string
	Protocol string // "TCP", "UDP" or "SCTP"
	Port     uint16
}

// maxNamedPorts bounds what the dataplane goes through for a new flow to a pod, where rules name ports.
const maxNamedPorts = 4096

func podOf(c *checker, from *corev1.Pod) *Pod {
	p := &Pod{
		UID:         cmp.Or(from.Annotations[corev1.MirrorPodAnnotationKey], string(from.UID)),
		Node:        intern(from.Spec.NodeName),
		HostNetwork: from.Spec.HostNetwork,
		Finished:    from.Status.Phase == corev1.PodSucceeded || from.Status.Phase == corev1.PodFailed,
	}
	c.ours(from.Annotations, p.annotate, weightAnnotation, offloadAnnotation)
	if !c.served {
		p.Terminating = from.DeletionTimestamp != nil
		for _, condition := range from.Status.Conditions {
			p.Unready = p.Unready || condition.Type == corev1.PodReady && condition.Status == corev1.ConditionFalse
		}
	}
	for i := range from.Status.PodIPs {
		p.Addresses = append(p.Addresses, c.podAddress(index("status.podIPs", i)+".ip", from.Status.PodIPs[i].IP))
	}
	if from.Status.PodIP != "" && len(p.Addresses) == 0 {
		p.Addresses = []netip.Addr{c.podAddress("status.podIP", from.Status.PodIP)}
	}
	for i := range from.Spec.Containers {
		for j, port := range from.Spec.Containers[i].Ports {
			field := index(index("spec.containers", i)+".ports", j)
			c.within(field, func() { p.addPort(c, port) })
		}
	}
	c.check(len(p.Ports) <= maxNamedPorts, "spec.containers", "%d ports with names, more than %d", len(p.Ports),
		maxNamedPorts)
	return p
}

// annotate takes in an annotation, or says why it does not.
func (p *Pod) annotate(key, value string) (reason string) {
	if key == weightAnnotation {
		p.Weight, reason = weightOf(value)
		return reason
	}
	return take(&p.Offload, value, offloads)
}

func (p *Pod) addPort(c *checker, from corev1.ContainerPort) {
	number := uint16(c.between("containerPort", int64(from.ContainerPort), 1, maxPort))
	protocol := c.oneOf("protocol", string(from.Protocol), "TCP", "UDP", "SCTP")
	if from.Name != "" {
		c.name("name", from.Name)
		p.Ports = append(p.Ports, ContainerPort{Name: intern(from.Name), Protocol: intern(protocol), Port: number})
	}
}

// podAddress reads an address that is routed: a link-local one is not.
func (c *checker) podAddress(field, text string) netip.Addr {
	a := c.unicast(field, text)
	c.check(!a.IsLinkLocalUnicast(), field, "%s is link-local", a)
	return a
}
