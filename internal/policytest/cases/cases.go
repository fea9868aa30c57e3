// SPDX-License-Identifier: Apache-2.0

// Package cases is what people expect of policies, written down: each file but cluster.yaml is a case, of policies in
// the cluster of that one, and of comments "# yes FROM TO PROTOCOL/PORT" and "# no FROM TO PROTOCOL/PORT". FROM and TO
// are a pod, NAMESPACE/NAME, a node's name, or an address; with "/6" behind it a pod's or a node's second address.
package cases

import (
	"embed"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/viaduct-net/viaduct/internal/policytest/gen"
	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

//go:embed *.yaml
var files embed.FS

const common = "cluster.yaml"

// Case is a cluster with policies, and what is expected.
type Case struct {
	Name    string
	Cluster *oracle.Cluster
	Expect  []Expectation
}

// Expectation is a connection, and whether it may be.
type Expectation struct {
	Line    string
	Allowed bool
	gen.Probe
}

// All reads the cases.
func All() (list []Case, err error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.Name() == common {
			continue
		}
		c, err := read(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		list = append(list, c)
	}
	return list, nil
}

func read(file string) (Case, error) {
	c := Case{Name: strings.TrimSuffix(file, ".yaml"), Cluster: &oracle.Cluster{Domains: map[string][]netip.Addr{
		"example.com":     {netip.MustParseAddr("203.0.113.7")},
		"a.b.example.com": {netip.MustParseAddr("203.0.113.77")},
	}}}
	for _, name := range []string{common, file} {
		text, err := files.ReadFile(name)
		if err != nil {
			return c, err
		}
		for i, document := range strings.Split(string(text), "\n---\n") {
			if err := add(c.Cluster, []byte(document)); err != nil {
				return c, fmt.Errorf("document %d: %w", i+1, err)
			}
		}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if len(words) != 5 || words[0] != "#" || words[1] != "yes" && words[1] != "no" {
				continue
			}
			e, err := expectation(c.Cluster, words[1:])
			if err != nil {
				return c, fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
			}
			c.Expect = append(c.Expect, e)
		}
	}
	return c, nil
}

func expectation(c *oracle.Cluster, words []string) (e Expectation, err error) {
	e = Expectation{Line: strings.Join(words, " "), Allowed: words[0] == "yes"}
	if e.From, err = address(c, words[1]); err != nil {
		return e, err
	}
	if e.To, err = address(c, words[2]); err != nil {
		return e, err
	}
	protocol, port, _ := strings.Cut(words[3], "/")
	number, err := strconv.ParseUint(port, 10, 16)
	e.Protocol, e.Port = corev1.Protocol(protocol), uint16(number)
	return e, err
}

// address is what a name stands for.
func address(c *oracle.Cluster, name string) (netip.Addr, error) {
	name, second := strings.CutSuffix(name, "/6")
	i := 0
	if second {
		i = 1
	}
	for _, pod := range c.Pods {
		if pod.Namespace+"/"+pod.Name == name {
			return netip.ParseAddr(pod.Status.PodIPs[i].IP)
		}
	}
	for _, node := range c.Nodes {
		if node.Name == name {
			return netip.ParseAddr(node.Status.Addresses[i].Address)
		}
	}
	return netip.ParseAddr(name)
}

func add(c *oracle.Cluster, document []byte) (err error) {
	var of struct{ Kind string }
	if err := yaml.Unmarshal(document, &of); err != nil {
		return err
	}
	switch of.Kind {
	case "Namespace":
		c.Namespaces, err = decode(c.Namespaces, document)
	case "Node":
		c.Nodes, err = decode(c.Nodes, document)
	case "Pod":
		c.Pods, err = decode(c.Pods, document)
	case "NetworkPolicy":
		c.NetworkPolicies, err = decode(c.NetworkPolicies, document)
	case "ClusterNetworkPolicy":
		c.ClusterNetworkPolicies, err = decode(c.ClusterNetworkPolicies, document)
	case "": // comments
	default:
		err = fmt.Errorf("%q is no kind that is known", of.Kind)
	}
	return err
}

func decode[T corev1.Namespace | corev1.Node | corev1.Pod | networkingv1.NetworkPolicy | policyv1.ClusterNetworkPolicy](
	list []*T, document []byte,
) ([]*T, error) {
	object := new(T)
	err := yaml.UnmarshalStrict(document, object)
	return append(list, object), err
}
