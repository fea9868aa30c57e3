// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// selects is "standard label selector semantics": of k8s.io/apimachinery/pkg/apis/meta/v1.LabelSelector, "An empty
// label selector matches all objects."
func selects(selector metav1.LabelSelector, of map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		panic(fmt.Sprintf("oracle: a selector that no API server takes: %v", err))
	}
	return s.Matches(labels.Set(of))
}

// selectsPods says whether the pod of an end is one of those that the one selector has, in the namespaces that the
// other has.
func (c *Cluster) selectsPods(namespaces, pods metav1.LabelSelector, e end) bool {
	return e.pod != nil && selects(namespaces, c.namespaceLabels(e.pod.Namespace)) && selects(pods, e.pod.Labels)
}

// namespaceLabels are a namespace's, with the one that every API server adds: of k8s.io/api/core/v1,
// LabelMetadataName "is the label name which, in-tree, is used to automatically label namespaces, so they can be
// selected easily by tools which require definitive labels".
func (c *Cluster) namespaceLabels(name string) map[string]string {
	all := map[string]string{corev1.LabelMetadataName: name}
	for _, namespace := range c.Namespaces {
		if namespace.Name == name {
			maps.Copy(all, namespace.Labels)
		}
	}
	return all
}

// holds says whether an address is in a block: an address of one family is in no block of the other.
func holds(cidr string, address netip.Addr) bool {
	return netip.MustParsePrefix(cidr).Contains(address)
}
