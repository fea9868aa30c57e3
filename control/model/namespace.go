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
}

func namespaceOf(c *checker, from *corev1.Namespace) *Namespace {
	return &Namespace{Egress: c.egressAddresses(from.Annotations)}
}

// labelNamespace gives a namespace the label that the API server gives it.
func (o *Object) labelNamespace() {
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Labels[NamespaceLabel] = o.Key.Name
}
