// SPDX-License-Identifier: Apache-2.0

package cyclonus

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/viaduct-net/viaduct/internal/policytest/engine"
	"github.com/viaduct-net/viaduct/internal/policytest/gen"
	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// difference is a kind of cell that cyclonus may see otherwise than the oracle, with the reason.
type difference struct {
	name, why string
	is        func(*cell) bool
	// shown changes a cluster in which every pod may be reached by a policy of x, such that the two differ about a
	// connection from one address to another, at TCP port 80.
	shown    func(*oracle.Cluster)
	from, to string
}

var differences = []difference{
	{
		name: "a pod to itself",
		why: "https://kubernetes.io/docs/concepts/services-networking/network-policies/: \"a pod cannot block access to " +
			"itself\". Cyclonus judges it like any other pair, and leaves it to its user to ignore such cells.",
		is:    func(c *cell) bool { return c.oracle.Why == "a pod to itself" },
		shown: func(c *oracle.Cluster) { c.NetworkPolicies[0].Spec.Ingress = nil },
		from:  podB, to: podB,
	},
	{
		name: "a pod and its own node",
		why: "k8s.io/api/networking/v1: \"OR if the traffic source is the pod's local node\", and the page above says so " +
			"of both directions. Cyclonus knows no nodes.",
		is:    func(c *cell) bool { return strings.Contains(c.oracle.Why, "the pod's own node") },
		shown: func(c *oracle.Cluster) { c.NetworkPolicies[0].Spec.Ingress = nil },
		from:  node1, to: podB,
	},
	{
		name: "NotIn, of a key that is absent",
		why:  "k8s.io/apimachinery/pkg/labels: NotIn selects also what does not have the key. Cyclonus takes the opposite.",
		is: func(c *cell) bool {
			return c.anySelector(func(s *metav1.LabelSelector, labels map[string]string) bool {
				for _, r := range s.MatchExpressions {
					if _, has := labels[r.Key]; r.Operator == metav1.LabelSelectorOpNotIn && !has {
						return true
					}
				}
				return false
			})
		},
		shown: func(c *oracle.Cluster) {
			from(c, metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "none", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a"}}}})
		},
		from: podA, to: podB,
	},
	{
		name: "a label with no value, of a key that is absent",
		why: "matchLabels is In with one value, and a label with an empty value is not one that is absent. Cyclonus reads " +
			"a map for it, in which the two are the same.",
		is: func(c *cell) bool {
			return c.anySelector(func(s *metav1.LabelSelector, labels map[string]string) bool {
				for key, value := range s.MatchLabels {
					if _, has := labels[key]; value == "" && !has {
						return true
					}
				}
				return false
			})
		},
		shown: func(c *oracle.Cluster) { from(c, metav1.LabelSelector{MatchLabels: map[string]string{"none": ""}}) },
		from:  podA, to: podB,
	},
	{
		name: "a port with several names",
		why:  "Cyclonus is told one name of a port alone.",
		is:   func(c *cell) bool { return len(portNames(c.cluster, c.Probe)) > 1 },
		shown: func(c *oracle.Cluster) {
			second := intstr.FromString("second")
			c.NetworkPolicies[0].Spec.Ingress[0].Ports = []networkingv1.NetworkPolicyPort{{Port: &second}}
		},
		from: podA, to: podB,
	},
}

const podA, podB, node1 = "10.244.1.1", "10.244.1.2", "192.0.2.1"

// plain is a cluster of two pods, whose port 80 has two names, and of a policy that lets everybody in.
func plain() *oracle.Cluster {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: node1}}
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p"}}
	policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
	c := &oracle.Cluster{Nodes: []*corev1.Node{node}, NetworkPolicies: []*networkingv1.NetworkPolicy{policy}}
	c.Namespaces = []*corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "x"}}}
	for _, address := range []string{podA, podB} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: address}}
		pod.Spec = corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "first", ContainerPort: 80, Protocol: "TCP"}, {Name: "second", ContainerPort: 80, Protocol: "TCP"},
		}}}}
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: address}}}
		c.Pods = append(c.Pods, pod)
	}
	return c
}

// from has the policy let in those alone that the selector has.
func from(c *oracle.Cluster, pods metav1.LabelSelector) {
	c.NetworkPolicies[0].Spec.Ingress[0].From = []networkingv1.NetworkPolicyPeer{{PodSelector: &pods}}
}

