// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// world draws objects of few names and values, so that they meet.
type world struct{ t *rapid.T }

func (w world) one(label string, of ...string) string { return rapid.SampledFrom(of).Draw(w.t, label) }
func (w world) maybe(label string) bool               { return rapid.Bool().Draw(w.t, label) }

func (w world) addresses(label string, of ...string) (list []netip.Addr) {
	for _, text := range rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 3, rapid.ID).Draw(w.t, label) {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func (w world) prefixes(label string, of ...string) (list []netip.Prefix) {
	for _, text := range rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 2, rapid.ID).Draw(w.t, label) {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func (w world) key() model.Key {
	switch kind := w.one("kind", "Pod", "Pod", "Namespace", "Node", "NodeConfig", "Route", "Route", "Service",
		"Service", "Service", "EndpointSlice", "EndpointSlice", "EndpointSlice", "ServiceCIDR",
		"NetworkPolicy", "NetworkPolicy", "ClusterNetworkPolicy"); kind {
	case "Pod", "Service", "EndpointSlice", "NetworkPolicy":
		return model.Key{Kind: kind, Namespace: w.one("namespace", "x", "y"), Name: w.one("name", "a", "b", "c")}
	case "Namespace":
		return model.Key{Kind: kind, Name: w.one("name", "x", "y")}
	case "ServiceCIDR":
		return model.Key{Kind: kind, Name: w.one("name", "a", "b")}
	case "Route", "ClusterNetworkPolicy":
		return model.Key{Kind: kind, Name: w.one("name", "a", "b", "c", "d")}
	case "NodeConfig":
		return model.Key{Kind: kind, Name: w.one("name", "n1", "n2", "default")}
	default:
		return model.Key{Kind: kind, Name: w.one("name", "n1", "n2", "n3")}
	}
}

func (w world) object(specs policySpecs) *model.Object {
	o := &model.Object{Key: w.key(), Labels: map[string]string{"app": w.one("label", "1", "2")}}
	if w.maybe("tier") {
		o.Labels["tier"] = w.one("value", "1", "2")
	}
	if w.maybe("zone") {
		o.Labels[model.ZoneLabel] = w.one("zone", "1", "2")
	}
	o.Place.File = w.one("file", "", "f", "g")
	o.Generation = rapid.Int64Range(1, 2).Draw(w.t, "generation")
	switch o.Key.Kind {
	case "Pod":
		o.UID = w.one("uid", "", "1", "2")
		o.Spec = &model.Pod{HostNetwork: w.one("host", "no", "no", "yes") == "yes",
			Finished:  w.one("finished", "no", "no", "yes") == "yes",
			Addresses: w.addresses("podIPs", "10.9.0.1", "10.9.0.2", "192.0.2.2", "fd09::1")}
		o.Spec.(*model.Pod).Weight = w.number("weight", 0, 0, 0, 7)
		o.Spec.(*model.Pod).Offload = w.one("offload", "", "", "true", "false")
		o.Spec.(*model.Pod).Node = w.one("node", "n1", "n2")
		o.Spec.(*model.Pod).Unready = w.one("unready", "no", "no", "yes") == "yes"
		if w.maybe("port") {
			o.Spec.(*model.Pod).Ports = []model.ContainerPort{{Name: "web", Protocol: "TCP", Port: 80}}
		}
	case "Namespace":
		o.Labels[model.NamespaceLabel] = o.Key.Name
		o.Spec = &model.Namespace{Egress: w.addresses("egress", "192.0.2.77"),
			Offload: w.one("offload", "", "", "true", "false")}
	case "Node":
		o.Spec = &model.Node{PodCIDRs: w.cidrs(),
			Addresses: w.addresses("addresses", "192.0.2.1", "192.0.2.2", "198.51.100.2", "fd00::2")}
	case "NodeConfig":
		o.Spec = w.config()
	case "Route":
		o.Spec = w.route()
	case "NetworkPolicy", "ClusterNetworkPolicy":
		w.policy(o, specs)
	case "Service":
		o.Spec = w.service()
		if w.maybe("complaint") {
			o.Complaints = []model.Complaint{{Field: "metadata.annotations", Reason: w.one("reason", "1", "2")}}
		}
	case "EndpointSlice":
		o.Spec = w.slice()
	case "ServiceCIDR":
		o.Spec = &model.ServiceCIDR{Prefixes: w.prefixes("serviceCIDRs", "10.96.0.0/12", "fd96::/108", "10.1.0.0/16")}
	}
	return o
}

func (w world) number(label string, of ...uint16) uint16 {
	return rapid.SampledFrom(of).Draw(w.t, label)
}

// service draws one whose frontends may be another's.
func (w world) service() *model.Service {
	if w.one("fronted", "yes", "yes", "yes", "no") == "no" {
		return &model.Service{}
	}
	s := &model.Service{
		Fronted:       true,
		Addresses:     w.addresses("clusterIPs", "10.96.0.1", "10.96.0.2", "fd96::1", "172.16.0.1"),
		External:      w.addresses("externalIPs", "10.96.0.1", "192.0.2.2", "198.51.100.77", "fd00::77"),
		LoadBalancer:  w.addresses("ingress", "198.51.100.77", "198.51.100.78"),
		Sources:       w.prefixes("sources", "10.0.0.0/8", "fd00::/8"),
		InternalLocal: w.maybe("internal"), ExternalLocal: w.maybe("external"),
		HealthCheckPort: w.number("health", 0, 30000), AffinitySeconds: uint32(w.number("affinity", 0, 10800)),
	}
	if w.maybe("selects") {
		s.Selector = model.Selector{{Key: "app", Operator: model.In, Values: []string{w.one("selector", "1", "2")}}}
	}
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"http", "dns"}), 1, 2, rapid.ID).Draw(w.t, "ports")
	for _, name := range names {
		p := model.ServicePort{Name: name, Protocol: "TCP", Port: 80, NodePort: w.number("nodePort", 0, 30080), Target: 8080}
		if name == "dns" {
			p.Protocol, p.Port, p.Target, p.TargetName = w.one("protocol", "UDP", "TCP"), w.number("port", 53, 81), 0, "web"
		}
		s.Ports = append(s.Ports, p)
	}
	s.Annotations.Algorithm = w.one("algorithm", "", "maglev")
	if w.maybe("weights") {
		s.Annotations.Weights = map[string]uint16{"a": 3}
	}
	return s
}

