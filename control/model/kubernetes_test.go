// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// aPod is as an API server has it.
const aPod = `
apiVersion: v1
kind: Pod
metadata:
  name: web-1
  namespace: shop
  labels: {app: web, tier: front}
  annotations: {a: b}
  generation: 3
  resourceVersion: "12345"
  uid: 6e4a7bd8-3f5c-4a3d-9a55-0f3b8a1c2d3e
  creationTimestamp: "2026-01-02T03:04:05Z"
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: u, controller: true}]
  managedFields:
  - {manager: kubelet, operation: Update, apiVersion: v1, time: "2026-01-02T03:04:05Z", fieldsType: FieldsV1,
     fieldsV1: {"f:metadata": {"f:labels": {".": {}}}}, subresource: status}
spec:
  nodeName: n1
  containers:
  - name: c
    image: registry.example/web:1
    resources: {limits: {cpu: 500m, memory: 1Gi}}
    readinessProbe: {httpGet: {path: /, port: http}}
    ports: [{name: http, containerPort: 8080, protocol: TCP}, {containerPort: 9090},
            {name: dns, containerPort: 53, protocol: UDP}]
  tolerations: [{key: k, operator: Exists, tolerationSeconds: 300}]
status:
  phase: Running
  podIP: 10.244.1.5
  podIPs: [{ip: 10.244.1.5}, {ip: "fd00:10:244:1::5"}]
  startTime: "2026-01-02T03:04:05Z"
`

func TestPod(t *testing.T) {
	got := decodeOne(t, aPod)
	want := &Pod{
		UID:       "6e4a7bd8-3f5c-4a3d-9a55-0f3b8a1c2d3e",
		Node:      "n1",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("fd00:10:244:1::5")},
		Ports:     []ContainerPort{{"http", "TCP", 8080}, {"dns", "UDP", 53}},
	}
	if diff := cmp.Diff(want, got.Spec, compareAddr); diff != "" {
		t.Error(diff)
	}
	if got.Key != (Key{"Pod", "shop", "web-1"}) || got.Generation != 3 ||
		!cmp.Equal(got.Labels, map[string]string{"app": "web", "tier": "front"}) {
		t.Errorf("object %+v", got)
	}
}

// TestSparse: what is not known yet is no fault.
func TestSparse(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
	const node = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n"
	for _, c := range []struct {
		text string
		want any
	}{
		{pod, &Pod{}},
		{pod + "spec: {hostNetwork: true, nodeName: n1}\nstatus: {phase: Pending}", &Pod{HostNetwork: true, Node: "n1"}},
		{pod + "status: {phase: Succeeded}", &Pod{Finished: true}},
		{strings.Replace(pod, "{name: a", "{name: a, uid: u, annotations: {kubernetes.io/config.mirror: v}", 1),
			&Pod{UID: "v"}},
		{pod + "status: {phase: Failed}", &Pod{Finished: true}},
		{pod + "status: {podIP: 10.0.0.1}", &Pod{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}},
		{node, &Node{}},
		{node + "spec: {podCIDR: 10.0.0.0/24}", &Node{PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}},
		{node + `status: {addresses: [{type: Hostname, address: a}, {type: InternalDNS, address: a.b},
		    {type: ExternalIP, address: 198.51.100.1}, {type: InternalIP, address: 10.0.0.1},
		    {type: InternalIP, address: "fe80::1"}, {type: ExternalIP, address: 10.0.0.1}]}`,
			&Node{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("198.51.100.1")}}},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nstatus: {phase: Active}", &Namespace{}},
	} {
		if diff := cmp.Diff(c.want, decodeOne(t, c.text).Spec, compareNetip, compareAddr); diff != "" {
			t.Errorf("%s\n%s", c.text, diff)
		}
	}
}

func TestNamespaceLabel(t *testing.T) {
	for _, labels := range []string{"{}", "{a: b}", "{kubernetes.io/metadata.name: lie}"} {
		o := decodeOne(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: n1, labels: "+labels+"}")
		if o.Labels["kubernetes.io/metadata.name"] != "n1" {
			t.Errorf("labels %v", o.Labels)
		}
	}
}

