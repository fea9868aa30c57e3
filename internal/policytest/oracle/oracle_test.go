// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// A case is a file of testdata: documents of policies, in the cluster of cluster.yaml, and in comments what is
// expected, "# yes FROM TO PROTOCOL/PORT" or "# no FROM TO PROTOCOL/PORT"; address says what FROM and TO are.
func TestCases(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(paths) < 2 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range paths {
		if filepath.Base(path) != "cluster.yaml" {
			t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) { runCase(t, path) })
		}
	}
}

func runCase(t *testing.T, path string) {
	c := &oracle.Cluster{Domains: map[string][]netip.Addr{
		"example.com": {netip.MustParseAddr("203.0.113.7")}, "a.b.example.com": {netip.MustParseAddr("203.0.113.77")},
	}}
	read(t, c, "testdata/cluster.yaml")
	n := 0
	for _, line := range strings.Split(read(t, c, path), "\n") {
		words := strings.Fields(line)
		if len(words) != 5 || words[0] != "#" || words[1] != "yes" && words[1] != "no" {
			continue
		}
		n++
		protocol, port, _ := strings.Cut(words[4], "/")
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		v := oracle.Judge(c, address(c, words[2]), address(c, words[3]), corev1.Protocol(protocol), uint16(number))
		if v.Allowed != (words[1] == "yes") {
			t.Errorf("%s: it is %t: %s", strings.TrimPrefix(line, "# "), v.Allowed, v.Why)
		}
		if v.Why == "" || v.Allowed != (v.Egress.Allowed && v.Ingress.Allowed) {
			t.Errorf("%s: %+v", line, v)
		}
	}
	if n < 2 {
		t.Error("the case expects nothing")
	}
}

// address is that of the pod NAMESPACE/NAME, of the node NAME, or the text itself; with "/6" behind it, the second.
func address(c *oracle.Cluster, name string) netip.Addr {
	name, second := strings.CutSuffix(name, "/6")
	i := 0
	if second {
		i = 1
	}
	for _, pod := range c.Pods {
		if pod.Namespace+"/"+pod.Name == name {
			return netip.MustParseAddr(pod.Status.PodIPs[i].IP)
		}
	}
	for _, node := range c.Nodes {
		if node.Name == name {
			return netip.MustParseAddr(node.Status.Addresses[i].Address)
		}
	}
	return netip.MustParseAddr(name)
}

// read adds a file's objects to the cluster, and returns its text.
func read(t *testing.T, c *oracle.Cluster, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, document := range strings.Split(string(data), "\n---\n") {
		var of struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &of); err != nil {
			t.Fatalf("%s, document %d: %v", path, i+1, err)
		}
		if err := add(c, of.Kind, []byte(document)); err != nil {
			t.Fatalf("%s, document %d: %v", path, i+1, err)
		}
	}
	return string(data)
}

func add(c *oracle.Cluster, kind string, document []byte) (err error) {
	switch kind {
	case "Namespace":
		c.Namespaces, err = decode[corev1.Namespace](c.Namespaces, document)
	case "Node":
		c.Nodes, err = decode[corev1.Node](c.Nodes, document)
	case "Pod":
		c.Pods, err = decode[corev1.Pod](c.Pods, document)
	case "NetworkPolicy":
		c.NetworkPolicies, err = decode[networkingv1.NetworkPolicy](c.NetworkPolicies, document)
	case "ClusterNetworkPolicy":
		c.ClusterNetworkPolicies, err = decode[policyv1.ClusterNetworkPolicy](c.ClusterNetworkPolicies, document)
	case "":
	default:
		err = fmt.Errorf("%q is no kind that is known", kind)
	}
	return err
}

func decode[T any](list []*T, document []byte) ([]*T, error) {
	object := new(T)
	return append(list, object), yaml.UnmarshalStrict(document, object)
}
