// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func service(annotations, spec string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: web, annotations: %s}\nspec: %s\n", annotations,
		spec)
}

func TestService(t *testing.T) {
	got := decodeOne(t, service(`{viaduct.dev/algorithm: two-choices, viaduct.dev/slow-start: 1m30s,
    viaduct.dev/ejection: "3", viaduct.dev/removed-backends: reset, viaduct.dev/forwarding: direct,
    viaduct.dev/weights: "web-0=3, fd00:0::1=2", example.com/other: x}`, `
  type: LoadBalancer
  clusterIPs: ["fd96::1", 10.96.0.1]
  ipFamilies: [IPv6, IPv4]
  selector: {app: web}
  externalIPs: [192.0.2.7, 192.0.2.7]
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  loadBalancerSourceRanges: [" 198.51.100.1/24", "fd00::/8"]
  healthCheckNodePort: 32000
  trafficDistribution: PreferSameNode
  publishNotReadyAddresses: true
  allocateLoadBalancerNodePorts: false
  ports: [{name: a, port: 80, targetPort: http, nodePort: 30080, appProtocol: http}, {name: b, port: 53, protocol: UDP}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.1, ipMode: VIP}, {ip: 203.0.113.2, ipMode: Proxy},
  {hostname: x.example}]}}`))
	want := &Service{
		Fronted:      true,
		Addresses:    []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd96::1")},
		Families:     []int{6, 4},
		External:     []netip.Addr{netip.MustParseAddr("192.0.2.7")},
		LoadBalancer: []netip.Addr{netip.MustParseAddr("203.0.113.1")},
		Sources:      []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("fd00::/8")},
		Ports: []ServicePort{{Name: "a", Protocol: "TCP", Port: 80, NodePort: 30080, TargetName: "http"},
			{Name: "b", Protocol: "UDP", Port: 53, Target: 53}},
		InternalLocal: true, ExternalLocal: true, AffinitySeconds: 10800, HealthCheckPort: 32000,
		Selector: Selector{{Key: "app", Operator: In, Values: []string{"web"}}}, Unready: true,
		Annotations: ServiceAnnotations{Algorithm: "two-choices", SlowStart: 90, Ejection: 3, Removed: "reset", Direct: true,
			Weights: map[string]uint16{"web-0": 3, "fd00::1": 2}},
	}
	if diff := cmp.Diff(want, got.Spec, compareNetip, compareAddr); diff != "" {
		t.Error(diff)
	}
	if len(got.Complaints) > 0 {
		t.Error(got.Complaints)
	}
}

// TestUnfronted: nothing is known of a service that takes no traffic.
func TestUnfronted(t *testing.T) {
	for _, document := range []string{
		service("{}", "{clusterIP: None, ports: [{port: 80}]}"),
		service("{}", "{type: ExternalName, externalName: www.example.com}"),
		strings.Replace(service("{}", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}"), "annotations",
			"labels: {service.kubernetes.io/service-proxy-name: other}, annotations", 1),
		strings.Replace(service("{}", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}"), "annotations",
			"labels: {service.kubernetes.io/headless: \"\"}, annotations", 1),
	} {
		if o := decodeOne(t, document); !cmp.Equal(o.Spec, &Service{}, compareNetip, compareAddr) || len(o.Complaints) > 0 {
			t.Errorf("%s: %+v, %v", document, o.Spec, o.Complaints)
		}
	}
}

