// SPDX-License-Identifier: Apache-2.0

package cyclonus

import (
	"net/netip"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/viaduct-net/viaduct/internal/policytest/gen"
	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// cell is one connection, as both see it.
type cell struct {
	cluster *oracle.Cluster
	gen.Probe
	traffic *matcher.Traffic
	oracle  oracle.Verdict
	// What cyclonus' matcher says for each direction.
	egress, ingress bool
}

func (c *cell) agree() bool {
	return c.oracle.Egress.Allowed == c.egress && c.oracle.Ingress.Allowed == c.ingress
}

// matchers are cyclonus' forms of the policies: as they are written, and simplified, as cyclonus itself judges.
func matchers(policies []*networkingv1.NetworkPolicy) []*matcher.Policy {
	var list []*networkingv1.NetworkPolicy
	for _, policy := range policies {
		list = append(list, defaulted(policy))
	}
	return []*matcher.Policy{matcher.BuildNetworkPolicies(false, list), matcher.BuildNetworkPolicies(true, list)}
}

// defaulted is what the API server makes of a policy: cyclonus expects it to have been asked.
func defaulted(policy *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	if len(policy.Spec.PolicyTypes) > 0 {
		return policy
	}
	policy = policy.DeepCopy()
	policy.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(policy.Spec.Egress) > 0 {
		policy.Spec.PolicyTypes = append(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	return policy
}

// judge has both judge the cell.
func (c *cell) judge(m *matcher.Policy) {
	c.oracle = oracle.Judge(c.cluster, c.From, c.To, c.Protocol, c.Port)
	allowed := m.IsTrafficAllowed(c.traffic)
	c.egress, c.ingress = allowed.Egress.IsAllowed(), allowed.Ingress.IsAllowed()
}

// compare judges all that a step probes.
func (s *state) compare(tally *tally, where string, config *generator.ProbeConfig) {
	cluster := s.cluster()
	jobs := (&probe.JobBuilder{}).GetJobsForProbeConfig(s.resources, config)
	if len(jobs.BadNamedPort)+len(jobs.BadPortProtocol) > 0 {
		s.t.Errorf("%s: some of what is probed is no port of its pod", where)
	}
	s.must(s.engine.Apply(cluster))
	for _, job := range jobs.Valid {
		p := gen.Probe{From: netip.MustParseAddr(job.FromIP), To: netip.MustParseAddr(job.ToIP),
			Protocol: job.Protocol, Port: uint16(job.ResolvedPort)}
		if complaint := tally.pipe(s.engine, cluster, p); complaint != "" {
			s.t.Errorf("%s: %s", where, complaint)
		}
	}
	for _, m := range matchers(s.policies) {
		for _, job := range jobs.Valid {
			c := &cell{cluster: cluster, traffic: job.Traffic(), Probe: gen.Probe{
				From: netip.MustParseAddr(job.FromIP), To: netip.MustParseAddr(job.ToIP),
				Protocol: job.Protocol, Port: uint16(job.ResolvedPort),
			}}
			c.judge(m)
			if complaint := tally.add(c); complaint != "" {
				s.t.Errorf("%s: %s", where, complaint)
			}
		}
	}
}

// node is the name of the one that there is.
const node = "n1"

// cluster is the state as the objects that it is made of.
func (s *state) cluster() *oracle.Cluster {
	c := &oracle.Cluster{NetworkPolicies: s.policies, Nodes: []*corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: node}}}}
	c.Nodes[0].Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	for name, labels := range s.resources.Namespaces {
		c.Namespaces = append(c.Namespaces, probe.KubeNamespace(name, labels))
	}
	for _, pod := range s.resources.Pods {
		p := pod.KubePod()
		p.Spec.NodeName = node
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: pod.IP, PodIPs: []corev1.PodIP{{IP: pod.IP}}}
		c.Pods = append(c.Pods, p)
	}
	return c
}
