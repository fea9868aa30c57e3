// SPDX-License-Identifier: Apache-2.0

package cyclonus

import (
	"net/netip"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/internal/policytest/gen"
	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// Of random clusters all connections are tried.
func TestRandom(t *testing.T) {
	tally := newTally()
	rapid.Check(t, func(t *rapid.T) {
		cluster := gen.Cluster(gen.Options{}).Draw(t, "cluster")
		probes := gen.Probes(cluster)
		for _, m := range matchers(cluster.NetworkPolicies) {
			for _, p := range probes {
				c := &cell{cluster: cluster, Probe: p, traffic: traffic(cluster, p)}
				c.judge(m)
				if complaint := tally.add(c); complaint != "" {
					t.Fatal(complaint)
				}
			}
		}
	})
	tally.report(t)
	t.Log(tally)
}

func traffic(c *oracle.Cluster, p gen.Probe) *matcher.Traffic {
	t := &matcher.Traffic{
		Source: peer(c, p.From), Destination: peer(c, p.To), Protocol: p.Protocol, ResolvedPort: int(p.Port),
	}
	if names := portNames(c, p); len(names) > 0 {
		t.ResolvedPortName = names[0]
	}
	return t
}

// pod is the one that has the address; nil: none, or it is its node's.
func pod(c *oracle.Cluster, address netip.Addr) *corev1.Pod {
	for _, pod := range c.Pods {
		for _, own := range pod.Status.PodIPs {
			if own.IP == address.String() && !pod.Spec.HostNetwork && pod.Status.Phase == corev1.PodRunning {
				return pod
			}
		}
	}
	return nil
}

func peer(c *oracle.Cluster, address netip.Addr) *matcher.TrafficPeer {
	p := &matcher.TrafficPeer{IP: address.String()}
	if pod := pod(c, address); pod != nil {
		p.Internal = &matcher.InternalPeer{PodLabels: pod.Labels, Namespace: pod.Namespace}
		for _, namespace := range c.Namespaces {
			if namespace.Name == pod.Namespace {
				p.Internal.NamespaceLabels = namespace.Labels
			}
		}
	}
	return p
}

// portNames are those that the destination has for the port.
func portNames(c *oracle.Cluster, p gen.Probe) (names []string) {
	if pod := pod(c, p.To); pod != nil {
		for _, container := range pod.Spec.Containers {
			for _, port := range container.Ports {
				if port.ContainerPort == int32(p.Port) && port.Protocol == p.Protocol {
					names = append(names, port.Name)
				}
			}
		}
	}
	return names
}