func (w world) slice() *model.EndpointSlice {
	s := &model.EndpointSlice{Service: w.one("service", "", "a", "a", "b", "c"), Weight: w.number("weight", 0, 0, 5),
		Ports: []model.EndpointPort{{Name: "http", Protocol: "TCP", Port: w.number("port", 8080, 8081)}}}
	if w.maybe("dns") {
		s.Ports = append(s.Ports, model.EndpointPort{Name: "dns", Protocol: "UDP", Port: 53})
	}
	for _, a := range w.addresses("endpoints", "10.9.0.1", "10.9.0.2", "10.9.0.3", "fd09::1") {
		e := model.Endpoint{Address: a, Node: w.one("node", "", "n1", "n2"), Pod: w.one("pod", "", "a", "b"),
			Ready: w.maybe("ready"), Serving: w.maybe("serving"), Terminating: w.maybe("terminating")}
		if w.maybe("hint") {
			e.Zones = []string{w.one("zone", "1", "2")}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func (w world) cidrs() []netip.Prefix {
	return w.prefixes("podCIDRs", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "fd01::/64")
}

func (w world) config() *model.NodeConfig {
	n := model.DefaultNodeConfig()
	if w.maybe("CIDRs") {
		n.PodCIDRs = w.cidrs()
	}
	n.NamespaceIsolation = w.maybe("isolation")
	if w.maybe("service CIDRs") {
		n.ServiceCIDRs = w.prefixes("serviceCIDRs", "10.96.0.0/12", "172.16.0.0/12")
	}
	n.NoMasquerade = w.prefixes("noMasquerade", "10.0.0.0/8", "203.0.113.0/24")
	n.Uplink = &model.Uplink{Device: "eth0", Mode: w.one("mode", "kernel", "owned")}
	if w.maybe("p") {
		n.Ports = append(n.Ports, model.Port{Name: "p", Device: "p", Addresses: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("fd00::1/64")}})
	}
	if w.maybe("q") {
		n.Ports = append(n.Ports, model.Port{Name: w.one("port", "q", "r"), Device: "q", Addresses: []netip.Prefix{
			netip.MustParsePrefix("198.51.100.1/24")}})
	}
	return n
}

func (w world) route() *model.Route {
	r := &model.Route{Type: w.one("type", "forward", "forward", "blackhole"), Node: w.one("node", "", "", "n1", "n2"),
		Destination: netip.MustParsePrefix(w.one("destination", "10.1.0.0/16", "10.2.0.0/16", "20.0.0.0/8", "fd01::/64"))}
	if r.Node == "" && w.maybe("select") {
		r.NodeSelector = map[string]string{"app": w.one("selector", "1", "2")}
	}
	if r.Type == "forward" {
		for _, via := range append(w.addresses("hops", "192.0.2.7", "192.0.2.8", "198.51.100.7"),
			netip.MustParseAddr("192.0.2.9")) {
			r.NextHops = append(r.NextHops, model.NextHop{Via: via, Weight: 1})
		}
	}
	return r
}

// attachment draws one of few ports, of which some are the NodeConfig's too.
func (w world) attachment() *compile.Attachment {
	a := &compile.Attachment{Port: w.port(), Device: w.one("device", "vd1", "vd2"), Direct: w.maybe("direct"),
		Addresses: w.addresses("addresses", "10.9.0.1", "10.9.0.2", "192.0.2.1", "10.1.0.1", "10.1.255.254", "fd09::1")}
	if w.maybe("of a pod") {
		a.PodNamespace, a.PodName = w.one("namespace", "x", "y"), w.one("name", "a", "b", "c")
	}
	if w.maybe("hostPort") {
		a.HostPorts = []compile.HostPort{{HostPort: w.number("host port", 80, 30080), ContainerPort: 8080,
			Protocol: api.Protocol_PROTOCOL_TCP}}
	}
	if w.maybe("limited") {
		a.Egress.BitsPerSecond = 1000
	}
	return a
}

func (w world) port() string { return w.one("port", "x/a", "x/b", "y/a", "p", "q") }

// TestRandom: whatever changes, each step is what its delta makes of the one before, and what compiling the same
// objects from nothing gives but for numbers; these are kept; and the order within a change does not matter.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{t}
		node := compile.Node{Name: w.one("this node", "n1", "n9"), Sole: w.maybe("sole")}
		run := &run{c: compile.New(node), twin: compile.New(node), state: newState(), told: told{},
			specs: policySpecs{}}
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) { run.change(world{t}) },
			"attach": func(t *rapid.T) { run.attach(world{t}) },
			"compile": func(t *rapid.T) {
				run.compile(t, node)
			},
			"again": func(*rapid.T) {
				run.c, run.twin, run.told = compile.New(node), compile.New(node), told{}
				run.resume()
			},
			"resume": func(*rapid.T) { run.resume() },
			"ack":    func(*rapid.T) { run.ack() },
		})
	})
}

