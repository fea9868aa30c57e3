// SPDX-License-Identifier: Apache-2.0

package system

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// desired is what the source holds, and with that what has to be in force in the end: the reference, which knows
// nothing of how control works.
type desired struct {
	ports  []port
	routes map[string]route
	pods   map[string]pod
	teams  map[string]string // of namespaces: their label
	bad    map[string]string // documents that are refused, by name of their object
}

type port struct {
	device    string
	addresses []string
	queues    string // empty: all
}

type route struct {
	destination string
	kind        string // "forward" or one without hops
	hops        []hop
}

type hop struct {
	via         string
	port        string
	weight, mtu int
}

type pod struct {
	namespace string
	labels    map[string]string
	address   string
}

// newDesired is what every test begins with: both ports, and the routes of the traffic.
func newDesired() *desired {
	d := &desired{
		ports: []port{
			{"l0", []string{"10.1.0.1/24", "fd00:1::1/64"}, ""},
			{"r0", []string{"10.2.0.1/24", "fd00:2::1/64"}, ""},
		},
		routes: map[string]route{}, pods: map[string]pod{}, teams: map[string]string{}, bad: map[string]string{},
	}
	d.steer(1)
	d.routes["left-4"] = route{"10.8.0.0/16", "forward", []hop{{"10.1.0.2", "l0", 1, 0}}}
	d.routes["left-6"] = route{"fd08::/16", "forward", []hop{{"fd00:1::2", "l0", 1, 0}}}
	return d
}

// steer leads the traffic to the right by the host's one address (1), the other (2), or both (3). All of it arrives.
func (d *desired) steer(by int) {
	v4 := []hop{{"10.2.0.2", "r0", 1, 0}, {"10.2.0.3", "r0", 3, 0}}
	v6 := []hop{{"fd00:2::2", "r0", 1, 0}, {"fd00:2::3", "r0", 3, 0}}
	from, to := (by-1)%2, min(by, 2)
	if by == 3 {
		from = 0
	}
	d.routes["right-4"] = route{"10.9.0.0/16", "forward", v4[from:to]}
	d.routes["right-6"] = route{"fd09::/16", "forward", v6[from:to]}
}

// documents are the manifests, by name of the object: "node", "route-left-4", "pod-p1", "namespace-a", "bad-3".
func (d *desired) documents() map[string]string {
	all := map[string]string{"node": d.node()}
	for name, r := range d.routes {
		all["route-"+name] = r.document(name)
	}
	for name, p := range d.pods {
		all["pod-"+name] = p.document(name)
	}
	for name, team := range d.teams {
		all["namespace-"+name] = fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {team: %s}}\n",
			name, team)
	}
	for name, text := range d.bad {
		all["bad-"+name] = text
	}
	return all
}

func (d *desired) node() string {
	var b strings.Builder
	b.WriteString("apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\nspec:\n  ports:\n")
	for _, p := range d.ports {
		fmt.Fprintf(&b, "  - {name: %s, device: %s, queues: [%s], addresses: [\"%s\"]}\n", p.device, p.device, p.queues,
			strings.Join(p.addresses, `", "`))
	}
	return b.String()
}

func (r route) document(name string) string {
	var hops []string
	for _, h := range r.hops {
		hops = append(hops, fmt.Sprintf("{via: %q, port: %s, weight: %d, mtu: %d}", h.via, h.port, h.weight, h.mtu))
	}
	text := fmt.Sprintf("apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\n"+
		"spec:\n  destination: %q\n  type: %s\n", name, r.destination, r.kind)
	if len(hops) > 0 {
		text += "  nextHops: [" + strings.Join(hops, ", ") + "]\n"
	}
	return text
}

func (p pod) document(name string) string {
	var labels []string
	for _, key := range slices.Sorted(maps.Keys(p.labels)) {
		labels = append(labels, fmt.Sprintf("%s: %q", key, p.labels[key]))
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: {%s}}\n"+
		"spec: {nodeName: elsewhere, containers: [{name: c, image: i}]}\nstatus: {podIPs: [{ip: %q}]}\n",
		name, p.namespace, strings.Join(labels, ", "), p.address)
}

// tables is what has to be in force.
func (d *desired) tables() tables {
	var t tables
	for _, p := range d.ports {
		t.ports = append(t.ports, fmt.Sprintf("%s on %s %v PORT_STATE_UP", p.device, p.device, p.addresses))
	}
	for _, r := range d.routes {
		var hops []string
		for _, h := range r.hops {
			const devices = 1500 // MTU, which is in force where none is said
			hops = append(hops, fmt.Sprintf("%s via %s weight %d mtu %d", h.port, h.via, h.weight, cmp.Or(h.mtu, devices)))
		}
		slices.Sort(hops)
		t.routes = append(t.routes, fmt.Sprintf("%s %s %q", r.destination, r.kind, hops))
	}
	for _, p := range d.pods {
		var labels []string
		for _, key := range slices.Sorted(maps.Keys(p.labels)) {
			labels = append(labels, key+"="+p.labels[key])
		}
		of := []string{"kubernetes.io/metadata.name=" + p.namespace}
		if team, said := d.teams[p.namespace]; said {
			of = append(of, "team="+team)
		}
		t.identities = append(t.identities, fmt.Sprintf("%s/32 pod %s %v %v", p.address, p.namespace, labels, of))
	}
	slices.Sort(t.routes)
	slices.Sort(t.identities)
	return t
}