// TestServiceRefused: an unknown value of a field refuses the service.
func TestServiceRefused(t *testing.T) {
	for _, row := range []struct{ field, spec string }{
		{"spec.type", "{type: Magic}"},
		{"spec.clusterIP", "{clusterIP: 10.96.0}"},
		{"spec.clusterIPs[1]", "{clusterIPs: [10.96.0.1, 0.0.0.0]}"},
		{"spec.externalIPs[0]", "{clusterIP: 10.96.0.1, externalIPs: [\"fe80::1\"]}"},
		{"spec.ipFamilies[0]", "{clusterIP: 10.96.0.1, ipFamilies: [IPv5]}"},
		{"spec.ports[0].port", "{clusterIP: 10.96.0.1, ports: [{port: 0}]}"},
		{"spec.ports[0].protocol", "{clusterIP: 10.96.0.1, ports: [{port: 80, protocol: QUIC}]}"},
		{"spec.ports[0].targetPort", "{clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 70000}]}"},
		{"spec.ports[0].targetPort", "{clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: Http!}]}"},
		{"spec.ports[0].nodePort", "{clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30000}]}"},
		{"spec.ports[0].name", "{clusterIP: 10.96.0.1, ports: [{port: 80}, {port: 81}]}"},
		{"spec.ports[1].name", "{clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {name: a, port: 81}]}"},
		{"spec.ports[1].port", "{clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {name: b, port: 80}]}"},
		{"spec.sessionAffinity", "{clusterIP: 10.96.0.1, sessionAffinity: Cookie}"},
		{"spec.internalTrafficPolicy", "{clusterIP: 10.96.0.1, internalTrafficPolicy: Near}"},
		{"spec.externalTrafficPolicy", "{clusterIP: 10.96.0.1, externalTrafficPolicy: Near}"},
		{"spec.loadBalancerSourceRanges[0]", "{clusterIP: 10.96.0.1, loadBalancerSourceRanges: [x]}"},
		{"spec.selector", "{clusterIP: 10.96.0.1, selector: {\"a b\": c}}"},
		{"spec.nonsense", "{clusterIP: 10.96.0.1, nonsense: 1}"},
		{"spec.ports[0].nodePort", "{type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 65536}]}"},
		{"spec.sessionAffinityConfig.clientIP.timeoutSeconds",
			"{clusterIP: 10.96.0.1, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}"},
	} {
		objects, errs := Decode("f", []byte(service("{}", row.spec)))
		if len(objects) > 0 || len(errs) != 1 || !strings.HasPrefix(errs[0].Field, row.field) {
			t.Errorf("%s: %v, %v, want %s", row.spec, objects, errs, row.field)
		}
	}
}

