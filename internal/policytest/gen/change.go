// SPDX-License-Identifier: Apache-2.0

package gen

import (
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// Change draws what a cluster is after one object of it has changed, or come, or gone. It shares the others with it.
func Change(o Options, c *oracle.Cluster) *rapid.Generator[*oracle.Cluster] {
	return rapid.Custom(func(t *rapid.T) *oracle.Cluster {
		d, next := draw{t, o}, *c
		kinds := []string{"labels of a pod", "labels of a namespace", "labels of a node", "policy", "pod"}
		if o.ClusterPolicies {
			kinds = append(kinds, "cluster policy")
		}
		switch d.one("change", kinds...) {
		case "labels of a pod":
			if len(c.Pods) > 0 {
				next.Pods = slices.Clone(c.Pods)
				i := d.number("which", 0, len(c.Pods)-1)
				next.Pods[i] = c.Pods[i].DeepCopy()
				next.Pods[i].Labels = d.labels()
			}
		case "labels of a namespace":
			next.Namespaces = slices.Clone(c.Namespaces)
			i := d.number("namespace", 0, len(c.Namespaces)-1)
			next.Namespaces[i] = d.namespace(c.Namespaces[i].Name)
		case "labels of a node":
			next.Nodes = slices.Clone(c.Nodes)
			i := d.number("node", 0, len(c.Nodes)-1)
			next.Nodes[i] = c.Nodes[i].DeepCopy()
			next.Nodes[i].Labels = d.labels()
		case "policy":
			next.NetworkPolicies = exchanged(d, c.NetworkPolicies, d.networkPolicy)
		case "pod":
			next.Pods = exchanged(d, c.Pods, d.pod)
		case "cluster policy":
			next.ClusterNetworkPolicies = exchanged(d, c.ClusterNetworkPolicies, d.clusterNetworkPolicy)
		}
		return &next
	})
}

// exchanged has another object at one place of the list, or one more, or one less. The number that an object was drawn
// by is in its name, and no two have one.
func exchanged[P metav1.Object](d draw, list []P, object func(int) P) []P {
	list = slices.Clone(list)
	switch i := d.number("place", 0, len(list)); {
	case i == len(list):
		free := 0
		for slices.ContainsFunc(list, func(p P) bool { return numberOf(p) == free }) {
			free++
		}
		return append(list, object(free))
	case d.maybe("removed"):
		return slices.Delete(list, i, i+1)
	default:
		list[i] = object(numberOf(list[i]))
		return list
	}
}

func numberOf(o metav1.Object) int {
	n, err := strconv.Atoi(strings.TrimLeft(o.GetName(), "abcdefghijklmnopqrstuvwxyz"))
	if err != nil {
		panic(err)
	}
	return n
}