// refusals are documents that cannot be in force, each for a reason of its own. %s is the object's name.
var refusals = []string{
	"apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\nspec: {destination: 10.300.0.0/16}\n",
	"apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\nspec: {destination: 10.77.0.0/16, type: odd}\n",
	"apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\nspec: {destination: 10.78.0.0/16, hops: []}\n",
	"apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\n" +
		"spec: {destination: 10.79.0.0/16, nextHops: [{via: 10.2.0.2, port: nowhere}]}\n",
	"apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nstatus: {podIPs: [{ip: here}]}\n",
}

// change makes one change by chance and returns the names of the documents that it touched.
func (d *desired) change(chance *rand.Rand) []string {
	i := chance.IntN(20)
	name := fmt.Sprint("r", i)
	switch chance.IntN(12) {
	case 0, 1, 2:
		d.routes[name] = someRoute(chance, i)
		return []string{"route-" + name}
	case 3:
		delete(d.routes, name)
		return []string{"route-" + name}
	case 4:
		d.steer(1 + chance.IntN(3))
		return []string{"route-right-4", "route-right-6"}
	case 5, 6, 7:
		name = fmt.Sprint("p", i)
		d.pods[name] = pod{
			namespace: []string{"a", "b"}[i%2], address: fmt.Sprintf("10.244.0.%d", i),
			labels: map[string]string{"app": fmt.Sprint("app-", chance.IntN(5)), "tier": fmt.Sprint(chance.IntN(2))},
		}
		return []string{"pod-" + name}
	case 8:
		delete(d.pods, fmt.Sprint("p", i))
		return []string{fmt.Sprint("pod-p", i)}
	case 9:
		namespace := []string{"a", "b"}[i%2]
		d.teams[namespace] = fmt.Sprint("team-", chance.IntN(4))
		return []string{"namespace-" + namespace}
	case 10:
		name = fmt.Sprint("b", i%5)
		d.bad[name] = fmt.Sprintf(refusals[i%len(refusals)], name)
		return []string{"bad-" + name}
	default:
		name = fmt.Sprint("b", i%5)
		delete(d.bad, name)
		return []string{"bad-" + name}
	}
}

func someRoute(chance *rand.Rand, i int) route {
	r := route{destination: fmt.Sprintf("10.64.%d.0/24", i), kind: "forward"}
	hosts := []hop{{via: "10.2.0.2", port: "r0"}, {via: "10.2.0.3", port: "r0"}, {via: "10.1.0.2", port: "l0"}}
	if i%2 == 1 {
		r.destination = fmt.Sprintf("fd64:%d::/32", i)
		hosts = []hop{{via: "fd00:2::2", port: "r0"}, {via: "fd00:2::3", port: "r0"}, {via: "fd00:1::2", port: "l0"}}
	}
	if chance.IntN(4) == 0 {
		r.kind = []string{"blackhole", "unreachable", "prohibit"}[chance.IntN(3)]
		return r
	}
	chance.Shuffle(len(hosts), func(a, b int) { hosts[a], hosts[b] = hosts[b], hosts[a] })
	for _, h := range hosts[:1+chance.IntN(3)] {
		h.weight, h.mtu = 1+chance.IntN(4), []int{0, 1400}[chance.IntN(2)]
		r.hops = append(r.hops, h)
	}
	return r
}

// put makes the directory hold the documents with these names as they are desired, of all when none is named.
func (s *site) put(d *desired, names ...string) {
	s.t.Helper()
	documents := d.documents()
	if len(names) == 0 {
		names = slices.Collect(maps.Keys(documents))
	}
	for _, name := range names {
		if text, wanted := documents[name]; wanted {
			s.write(name+".yaml", text)
		} else {
			s.remove(name + ".yaml")
		}
	}
}

// converges waits until what is desired is in force, and what is refused is said.
func (s *site) converges(d *desired) {
	s.t.Helper()
	want := d.tables()
	s.eventually("the tables to be what is desired", func() error {
		t, err := s.tables()
		if err != nil {
			return err
		}
		return t.differ(want)
	})
	refused := slices.Sorted(maps.Keys(d.bad))
	s.eventually("the refusals to be said", func() error {
		status, err := s.controlStatus()
		if err != nil {
			return err
		}
		var said []string
		for _, r := range status.Refused {
			said = append(said, r.Object[strings.LastIndexAny(r.Object, "/ ")+1:])
		}
		slices.Sort(said)
		return lines("refused", slices.Compact(said), refused)
	})
}
