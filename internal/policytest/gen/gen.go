// SPDX-License-Identifier: Apache-2.0

// Package gen draws clusters and policies of few names, labels, addresses and ports, so that they meet, and the
// connections to try in them. What it draws an API server would take.
//
// cluster.go draws whom there is, networkpolicy.go and clusternetworkpolicy.go the two kinds, and probe.go what to try.
package gen

import (
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// Options say what is drawn beside pods, namespaces, nodes and NetworkPolicies.
type Options struct {
	// ClusterPolicies are ClusterNetworkPolicies, and the domain names that they may speak of.
	ClusterPolicies, Domains bool
	// Unknown draws peers with no field set: those of a later version of the API.
	Unknown bool
}

// Cluster draws a cluster with its policies.
func Cluster(o Options) *rapid.Generator[*oracle.Cluster] {
	return rapid.Custom(func(t *rapid.T) *oracle.Cluster {
		d := draw{t, o}
		c := &oracle.Cluster{Nodes: d.nodes(), Namespaces: d.namespaces(), Pods: d.pods()}
		for i := range d.number("policies", 0, 6) {
			c.NetworkPolicies = append(c.NetworkPolicies, d.networkPolicy(i))
		}
		if o.ClusterPolicies {
			for i := range d.number("cluster policies", 0, 6) {
				c.ClusterNetworkPolicies = append(c.ClusterNetworkPolicies, d.clusterNetworkPolicy(i))
			}
		}
		if o.Domains {
			c.Domains = domains
		}
		return c
	})
}

// draw draws from few.
type draw struct {
	t       *rapid.T
	options Options
}

func (d draw) one(label string, of ...string) string { return rapid.SampledFrom(of).Draw(d.t, label) }
func (d draw) number(label string, from, to int) int {
	return rapid.IntRange(from, to).Draw(d.t, label)
}
func (d draw) maybe(label string) bool                  { return rapid.Bool().Draw(d.t, label) }
func (d draw) seldom(label string) bool                 { return d.number(label, 0, 7) == 7 }
func (d draw) some(label string, of ...string) []string { return d.someOf(label, 1, of...) }

// someOf are at least so many, each once.
func (d draw) someOf(label string, least int, of ...string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(of), least, min(least+1, len(of)), rapid.ID).Draw(d.t, label)
}

// labels are of the same few keys and values for everything that has labels.
func (d draw) labels() map[string]string {
	labels := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if value := d.one(key, "a", "b", "", "none"); value != "none" {
			labels[key] = value
		}
	}
	return labels
}