type run struct {
	c, twin *compile.Compiler
	state   state
	last    *api.Snapshot // of the compiler
	latest  *api.Snapshot // of these compilers and those before them
	inForce *api.Snapshot // with the dataplane: the latest that it acked
	epoch   uint64
	told    told
	specs   policySpecs
}

func (r *run) change(w world) {
	set := map[model.Key]*model.Object{}
	for range rapid.IntRange(0, 4).Draw(w.t, "set") {
		o := w.object(r.specs)
		set[o.Key] = o
	}
	var removed []model.Key
	for range rapid.IntRange(0, 3).Draw(w.t, "removed") {
		if key := w.key(); set[key] == nil {
			removed = append(removed, key)
			delete(r.state.objects, key)
		}
	}
	maps.Copy(r.state.objects, set)
	list := slices.SortedFunc(maps.Values(set), func(a, b *model.Object) int { return a.Key.Compare(b.Key) })
	r.c.Change(list, removed)
	slices.Reverse(list)
	slices.Reverse(removed)
	if w.maybe("whole") {
		r.twin.Replace(slices.Collect(maps.Values(r.state.objects)))
		return
	}
	r.twin.Change(list, removed)
}

func (r *run) attach(w world) {
	set := map[string]*compile.Attachment{}
	for range rapid.IntRange(0, 3).Draw(w.t, "set") {
		a := w.attachment()
		set[a.Port] = a
	}
	var removed []string
	for range rapid.IntRange(0, 2).Draw(w.t, "removed") {
		if port := w.port(); set[port] == nil {
			removed = append(removed, port)
			delete(r.state.attachments, port)
		}
	}
	maps.Copy(r.state.attachments, set)
	list := slices.Collect(maps.Values(set))
	r.c.Attach(list, removed)
	slices.Reverse(list)
	slices.Reverse(removed)
	r.twin.Attach(list, removed)
}

// ack has the dataplane take the latest snapshot. It misses those for which this is not called.
func (r *run) ack() {
	r.inForce = r.latest
	r.c.Acked(r.latest.GetEpoch())
	r.twin.Acked(r.latest.GetEpoch())
}

func (r *run) resume() {
	all := slices.Collect(maps.Values(r.state.objects))
	for _, c := range []*compile.Compiler{r.c, r.twin} {
		c.Replace(all)
		c.Attach(slices.Collect(maps.Values(r.state.attachments)), nil)
		c.Resume(r.inForce)
	}
	r.last, r.latest = nil, r.inForce
}

func (r *run) compile(t *rapid.T, node compile.Node) {
	step, err := r.c.Compile(r.epoch + 1)
	twin, twinErr := r.twin.Compile(r.epoch + 1)
	if err != nil {
		if !errors.Is(err, compile.ErrNoNode) || twinErr == nil || err.Error() != twinErr.Error() {
			t.Fatal(err, twinErr)
		}
		return
	}
	checkStep(t, node, r.state, r.c, r.last, step)
	r.told.check(t, node, r.state, step)
	r.specs.check(t, r.state, step.Snapshot)
	checkNumbers(t, r.latest, step.Snapshot)
	checkReuse(t, r.latest, step.Snapshot)
	checkReuse(t, r.inForce, step.Snapshot)
	checkNewSets(t, step, r.latest, r.inForce)
	if !proto.Equal(step.Snapshot, twin.Snapshot) {
		t.Errorf("in another order:\n%s", cmp.Diff(canonical(step.Snapshot), canonical(twin.Snapshot)))
	}
	if r.last != nil && !proto.Equal(step.Delta, twin.Delta) {
		t.Errorf("delta %v, in another order %v", step.Delta, twin.Delta)
	}
	r.last, r.latest, r.epoch = step.Snapshot, step.Snapshot, step.Snapshot.Epoch
}
