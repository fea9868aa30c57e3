// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// GoString is the cluster as YAML, for those who print what a test has drawn.
func (c *Cluster) GoString() string {
	var b strings.Builder
	printAll(&b, "Namespace", c.Namespaces)
	printAll(&b, "Node", c.Nodes)
	printAll(&b, "Pod", c.Pods)
	printAll(&b, "NetworkPolicy", c.NetworkPolicies)
	printAll(&b, "ClusterNetworkPolicy", c.ClusterNetworkPolicies)
	for _, name := range slices.Sorted(maps.Keys(c.Domains)) {
		fmt.Fprintf(&b, "# %s: %s\n", name, c.Domains[name])
	}
	return b.String()
}

func printAll[T any](b *strings.Builder, kind string, list []*T) {
	for _, o := range list {
		text, err := yaml.Marshal(o)
		if err != nil {
			text = fmt.Appendf(nil, "# %v\n", err)
		}
		fmt.Fprintf(b, "---\nkind: %s\n%s", kind, text)
	}
}
