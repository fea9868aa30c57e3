// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	klabels "k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// policySpecs are the policies of a test as the API has them, for the naive evaluation.
type policySpecs map[model.Key]any

func (w world) selector(label string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	for range rapid.IntRange(0, 2).Draw(w.t, label) {
		key := w.one("key", "app", "app", "b-c", "tier", model.NamespaceLabel)
		values := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"1", "2", "x"}), 1, 2, rapid.ID).Draw(w.t, "values")
		switch op := w.one("operator", "labels", "In", "In", "NotIn", "Exists", "DoesNotExist"); op {
		case "labels":
			s.MatchLabels = map[string]string{key: values[0]}
		case "Exists", "DoesNotExist":
			s.MatchExpressions = append(s.MatchExpressions,
				metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOperator(op)})
		default:
			s.MatchExpressions = append(s.MatchExpressions,
				metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOperator(op), Values: values})
		}
	}
	return s
}

func (w world) networkPolicy(key model.Key) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{}
	p.Namespace, p.Name = key.Namespace, key.Name
	p.Spec.PodSelector = *w.selector("subject")
	for range rapid.IntRange(0, 2).Draw(w.t, "ingress") {
		var from []networkingv1.NetworkPolicyPeer
		for range rapid.IntRange(0, 2).Draw(w.t, "from") {
			switch w.one("peer", "pods", "namespaces", "both", "block") {
			case "pods":
				from = append(from, networkingv1.NetworkPolicyPeer{PodSelector: w.selector("pods")})
			case "namespaces":
				from = append(from, networkingv1.NetworkPolicyPeer{NamespaceSelector: w.selector("namespaces")})
			case "both":
				from = append(from, networkingv1.NetworkPolicyPeer{
					PodSelector: w.selector("pods"), NamespaceSelector: w.selector("namespaces")})
			case "block":
				from = append(from, networkingv1.NetworkPolicyPeer{
					IPBlock: &networkingv1.IPBlock{CIDR: w.one("cidr", "10.0.0.0/8", "::/0"), Except: nil}})
			}
		}
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: from})
	}
	return p
}

func (w world) clusterPolicy(key model.Key) *policyv1alpha2.ClusterNetworkPolicy {
	p := &policyv1alpha2.ClusterNetworkPolicy{}
	p.APIVersion, p.Kind, p.Name = policyv1alpha2.GroupVersion.String(), key.Kind, key.Name
	p.Spec.Tier = policyv1alpha2.Tier(w.one("tier", "Admin", "Baseline"))
	p.Spec.Priority = rapid.Int32Range(0, 2).Draw(w.t, "priority")
	if w.maybe("host") {
		p.Annotations = map[string]string{"viaduct.dev/subject": "nodes"}
		p.Spec.Subject.Pods = &policyv1alpha2.NamespacedPod{PodSelector: *w.selector("nodes")}
	} else if p.Spec.Subject.Namespaces = w.selector("subject"); w.maybe("pods") {
		p.Spec.Subject.Pods = &policyv1alpha2.NamespacedPod{
			NamespaceSelector: *p.Spec.Subject.Namespaces, PodSelector: *w.selector("pods")}
		p.Spec.Subject.Namespaces = nil
	}
	for range rapid.IntRange(0, 2).Draw(w.t, "egress") {
		r := policyv1alpha2.ClusterNetworkPolicyEgressRule{Action: policyv1alpha2.ClusterNetworkPolicyRuleActionAccept}
		for range rapid.IntRange(1, 2).Draw(w.t, "to") {
			var peer policyv1alpha2.ClusterNetworkPolicyEgressPeer
			switch w.one("peer", "namespaces", "nodes", "domains", "pods") {
			case "namespaces":
				peer.Namespaces = w.selector("namespaces")
			case "nodes":
				peer.Nodes = w.selector("nodes")
			case "domains":
				peer.DomainNames = []policyv1alpha2.DomainName{"a.example.com"}
			case "pods":
				peer.Pods = &policyv1alpha2.NamespacedPod{PodSelector: *w.selector("pods")}
			}
			r.To = append(r.To, peer)
		}
		p.Spec.Egress = append(p.Spec.Egress, r)
	}
	return p
}

// policy draws one, and notes it as the API has it.
func (w world) policy(o *model.Object, specs policySpecs) {
	var read *model.Object
	var refused *model.Error
	if o.Key.Kind == "NetworkPolicy" {
		p := w.networkPolicy(o.Key)
		specs[o.Key] = p
		read, refused = model.FromTyped(p)
	} else {
		p := w.clusterPolicy(o.Key)
		specs[o.Key] = p
		text, err := json.Marshal(p)
		if err != nil {
			w.t.Fatal(err)
		}
		read, refused = model.FromJSON(model.Place{File: "f"}, text)
	}
	if refused != nil {
		w.t.Fatal(refused)
	}
	o.Spec = read.Spec
}

// naive evaluates selectors as k8s.io/apimachinery does, over the identities of a snapshot.
type naive struct{ s *api.Snapshot }

func (n naive) identities(selects func(*api.Identity) bool) (list []uint32) {
	for _, id := range n.s.Identities {
		if selects(id) {
			list = append(list, id.Id)
		}
	}
	return list
}