func TestRefusedKubernetes(t *testing.T) {
	pod := func(rest string) string { return "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n" + rest }
	node := func(rest string) string { return "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n" + rest }
	checkRefused(t, []refusal{
		{pod("spec: {nodename: n}"), "spec.nodename", "unknown field"},
		{pod("spec: {containers: [{name: c, prots: []}]}"), "spec.containers[0].prots", "unknown field"},
		{pod("Spec: {}"), "Spec", "unknown field"},
		{pod("spec: {hostNetwork: 1}"), "spec.hostNetwork", "bool is meant, not number"},
		{pod("spec: []"), "spec", "an object is meant, not a list"},
		{pod("spec: {containers: {}}"), "spec.containers", "a list is meant, not an object"},
		{pod("spec: {containers: [{name: c, ports: [{containerPort: x}]}]}"),
			"spec.containers.ports.containerPort", "an integer is meant, not string"},
		{pod("status: {podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0}]}"), "status.podIPs[1].ip", "not an address"},
		{pod("status: {podIP: 224.0.0.1}"), "status.podIP", "unicast"},
		{pod(`status: {podIP: "fe80::1"}`), "status.podIP", "link-local"},
		{pod("spec: {containers: [{name: c, ports: [{containerPort: 0}]}]}"),
			"spec.containers[0].ports[0].containerPort", "between 1 and 65535"},
		{pod("spec: {containers: [{name: c, ports: [" + strings.Repeat("{name: a, containerPort: 1}, ", 4097) + "]}]}"),
			"spec.containers", "4097 ports with names"},
		{pod("spec: {containers: [{name: c, ports: [{containerPort: 1, protocol: ICMP}]}]}"),
			"spec.containers[0].ports[0].protocol", "not one of"},
		{node("spec: {podCIDRs: [10.0.0.0/24, 10.0.0.1/24]}"), "spec.podCIDRs[1]", "10.0.0.0/24"},
		{node("spec: {podCIDRs: [224.0.0.0/24]}"), "spec.podCIDRs[0]", "not forwarded"},
		{node("spec: {podCIDR: x}"), "spec.podCIDR", "not a prefix"},
		{node("status: {addresses: [{type: InternalIP, address: n1}]}"), "status.addresses[0].address", "not an address"},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nspec: {x: 1}", "spec.x", "unknown field"},
		{"apiVersion: v1\nkind: Namespace\nMetadata: {name: a}", "metadata.name", "must be said"},
	})
}

// TestTyped: an object is the same however it comes.
func TestTyped(t *testing.T) {
	for _, c := range []struct {
		text string
		to   runtime.Object
	}{
		{aPod, &corev1.Pod{}},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {x: z}}", &corev1.Namespace{}},
		{"apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24]}",
			&corev1.Node{}},
		{"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: None}", &corev1.Service{}},
		{"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: IPv4",
			&discoveryv1.EndpointSlice{}},
		{"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}", &networkingv1.NetworkPolicy{}},
	} {
		text, err := yaml.YAMLToJSON([]byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, c.to); err != nil {
			t.Fatal(err)
		}
		typed, refused := FromTyped(c.to)
		if refused != nil {
			t.Fatal(refused)
		}
		fromText, refused := FromJSON(Place{}, text)
		if refused != nil {
			t.Fatal(refused)
		}
		_, raw := typed.Spec.(Raw)
		if raw { // the type has fields that the text leaves out
			typed.Spec, fromText.Spec = nil, nil
		}
		typed.Key.Namespace = fromText.Key.Namespace // the API server says it, always
		if !typed.Same(fromText) || typed.Generation != fromText.Generation {
			t.Errorf("typed %+v\ntext %+v", typed, fromText)
		}
	}
	if _, refused := FromTyped(&corev1.Secret{}); refused == nil {
		t.Error("a Secret was taken")
	}
	if _, refused := FromTyped(&corev1.Pod{Status: corev1.PodStatus{PodIP: "x"}}); refused == nil ||
		refused.Field != "status.podIP" {
		t.Errorf("refused %v", refused)
	}
}

