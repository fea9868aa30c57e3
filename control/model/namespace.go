// SPDX-License-Identifier: Apache-2.0

package model

import corev1 "k8s.io/api/core/v1"

// NamespaceLabel is the label that every namespace has, with its name.
const NamespaceLabel = corev1.LabelMetadataName

// Namespace is a namespace. Its labels are the Object's, NamespaceLabel always among them.
type Namespace struct{}

// labelNamespace gives a namespace the label that the API server gives it.
func (o *Object) labelNamespace() {
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Labels[NamespaceLabel] = o.Key.Name
}