func matches(s *metav1.LabelSelector, list []string) bool {
	set := klabels.Set{}
	for _, label := range list {
		k, v, _ := strings.Cut(label, "=")
		set[k] = v
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(set)
}

// pods are those of a namespace, or of the namespaces that a selector selects.
func (n naive) pods(namespace string, namespaces, pods *metav1.LabelSelector) []uint32 {
	if pods == nil {
		pods = &metav1.LabelSelector{}
	}
	return n.identities(func(id *api.Identity) bool {
		in := id.Namespace == namespace
		if namespaces != nil {
			in = matches(namespaces, id.NamespaceLabels)
		}
		return id.Kind == api.Identity_KIND_POD && in && matches(pods, id.Labels)
	})
}

func (n naive) nodes(nodes *metav1.LabelSelector) []uint32 {
	return n.identities(func(id *api.Identity) bool {
		return id.Kind == api.Identity_KIND_NODE && matches(nodes, id.Labels)
	})
}

// networkPolicy returns who is in the sets of subjects, and in those of each rule, in all.
func (n naive) networkPolicy(p *networkingv1.NetworkPolicy) (lists [][]uint32) {
	lists = append(lists, n.pods(p.Namespace, nil, &p.Spec.PodSelector))
	for _, rule := range p.Spec.Ingress {
		var all []uint32
		for _, peer := range rule.From {
			if peer.IPBlock == nil {
				all = append(all, n.pods(p.Namespace, peer.NamespaceSelector, peer.PodSelector)...)
			}
		}
		lists = append(lists, all)
	}
	return lists
}

func (n naive) clusterPolicy(p *policyv1alpha2.ClusterNetworkPolicy) (lists [][]uint32) {
	of := func(namespaces *metav1.LabelSelector, pods *policyv1alpha2.NamespacedPod) []uint32 {
		if pods != nil {
			return n.pods("", &pods.NamespaceSelector, &pods.PodSelector)
		}
		return n.pods("", namespaces, nil)
	}
	if len(p.Annotations) > 0 {
		lists = append(lists, n.nodes(&p.Spec.Subject.Pods.PodSelector))
	} else {
		lists = append(lists, of(p.Spec.Subject.Namespaces, p.Spec.Subject.Pods))
	}
	for _, rule := range p.Spec.Egress {
		var all []uint32
		for _, peer := range rule.To {
			switch {
			case peer.Nodes != nil:
				all = append(all, n.nodes(peer.Nodes)...)
			case peer.DomainNames == nil:
				all = append(all, of(peer.Namespaces, peer.Pods)...)
			}
		}
		lists = append(lists, all)
	}
	return lists
}

// check compares the sets of each policy of the snapshot with the naive evaluation.
func (all policySpecs) check(t checker, state state, s *api.Snapshot) {
	t.Helper()
	sets, byName := map[uint32][]uint32{}, map[string]*api.Policy{}
	for _, set := range s.PeerSets {
		sets[set.Id] = set.Identities
	}
	for _, p := range s.Policies {
		byName[p.Name] = p
	}
	for key, spec := range all {
		if state.objects[key] == nil {
			continue
		}
		p := byName[key.String()]
		if p == nil {
			t.Errorf("%s is not there", key)
			continue
		}
		var want [][]uint32
		switch spec := spec.(type) {
		case *networkingv1.NetworkPolicy:
			want = naive{s}.networkPolicy(spec)
		case *policyv1alpha2.ClusterNetworkPolicy:
			want = naive{s}.clusterPolicy(spec)
		}
		got := [][]uint32{union(sets, p.Subjects)}
		for _, r := range p.Rules {
			got = append(got, union(sets, r.Peers))
		}
		for i := range want {
			slices.Sort(want[i])
			want[i] = slices.Compact(want[i])
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s has %v, want %v", p, got, want)
		}
	}
}

func union(sets map[uint32][]uint32, ids []uint32) (all []uint32) {
	for _, id := range ids {
		all = append(all, sets[id]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestResumePeerSets: over a restart sets keep their numbers, and a set that is new has none that is in force.
func TestResumePeerSets(t *testing.T) {
	policy := func(name string, apps ...string) *model.Object {
		p := &networkingv1.NetworkPolicy{}
		p.Name, p.Namespace = name, "namespace-1"
		p.Spec.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{
			{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: apps}}
		o, refused := model.FromTyped(p)
		if refused != nil {
			t.Fatal(refused)
		}
		return o
	}
	numbers := func(s *api.Snapshot) map[string]uint32 {
		m := map[string]uint32{}
		for _, p := range s.Policies {
			m[strings.TrimPrefix(p.Name, "NetworkPolicy namespace-1/")] = p.Subjects[0]
		}
		return m
	}
	pods := size{pods: 15, nodes: 1, namespaces: 5}.objects() // 1, 6 and 11 are the namespace's
	c := compile.New(compile.Node{Name: "node-0"})
	c.Replace(append(slices.Clip(pods), policy("b", "app-1"), policy("c", "app-6"), policy("d", "app-11")))
	first, err := c.Compile(1)
	if err != nil {
		t.Fatal(err)
	}
	c = compile.New(compile.Node{Name: "node-0"})
	c.Replace(append(slices.Clip(pods), policy("a", "app-1", "app-6"), policy("c", "app-6"), policy("d", "app-11")))
	c.Resume(first.Snapshot)
	next, err := c.Compile(2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]uint32{"b": 1, "c": 2, "d": 3}, numbers(first.Snapshot)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]uint32{"a": 4, "c": 2, "d": 3}, numbers(next.Snapshot)); diff != "" {
		t.Error(diff)
	}
}
