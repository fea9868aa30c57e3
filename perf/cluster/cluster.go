// SPDX-License-Identifier: Apache-2.0

// Package cluster makes up the objects of a large cluster, for control to compile: nodes with pod CIDRs, namespaces
// with labels, pods with addresses, routes, services with endpoints. The same numbers give the same objects.
package cluster

import (
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
)

// Size is how much there is of everything.
type Size struct {
	Nodes, Namespaces, Pods, Routes int
	Services                        Services
}

// Bounds of what the addresses have room for.
const (
	MaxNodes      = 16_384
	MaxPerNode    = 250
	MaxRoutes     = 65_536
	nodesPerBlock = 256
)

// Validate says what is wrong with the size.
func (s Size) Validate() error {
	switch {
	case s.Nodes < 1 || s.Nodes > MaxNodes:
		return fmt.Errorf("%d nodes: want 1 to %d", s.Nodes, MaxNodes)
	case s.Namespaces < 1:
		return fmt.Errorf("%d namespaces: want at least 1", s.Namespaces)
	case s.Pods < 1 || s.Pods > s.Nodes*MaxPerNode:
		return fmt.Errorf("%d pods: want 1 to %d, %d on each node", s.Pods, s.Nodes*MaxPerNode, MaxPerNode)
	case s.Routes < 0 || s.Routes > MaxRoutes:
		return fmt.Errorf("%d routes: want 0 to %d", s.Routes, MaxRoutes)
	}
	return s.Services.Validate()
}

// Port is a device of the node that is measured, with our address on it.
type Port struct{ Name, Device string }

// Node is the name of the node that is measured.
const Node = "node-0"

// NodeSubnet is where the nodes have their addresses; the measured one has the first.
var NodeSubnet = netip.MustParsePrefix("10.200.0.0/16")

// Object is one object as an API server would store it.
type Object struct {
	Kind, Namespace, Name string
	JSON                  []byte
}

// Key is the object's place below the prefix of a store: "Pod/default/web".
func (o Object) Key() string {
	if o.Namespace == "" {
		return o.Kind + "/" + o.Name
	}
	return o.Kind + "/" + o.Namespace + "/" + o.Name
}

// Objects are all of them.
func (s Size) Objects(port Port) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		if !yield(nodeConfig(port)) {
			return
		}
		for _, part := range []struct {
			count int
			make  func(int) Object
		}{
			{s.Nodes, node}, {s.Namespaces, namespace}, {s.Pods, func(i int) Object { return s.Pod(i, 0) }},
			{s.Routes, s.route},
		} {
			for i := range part.count {
				if !yield(part.make(i)) {
					return
				}
			}
		}
		for o := range s.Services.Objects() {
			if !yield(o) {
				return
			}
		}
	}
}

type fields = map[string]any

func object(apiVersion, kind, namespace, name string, labels map[string]string, rest fields) Object {
	metadata := fields{"name": name, "labels": labels}
	if namespace != "" {
		metadata["namespace"] = namespace
	}
	all := fields{"apiVersion": apiVersion, "kind": kind, "metadata": metadata}
	for k, v := range rest {
		all[k] = v
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err) // cannot be: maps of strings and numbers
	}
	return Object{kind, namespace, name, text}
}

func nodeConfig(port Port) Object {
	return object("viaduct.dev/v1alpha1", "NodeConfig", "", Node, nil, fields{"spec": fields{
		"workers": 1,
		"ports": []any{fields{"name": port.Name, "device": port.Device,
			"addresses": []string{netip.PrefixFrom(nodeAddress(0), NodeSubnet.Bits()).String()}}},
	}})
}

func nodeAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 200, byte((i + 1) >> 8), byte(i + 1)})
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

func node(i int) Object {
	cidr := fmt.Sprintf("10.%d.%d.0/24", 64+i/nodesPerBlock, i%nodesPerBlock)
	return object("v1", "Node", "", nodeName(i), map[string]string{"kubernetes.io/hostname": nodeName(i)}, fields{
		"spec":   fields{"podCIDR": cidr, "podCIDRs": []string{cidr}},
		"status": fields{"addresses": []any{fields{"type": "InternalIP", "address": nodeAddress(i).String()}}},
	})
}

func namespaceName(i int) string { return fmt.Sprintf("ns-%d", i) }

func namespace(i int) Object {
	return object("v1", "Namespace", "", namespaceName(i), map[string]string{
		"kubernetes.io/metadata.name": namespaceName(i), "team": fmt.Sprint("team-", i%100),
	}, nil)
}

// PodAddress is the address of a pod.
func (s Size) PodAddress(i int) netip.Addr {
	n := i % s.Nodes
	return netip.AddrFrom4([4]byte{10, byte(64 + n/nodesPerBlock), byte(n % nodesPerBlock), byte(2 + i/s.Nodes)})
}

// Pod is the pod of that number; its label revision says which version of it.
func (s Size) Pod(i, revision int) Object {
	name := fmt.Sprintf("app-%d-%05d", i%50, i)
	address := s.PodAddress(i).String()
	return object("v1", "Pod", namespaceName(i%s.Namespaces), name, map[string]string{
		"app": fmt.Sprintf("app-%d", i%50), "revision": fmt.Sprint(revision),
	}, fields{
		"spec": fields{"nodeName": nodeName(i % s.Nodes), "containers": []any{fields{
			"name": "main", "image": "app", "ports": []any{fields{"name": "http", "containerPort": 8080}}}}},
		"status": fields{"phase": "Running", "podIP": address, "podIPs": []any{fields{"ip": address}}},
	})
}

// route leads a prefix to one of sixteen neighbours.
func (s Size) route(i int) Object {
	return object("viaduct.dev/v1alpha1", "Route", "", fmt.Sprintf("route-%05d", i), nil, fields{"spec": fields{
		"destination": fmt.Sprintf("20.%d.%d.0/24", i>>8, i&255),
		"nextHops":    []any{fields{"via": netip.AddrFrom4([4]byte{10, 200, 255, byte(1 + i%16)}).String()}},
	}})
}