// TestComplaints: what is wrong with an annotation leaves the object in force, without it.
func TestComplaints(t *testing.T) {
	const spec = "{clusterIP: 10.96.0.1, ports: [{port: 80}]}"
	pod := func(annotations string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: " + annotations + "}\n"
	}
	namespace := func(annotations string) string {
		return "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: " + annotations + "}\n"
	}
	for _, row := range []struct{ document, want string }{
		{service("{viaduct.dev/algorithm: best}", spec), "metadata.annotations[viaduct.dev/algorithm]"},
		{service("{viaduct.dev/slow-start: 1.5s}", spec), "metadata.annotations[viaduct.dev/slow-start]"},
		{service("{viaduct.dev/slow-start: -1s}", spec), "metadata.annotations[viaduct.dev/slow-start]"},
		{service("{viaduct.dev/ejection: many}", spec), "metadata.annotations[viaduct.dev/ejection]"},
		{service("{viaduct.dev/removed-backends: keep}", spec), "metadata.annotations[viaduct.dev/removed-backends]"},
		{service("{viaduct.dev/forwarding: tunnel}", spec), "metadata.annotations[viaduct.dev/forwarding]"},
		{service("{viaduct.dev/weights: a}", spec), "metadata.annotations[viaduct.dev/weights]"},
		{service("{viaduct.dev/weights: a=0}", spec), "metadata.annotations[viaduct.dev/weights]"},
		{service("{viaduct.dev/colour: red}", spec), "metadata.annotations[viaduct.dev/colour]"},
		{service("{}", "{ports: [{port: 80}]}"), "spec.clusterIP"},
		{service("{}", "{clusterIP: 10.96.0.1, trafficDistribution: Far}"), "spec.trafficDistribution"},
		{service("{}", "{type: LoadBalancer, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], "+
			"loadBalancerSourceRanges: [\"fd00::/8\"]}"), "spec.loadBalancerSourceRanges"},
		{pod(`{viaduct.dev/weight: "0"}`), "metadata.annotations[viaduct.dev/weight]"},
		{pod(`{viaduct.dev/weight: "65536"}`), "metadata.annotations[viaduct.dev/weight]"},
		{pod("{viaduct.dev/offload: never}"), "metadata.annotations[viaduct.dev/offload]"},
		{namespace(`{viaduct.dev/offload: ""}`), "metadata.annotations[viaduct.dev/offload]"},
		{namespace("{viaduct.dev/egress-addresses: x}"), "metadata.annotations[viaduct.dev/egress-addresses]"},
		{namespace(`{viaduct.dev/egress-addresses: "192.0.2.7,192.0.2.8"}`),
			"metadata.annotations[viaduct.dev/egress-addresses]"},
	} {
		o := decodeOne(t, row.document)
		if len(o.Complaints) != 1 || o.Complaints[0].Field != row.want || o.Complaints[0].Reason == "" {
			t.Errorf("%s: complaints %v, want one of %s", row.document, o.Complaints, row.want)
		}
	}
	o := decodeOne(t, namespace(`{viaduct.dev/egress-addresses: "2001:db8::7, 192.0.2.7"}`))
	want := &Namespace{Egress: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}}
	if diff := cmp.Diff(want, o.Spec, compareAddr); diff != "" {
		t.Error(diff)
	}
	both := `{viaduct.dev/offload: "false", viaduct.dev/weight: "2"}`
	if p := decodeOne(t, pod(both)).Spec.(*Pod); p.Offload != "false" || p.Weight != 2 {
		t.Errorf("pod: %+v", p)
	}
	if n := decodeOne(t, namespace(`{viaduct.dev/offload: "true"}`)).Spec.(*Namespace); n.Offload != "true" {
		t.Errorf("namespace: %+v", n)
	}
	if o := decodeOne(t, pod(`{viaduct.dev/weight: "65535"}`)); o.Spec.(*Pod).Weight != 65535 {
		t.Errorf("%+v", o.Spec)
	}
}

func TestEndpointSlice(t *testing.T) {
	const head = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n" +
		"metadata: {name: a, labels: {kubernetes.io/service-name: web}, annotations: {viaduct.dev/weight: \"4\"}}\n"
	got := decodeOne(t, head+`addressType: IPv4
ports: [{name: http, port: 80}, {name: any}, {port: 53, protocol: UDP}]
endpoints:
- {addresses: [10.0.0.1, 10.0.0.2]}
- {addresses: [10.0.0.3], nodeName: node, targetRef: {kind: Pod, name: p},
  conditions: {ready: false, terminating: true},
  hints: {forZones: [{name: z}], forNodes: [{name: node}]}}
`).Spec
	want := &EndpointSlice{Service: "web", Weight: 4,
		Ports: []EndpointPort{{"http", "TCP", 80}, {"", "UDP", 53}},
		Endpoints: []Endpoint{{Address: netip.MustParseAddr("10.0.0.1"), Ready: true, Serving: true},
			{Address: netip.MustParseAddr("10.0.0.3"), Node: "node", Pod: "p", Terminating: true, Zones: []string{"z"},
				Nodes: []string{"node"}}}}
	if diff := cmp.Diff(want, got, compareAddr); diff != "" {
		t.Error(diff)
	}
	names := decodeOne(t, head+"addressType: FQDN\nendpoints: [{addresses: [a.example]}]\n").Spec
	if names.(*EndpointSlice).Service != "" {
		t.Errorf("%+v", names)
	}
	for tail, field := range map[string]string{
		"endpoints: []\n":    "addressType",
		"addressType: IPX\n": "addressType",
		"addressType: IPv6\nendpoints: [{addresses: [10.0.0.1]}]\n": "endpoints[0].addresses[0]",
		"addressType: IPv4\nendpoints: [{addresses: []}]\n":         "endpoints[0].addresses",
		"addressType: IPv4\nports: [{port: 0}]\n":                   "ports[0].port",
	} {
		if _, errs := Decode("f", []byte(head+tail)); len(errs) != 1 || errs[0].Field != field {
			t.Errorf("%s: %v, want %s", tail, errs, field)
		}
	}
}

