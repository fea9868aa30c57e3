// SPDX-License-Identifier: Apache-2.0

package model

import "slices"

// Kind is a kind of object that is known.
type Kind struct {
	APIVersion string // group and version: "networking.k8s.io/v1"
	Name       string // as in Key.Kind: "NetworkPolicy"
	Resource   string // as in the API server's paths: "networkpolicies"
	Namespaced bool
}

var kinds = []Kind{
	{APIVersion, "NodeConfig", "nodeconfigs", false},
	{APIVersion, "Route", "routes", false},
	{"v1", "Namespace", "namespaces", false},
	{"v1", "Node", "nodes", false},
	{"v1", "Pod", "pods", true},
	{"v1", "Service", "services", true},
	{"discovery.k8s.io/v1", "EndpointSlice", "endpointslices", true},
	{"networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true},
	{"networking.k8s.io/v1", "ServiceCIDR", "servicecidrs", false},
	{"policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies", false},
}

// Kinds returns the kinds that are known: those that sources watch.
func Kinds() []Kind { return slices.Clone(kinds) }

// KindOf returns the known kind with the apiVersion and the name.
func KindOf(apiVersion, name string) (Kind, bool) {
	i := slices.IndexFunc(kinds, func(k Kind) bool { return k.APIVersion == apiVersion && k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return kinds[i], true
}
