// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// NamespaceLabel is the label that every namespace has, with its name.
const NamespaceLabel = corev1.LabelMetadataName

// Namespace is a namespace. Its labels are the Object's, NamespaceLabel always among them.
type Namespace struct {
	// Egress are the addresses of its pods towards what is outside the cluster, one of each family at most, IPv4 first.
	Egress []netip.Addr
	// EgressNode is the node that has them: pods of other nodes go out with their node's address. Empty: every node has.
	EgressNode string
	// Offload is "true" or "false": whether the kernel may carry the flows of pods that do not say it themselves; empty:
	// it may.
	Offload string
}

// Annotations of namespaces; the last one is of pods as well.
const (
	egressAnnotation     = annotationPrefix + "egress-addresses"
	egressNodeAnnotation = annotationPrefix + "egress-node"
	offloadAnnotation    = annotationPrefix + "offload"
)

// offloads are what the annotation may say.
var offloads = []string{"true", "false"}

func namespaceOf(c *checker, from *corev1.Namespace) *Namespace {
	n := &Namespace{}
	c.ours(from.Annotations, n.annotate, egressAnnotation, egressNodeAnnotation, offloadAnnotation)
	return n
}

// annotate takes in an annotation, or says why it does not.
func (n *Namespace) annotate(key, value string) (reason string) {
	switch key {
	case egressAnnotation:
		n.Egress, reason = egressOf(value)
		return reason
	case egressNodeAnnotation:
		c := &checker{}
		n.EgressNode = c.name("", value)
		return c.reason
	}
	return take(&n.Offload, value, offloads)
}

// labelNamespace gives a namespace the label that the API server gives it.
func (o *Object) labelNamespace() {
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Labels[NamespaceLabel] = o.Key.Name
}
