// SPDX-License-Identifier: Apache-2.0

package gen

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var domains = map[string][]netip.Addr{
	"example.com":     {netip.MustParseAddr("203.0.113.7")},
	"a.example.com":   {netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("2001:db8::7")},
	"b.a.example.com": {netip.MustParseAddr("198.51.100.7")},
}

// Nodes are the names of the nodes that a cluster may have; it has the first.
var Nodes = []string{"n1", "n2"}

func (d draw) nodes() (list []*corev1.Node) {
	for i, name := range Nodes[:d.number("nodes", 1, len(Nodes))] {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: d.labels()}}
		node.Spec.PodCIDRs = []string{fmt.Sprintf("10.244.%d.0/24", i+1), fmt.Sprintf("fd00:244:%d::/64", i+1)}
		node.Status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", i+1)},
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("2001:db8:2::%d", i+1)},
			{Type: corev1.NodeHostName, Address: name},
		}
		list = append(list, node)
	}
	return list
}

var namespaceNames = []string{"x", "y", "z"}

func (d draw) namespaces() (list []*corev1.Namespace) {
	for _, name := range namespaceNames {
		list = append(list, d.namespace(name))
	}
	return list
}

func (d draw) namespace(name string) *corev1.Namespace {
	labels := d.labels()
	labels[corev1.LabelMetadataName] = name
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func (d draw) pods() (list []*corev1.Pod) {
	for i := range d.number("pods", 2, 6) {
		list = append(list, d.pod(i))
	}
	return list
}

func (d draw) pod(i int) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: d.one("namespace", namespaceNames...), Name: fmt.Sprintf("p%d", i), Labels: d.labels(),
	}}
	node := d.number("node", 1, len(Nodes)) // which there may not be: it is gone, or not there yet
	pod.Spec.NodeName = Nodes[node-1]
	pod.Spec.Containers = []corev1.Container{{Name: "first", Ports: d.containerPorts()}}
	pod.Status.Phase = corev1.PodRunning
	addresses := []string{fmt.Sprintf("10.244.%d.%d", node, i+10), fmt.Sprintf("fd00:244:%d::%d", node, i+10)}
	switch d.one("what", "ours", "ours", "ours", "ours", "ours", "ours", "host", "finished") {
	case "host":
		pod.Spec.HostNetwork = true
		addresses = []string{fmt.Sprintf("192.0.2.%d", node), fmt.Sprintf("2001:db8:2::%d", node)}
	case "finished": // with an address that is another pod's, where there is one
		pod.Status.Phase = corev1.PodSucceeded
		addresses = []string{fmt.Sprintf("10.244.%d.10", node), fmt.Sprintf("fd00:244:%d::10", node)}
	}
	switch d.one("families", "both", "both", "4", "6") {
	case "4":
		addresses = addresses[:1]
	case "6":
		addresses = addresses[1:]
	}
	pod.Status.PodIP = addresses[0]
	for _, address := range addresses {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: address})
	}
	return pod
}

var portNames = []string{"web", "dns", "sig"}

// containerPorts: a name may be of another number, and of another protocol, at each pod.
func (d draw) containerPorts() (list []corev1.ContainerPort) {
	for _, name := range d.someOf("port names", 0, portNames...) {
		list = append(list, corev1.ContainerPort{
			Name: name, Protocol: corev1.Protocol(d.one("protocol", protocols...)),
			ContainerPort: int32(d.number("port", firstPort, lastPort)),
		})
	}
	return list
}