// TestServed: what an API server has let be is read with its meaning, and pods do not answer for what it knows.
func TestServed(t *testing.T) {
	o, err := FromTyped(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b"}, Spec: corev1.ServiceSpec{
		ClusterIP: "010.096.000.001", LoadBalancerIP: "192.0.2.1", Type: corev1.ServiceTypeLoadBalancer,
		Selector: map[string]string{"app": "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	s := o.Spec.(*Service)
	if s.Addresses[0].String() != "10.96.0.1" || s.Selector != nil || s.LoadBalancer != nil {
		t.Errorf("%+v", s)
	}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "b"}}
	if _, err := FromTyped(slice); err == nil {
		t.Error("an EndpointSlice of no family")
	}
}

func TestServiceCIDR(t *testing.T) {
	const head = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: a}\nspec: {cidrs: "
	got := decodeOne(t, head+"[10.96.0.0/12, \"fd96::/108\"]}\n").Spec
	want := &ServiceCIDR{[]netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd96::/108")}}
	if diff := cmp.Diff(want, got, compareNetip); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"[x]", "[10.96.0.1/12]", "[0.0.0.0/0]"} {
		if _, errs := Decode("f", []byte(head+bad+"}\n")); len(errs) != 1 || errs[0].Field != "spec.cidrs[0]" {
			t.Errorf("%s: %v", bad, errs)
		}
	}
}

func TestDataplaneAddress(t *testing.T) {
	for cidr, want := range map[string]string{
		"10.244.1.0/24": "10.244.1.254", "10.244.1.7/24": "10.244.1.254", "10.0.0.8/29": "10.0.0.14",
		"10.0.0.0/30": "invalid IP", "10.0.0.0/31": "invalid IP", "10.0.0.1/32": "invalid IP",
		"fd00::/64":  "fd00::ffff:ffff:ffff:ffff",
		"fd00::/124": "fd00::f", "fd00::/125": "invalid IP", "fd00::1/128": "invalid IP",
	} {
		if got := DataplaneAddress(netip.MustParsePrefix(cidr)).String(); got != want {
			t.Errorf("%s: %s, want %s", cidr, got, want)
		}
	}
}

// TestLargeService: what one service may have is bounded, and to find that out costs about what it has.
func TestLargeService(t *testing.T) {
	var ports, addresses, ranges []string
	for i := range 30_000 {
		ports = append(ports, fmt.Sprintf("{name: p%d, port: %d}", i, i%65535+1))
		addresses = append(addresses, fmt.Sprintf("192.0.%d.%d", i/256, i%256))
		ranges = append(ranges, fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))
	}
	spec := func(field string, list []string, rest string) string {
		return "{clusterIP: 10.96.0.1, " + field + ": [" + strings.Join(list, ", ") + "]" + rest + "}"
	}
	began := time.Now()
	for _, test := range []struct{ spec, field string }{
		{spec("ports", ports, ""), "spec.ports"},
		{spec("ports", ports[:maxServicePorts], ""), ""},
		{spec("externalIPs", addresses, ", ports: [{port: 80}]"), "spec.externalIPs"},
		{spec("externalIPs", addresses[:maxAddresses], ", ports: [{port: 80}]"), ""},
		{spec("loadBalancerSourceRanges", ranges, ", ports: [{port: 80}]"), "spec.loadBalancerSourceRanges"},
	} {
		_, refused := Decode("", []byte(service("{}", test.spec)))
		if (test.field == "") != (len(refused) == 0) || len(refused) > 0 && refused[0].Field != test.field {
			t.Errorf("refused %v, want %q", refused, test.field)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}