// TestDifferences: each is one still.
func TestDifferences(t *testing.T) {
	for _, d := range differences {
		p := gen.Probe{
			From: netip.MustParseAddr(d.from), To: netip.MustParseAddr(d.to), Protocol: corev1.ProtocolTCP, Port: 80,
		}
		before, after := plain(), plain()
		d.shown(after)
		for _, cluster := range []*oracle.Cluster{before, after} {
			for i, m := range matchers(cluster.NetworkPolicies) {
				c := &cell{cluster: cluster, Probe: p, traffic: traffic(cluster, p)}
				c.judge(m)
				if c.agree() != (cluster == before) || cluster == after && !d.is(c) {
					t.Errorf("%s, form %d: the two agree: %t; it is one: %t", d.name, i, c.agree(), d.is(c))
				}
			}
		}
	}
}

// anySelector says whether the condition holds for a selector of any policy and the labels of either end's pod or
// namespace.
func (c *cell) anySelector(condition func(*metav1.LabelSelector, map[string]string) bool) bool {
	for _, selector := range selectors(c.cluster.NetworkPolicies) {
		for _, end := range []*matcher.InternalPeer{c.traffic.Source.Internal, c.traffic.Destination.Internal} {
			if end != nil && (condition(selector, end.PodLabels) || condition(selector, end.NamespaceLabels)) {
				return true
			}
		}
	}
	return false
}

func selectors(policies []*networkingv1.NetworkPolicy) (list []*metav1.LabelSelector) {
	peers := func(of []networkingv1.NetworkPolicyPeer) {
		for _, peer := range of {
			for _, selector := range []*metav1.LabelSelector{peer.PodSelector, peer.NamespaceSelector} {
				if selector != nil {
					list = append(list, selector)
				}
			}
		}
	}
	for _, policy := range policies {
		list = append(list, &policy.Spec.PodSelector)
		for _, rule := range policy.Spec.Ingress {
			peers(rule.From)
		}
		for _, rule := range policy.Spec.Egress {
			peers(rule.To)
		}
	}
	return list
}

// tally counts what was compared.
type tally struct {
	cells, allowed, denied int
	met                    map[string]int // differences, by name
	complaints             int

	packets, updates int // that the pipeline judged, and changes that its tables took as such
}

func newTally() *tally { return &tally{met: map[string]int{}} }

// most is how many complaints are printed: one fault makes thousands.
const most = 20

// add counts a cell, and returns what is wrong with it; empty: nothing, or nothing more that is to be printed.
func (t *tally) add(c *cell) string {
	t.cells++
	if c.oracle.Allowed {
		t.allowed++
	} else {
		t.denied++
	}
	if c.agree() {
		return ""
	}
	for _, d := range differences {
		if d.is(c) {
			t.met[d.name]++
			return ""
		}
	}
	if t.complaints++; t.complaints > most {
		return ""
	}
	return fmt.Sprintf("%s: cyclonus says egress %t, ingress %t, and the oracle %t, %t: %s", c.Probe, c.egress, c.ingress,
		c.oracle.Egress.Allowed, c.oracle.Ingress.Allowed, c.oracle.Why)
}

// pipe counts a packet that the pipeline is to judge as the oracle does, to the end that denies it. There is no list of
// differences here.
func (t *tally) pipe(e *engine.Engine, c *oracle.Cluster, p gen.Probe) string {
	t.packets++
	v := oracle.Judge(c, p.From, p.To, p.Protocol, p.Port)
	egressDenied, ingressDenied, err := e.Judge(p.From, p.To, p.Protocol, p.Port)
	if err == nil && egressDenied == !v.Egress.Allowed && ingressDenied == (v.Egress.Allowed && !v.Ingress.Allowed) {
		return ""
	}
	if t.complaints++; t.complaints > most {
		return ""
	}
	return fmt.Sprintf("%s: in the pipeline, denied by egress: %t, by ingress: %t (%v); by the oracle %t, %t: %s", p,
		egressDenied, ingressDenied, err, !v.Egress.Allowed, !v.Ingress.Allowed, v.Why)
}

func (t *tally) String() string {
	text := fmt.Sprintf("%d cells, %d allowed and %d denied", t.cells, t.allowed, t.denied)
	if t.packets > 0 {
		text += fmt.Sprintf("; %d packets, behind %d updates", t.packets, t.updates)
	}
	for _, d := range differences {
		if n := t.met[d.name]; n > 0 {
			text += fmt.Sprintf("; %d of %s", n, d.name)
		}
	}
	return text
}

// report fails where the cells are all alike.
func (t *tally) report(test *testing.T) {
	test.Helper()
	if t.complaints > most {
		test.Errorf("and %d cells more", t.complaints-most)
	}
	if t.allowed == 0 || t.denied == 0 {
		test.Errorf("all cells are alike: %s", t)
	}
}