func TestFromJSON(t *testing.T) {
	for _, text := range []string{"", " \n", "null"} {
		if o, err := FromJSON(Place{}, []byte(text)); o != nil || err != nil {
			t.Errorf("%q: %v, %v", text, o, err)
		}
	}
	place := Place{File: "/viaduct/Route/a"}
	o, err := FromJSON(place, []byte(`{"apiVersion":"viaduct.dev/v1alpha1","kind":"Route","metadata":{"name":"a",`+
		`"generation":7},"spec":{"destination":"10.0.0.0/8","type":"blackhole"}}`))
	if err != nil || o.Generation != 7 || o.Origin() != "Route a (/viaduct/Route/a)" {
		t.Errorf("%v, %v", o, err)
	}
	if _, err := FromJSON(place, []byte(`{"apiVersion":`)); err == nil || err.Place != place {
		t.Errorf("error %v", err)
	}
	if _, err := FromJSON(place, make([]byte, MaxObject+1)); err == nil || !strings.Contains(err.Reason, "more than") {
		t.Errorf("error %v", err)
	}
}

func TestList(t *testing.T) {
	text := `
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- {apiVersion: v1, kind: Pod, metadata: {name: a}}
- {apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {nope: 1}}
- {kind: Pod}
- null
- {apiVersion: v1, kind: Node, metadata: {name: c}}
---
{apiVersion: v1, kind: PodList, items: [{apiVersion: v1, kind: Pod, metadata: {name: d}}]}
---
{apiVersion: v1, kind: List, items: []}
---
{apiVersion: example.com/v1, kind: PlayList, metadata: {name: e}, spec: {items: []}}`
	objects, errs := Decode("f.yaml", []byte(text))
	var got []string
	for _, o := range objects {
		got = append(got, o.Origin())
	}
	for _, e := range errs {
		got = append(got, e.Error())
	}
	want := []string{
		"Pod default/a (f.yaml:2)", "Node c (f.yaml:2)", "Pod default/d (f.yaml:12)",
		"PlayList.example.com e (f.yaml:16)",
		"f.yaml:2 (document 1): Pod default/b: spec.nope: unknown field",
		"f.yaml:2 (document 1): Pod: items[2].apiVersion: must be said",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestKinds(t *testing.T) {
	for _, k := range Kinds() {
		if got, known := KindOf(k.APIVersion, k.Name); !known || got != k {
			t.Errorf("%v is not known", k)
		}
	}
	if _, known := KindOf("v1", "Route"); known {
		t.Error("v1 has no Route")
	}
}

func TestSame(t *testing.T) {
	a, b := decodeOne(t, aPod), decodeOne(t, "\n"+strings.Replace(aPod, "generation: 3", "generation: 4", 1))
	if !a.Same(b) {
		t.Error("place and generation count")
	}
	for _, change := range []string{"web-1/web-2", "shop/shop2", "tier: front/tier: back", "nodeName: n1/nodeName: n2",
		"podIP: 10.244.1.5/podIP: 10.244.1.6", "{ip: 10.244.1.5}/{ip: 10.244.1.6}", "8080/8081"} {
		from, to, _ := strings.Cut(change, "/")
		other := decodeOne(t, strings.Replace(aPod, from, to, 1))
		if same := a.Same(other); same != strings.HasPrefix(change, "podIP:") { // podIPs goes before podIP
			t.Errorf("%s: same %t", change, same)
		}
	}
}

// BenchmarkFromJSON reads a pod as an API server or etcd has it; BenchmarkDecode reads it as a manifest.
func BenchmarkFromJSON(b *testing.B) {
	text, err := yaml.YAMLToJSON([]byte(aPod))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, refused := FromJSON(Place{}, text); refused != nil {
			b.Fatal(refused)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct{ name, text string }{
		{"pod", aPod}, {"route", route("{destination: 10.0.0.0/8, nextHops: [{via: 10.0.0.1}]}")},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, errs := Decode("f", []byte(c.text)); len(errs) > 0 {
					b.Fatal(errs[0])
				}
			}
		})
	}
}
