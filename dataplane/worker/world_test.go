// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// The world of the tables in testdata/services: a node with three pods at the trunk and the host's port, in a cluster.
// Everybody has a name, which stands for an address of the family that a table is run with.
var worldNames = map[string][2]string{
	"a": {"10.244.1.7", "fd00:244:1::7"}, "b": {"10.244.1.8", "fd00:244:1::8"}, "c": {"10.244.1.6", "fd00:244:1::6"},
	"remote": {"10.244.2.7", "fd00:244:2::7"}, "remote2": {"10.244.2.8", "fd00:244:2::8"},
	"node": {"192.168.0.1", "fd00:168::1"}, "dataplane": {"10.244.1.254", "fd00:244:1::fffe"},
	"vip": {"10.96.0.10", "fd00:96::10"}, "vip2": {"10.96.0.11", "fd00:96::11"},
	"external": {"198.51.100.10", "2001:db8:1::10"}, "lb": {"198.51.100.20", "2001:db8:1::20"},
	"egress": {"198.51.100.30", "2001:db8:1::30"},
	"client": {"203.0.113.9", "2001:db8::9"}, "client2": {"203.0.114.9", "2001:db8:8::9"},
	"node2": {"192.168.0.2", "fd00:168::2"}, "dataplane2": {"10.244.2.254", "fd00:244:2::fffe"},
	"uplink": {"192.0.2.2", "2001:db8:2::2"}, "router": {"192.0.2.1", "2001:db8:2::1"},
	// prefixes
	"clients": {"203.0.113.0/24", "2001:db8::/64"}, "cluster": {"10.0.0.0/8", "fd00::/16"},
	"all": {"0.0.0.0/0", "::/0"}, "pods2": {"10.244.2.0/24", "fd00:244:2::/64"},
}

const podC, theUplink = 6, 1

var worldPorts = map[string]packet.PortID{"a": podA, "b": podB, "c": podC, "host": theHost, "uplink": theUplink}

// world is a rig whose snapshot the lines of a table make and change.
type world struct {
	*rig
	v6      bool
	owned   bool // the uplink is a port of its own; else the host's port leads there
	node    *api.NodeSettings
	egress  []*api.Egress
	service []*api.Service
	policy  []*api.Policy
	peers   []*api.PeerSet
	changed bool
	names   map[packet.Addr]string
	decided pipeline.Decision
}

func newWorld(t testing.TB, v6 bool) *world {
	w := &world{v6: v6, node: &api.NodeSettings{}, names: make(map[packet.Addr]string)}
	for name := range worldNames {
		if a, err := netip.ParseAddr(w.text(name)); err == nil {
			w.names[packet.AddrFrom(a)] = name
		}
	}
	w.rig = newRig(t, w.snapshot)
	left := func(backend uint32, answered bool) { w.tables.Load().Backends.Left(backend, answered) }
	w.worker.flows = conntrack.New(conntrack.Config{Flows: 4096, PerPort: 4096, Left: left})
	w.worker.pipeline.Init(w.worker.flows, nil)
	w.worker.observe = func(_ *packet.Packet, d *pipeline.Decision) { w.decided = *d }
	return w
}

// text is what a name stands for.
func (w *world) text(name string) string {
	pair, ok := worldNames[name]
	switch {
	case !ok:
		return name
	case w.v6:
		return pair[1]
	}
	return pair[0]
}

func (w *world) addr(name string) packet.Addr {
	a, err := netip.ParseAddr(w.text(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return packet.AddrFrom(a)
}

func (w *world) snapshot(s *api.Snapshot) {
	host := podPort(theHost, "host", "viaduct0", api.Port_ATTACH_HOST, w.text("node"))
	host.Station.Router = true
	s.Ports = []*api.Port{
		podPort(podC, "default/c", "vd6", api.Port_ATTACH_TRUNK, w.text("c")),
		podPort(podA, "red/a", "vd7", api.Port_ATTACH_TRUNK, w.text("a")),
		podPort(podB, "default/b", "vd8", api.Port_ATTACH_TRUNK, w.text("b")), host,
	}
	s.Groups, s.Routes = nil, nil
	for _, p := range s.Ports {
		s.Groups = append(s.Groups, &api.NextHopGroup{Id: p.Id, Hops: []*api.NextHop{{Port: p.Id, Weight: 1}}})
		for _, a := range p.Station.Addresses {
			s.Routes = append(s.Routes, &api.Route{Prefix: a, Bits: uint32(8 * len(a)), Group: p.Id})
		}
	}
	out := &api.NextHopGroup{Id: 20, Hops: []*api.NextHop{{Port: theHost, Weight: 1}}}
	if w.owned {
		link := prefix(w.text("uplink") + map[bool]string{false: "/24", true: "/64"}[w.v6])
		uplink := &api.Port{Id: theUplink, Name: "uplink", Device: "dev0", Addresses: []*api.Prefix{link}}
		s.Ports = append([]*api.Port{uplink}, s.Ports...)
		out.Hops[0] = &api.NextHop{Port: theUplink, Weight: 1, Via: ip(w.text("router"))}
	}
	s.Groups = append(s.Groups, out)
	addRoute(s, w.text("all"), 20)
	s.Node, s.Egress, s.Services, s.Policies, s.PeerSets = w.node, w.egress, w.service, w.policy, w.peers
	s.Node.DataplaneAddresses = [][]byte{ip(w.text("dataplane"))}
	w.identify(s)
}

// worldIdentities are the numbers of who policy knows; a is of another namespace than the others.
var worldIdentities = []string{"a", "b", "c", "remote", "remote2", "node", "node2"}

func (w *world) identify(s *api.Snapshot) {
	for i, name := range worldIdentities {
		id := &api.Identity{Id: uint32(i + 1), Kind: api.Identity_KIND_POD, Namespace: "default",
			Labels: []string{"name=" + name}}
		switch name {
		case "a":
			id.Namespace = "red"
		case "node", "node2":
			id.Kind, id.Namespace = api.Identity_KIND_NODE, ""
		}
		s.Identities = append(s.Identities, id)
	}
	for _, name := range append(slices.Clone(worldIdentities), "dataplane", "dataplane2") {
		is := uint32(slices.Index(worldIdentities, name) + 1)
		if owner, ok := strings.CutPrefix(name, "dataplane"); ok {
			is = uint32(slices.Index(worldIdentities, "node"+owner) + 1)
		}
		bits := map[bool]string{false: "/32", true: "/128"}[w.v6]
		s.IdentityPrefixes = append(s.IdentityPrefixes,
			&api.IdentityPrefix{Prefix: prefix(w.text(name) + bits), Identity: is})
	}
	slices.SortFunc(s.IdentityPrefixes, func(a, b *api.IdentityPrefix) int {
		return slices.Compare(a.Prefix.Address, b.Prefix.Address)
	})
}

// do carries out a line that changes the world. It returns false for one that is none.
func (w *world) do(line string) bool {
	f := strings.Fields(line)
	switch f[0] {
	case "wait":
		var seconds int64
		w.scan(f[1], "%ds", &seconds)
		w.now += seconds * 1e9
		return true
	case "uplink-owned":
		w.owned = true
		w.node.Uplink = &api.Uplink{Device: "dev0", Mode: api.Uplink_MODE_OWNED}
	case "uplink-shared":
		w.owned = true
		w.node.Uplink = &api.Uplink{Device: "dev0", Mode: api.Uplink_MODE_SHARED}
	case "host-answers":
		w.tables.Store(w.tables.Load().WithHostAnswers(true))
	case "masquerade":
		w.node.Masquerade = true
	case "unmasqueraded":
		w.node.Unmasqueraded = []*api.Prefix{prefix(w.text(f[1]))}
	case "egress":
		w.egress = append(w.egress, &api.Egress{Namespace: f[1], Addresses: [][]byte{ip(w.text(f[2]))}})
	case "service":
		w.addService(f[1:])
	case "frontend":
		w.addFrontend(f[1:])
	case "backend":
		w.addBackend(f[1:])
	case "remove":
		w.removeBackend(f[1:])
	case "only": // only X to Y: policy of Y
		w.only(f[1], f[3])
	default:
		return false
	}
	w.changed = true
	return true
}

func (w *world) scan(text, format string, to ...any) {
	if _, err := fmt.Sscanf(text, format, to...); err != nil {
		w.t.Fatalf("%q is no %q: %v", text, format, err)
	}
}

// renew puts what was changed in force.
func (w *world) renew() {
	if !w.changed {
		return
	}
	w.changed = false
	w.apply(w.snapshot)
	if w.owned {
		a := w.addr("router")
		w.neighbors.Resolve(theUplink, a, w.now)
		w.neighbors.Learn(theUplink, a, hostMACs[0], neighbor.SolicitedOverride|neighbor.Create, w.now)
	}
}

var worldProtocols = map[string]api.Protocol{
	"tcp": api.Protocol_PROTOCOL_TCP, "udp": api.Protocol_PROTOCOL_UDP, "sctp": api.Protocol_PROTOCOL_SCTP,
}

// service NAME PROTOCOL [reset] [direct] [affinity=SECONDS] [eject=FAILURES] [round-robin]
func (w *world) addService(f []string) {
	s := &api.Service{Id: uint32(len(w.service) + 1), Name: "default/" + f[0], Ipv6: w.v6, Protocol: worldProtocols[f[1]],
		Algorithm: api.Service_ALGORITHM_RANDOM}
	for _, option := range f[2:] {
		switch {
		case option == "reset":
			s.Removal = api.Service_REMOVAL_RESET
		case option == "direct":
			s.DirectReturn = true
		case strings.HasPrefix(option, "eject="):
			w.scan(option, "eject=%d", &s.EjectionFailures)
		case option == "round-robin":
			s.Algorithm = api.Service_ALGORITHM_ROUND_ROBIN
		case strings.HasPrefix(option, "affinity="):
			w.scan(option, "affinity=%d", &s.AffinitySeconds)
		default:
			w.t.Fatalf("service: %q", option)
		}
	}
	w.service = append(w.service, s)
}

// change makes a service of its own of one that is in force.
func (w *world) change(name string) *api.Service {
	w.service = slices.Clone(w.service)
	for i, s := range w.service {
		if s.Name == "default/"+name {
			w.service[i] = &api.Service{Id: s.Id, Name: s.Name, Ipv6: s.Ipv6, Protocol: s.Protocol, Algorithm: s.Algorithm,
				Removal: s.Removal, DirectReturn: s.DirectReturn, AffinitySeconds: s.AffinitySeconds,
				EjectionFailures: s.EjectionFailures, Frontends: slices.Clone(s.Frontends),
				Backends: slices.Clone(s.Backends)}
			return w.service[i]
		}
	}
	w.t.Fatalf("no service %s", name)
	return nil
}

func splitPort(end string) (name string, port uint16) {
	name, number, ok := strings.Cut(end, ":")
	if ok {
		_, _ = fmt.Sscan(number, &port)
	}
	return name, port
}

var worldKinds = map[string]api.Frontend_Kind{
	"cluster": api.Frontend_KIND_CLUSTER_IP, "external": api.Frontend_KIND_EXTERNAL_IP,
	"lb": api.Frontend_KIND_LOAD_BALANCER, "node-port": api.Frontend_KIND_NODE_PORT,
	"host-port": api.Frontend_KIND_HOST_PORT,
}

// frontend SERVICE KIND [ADDRESS]:PORT [local] [sources=PREFIX]
func (w *world) addFrontend(f []string) {
	s := w.change(f[0])
	name, port := splitPort(f[2])
	is := &api.Frontend{Kind: worldKinds[f[1]], Port: uint32(port)}
	if name != "" {
		is.Address = ip(w.text(name))
	}
	for _, option := range f[3:] {
		switch {
		case option == "local":
			is.LocalOnly = true
		case strings.HasPrefix(option, "sources="):
			is.Sources = []*api.Prefix{prefix(w.text(strings.TrimPrefix(option, "sources=")))}
		default:
			w.t.Fatalf("frontend: %q", option)
		}
	}
	s.Frontends = append(s.Frontends, is)
	slices.SortFunc(s.Frontends, func(a, b *api.Frontend) int {
		return slices.Compare([]int{int(a.Kind), int(a.Port)}, []int{int(b.Kind), int(b.Port)})
	})
}

// backend SERVICE ADDRESS:PORT [draining]
func (w *world) addBackend(f []string) {
	s := w.change(f[0])
	name, port := splitPort(f[1])
	b := &api.Backend{Address: ip(w.text(name)), Port: uint32(port), Weight: 1, Cluster: true}
	b.Local = !strings.HasPrefix(name, "remote")
	if len(f) > 2 && f[2] == "draining" {
		b.Cluster, b.Local = false, false
	}
	s.Backends = slices.DeleteFunc(s.Backends, func(o *api.Backend) bool {
		return slices.Equal(o.Address, b.Address) && o.Port == b.Port
	})
	s.Backends = append(s.Backends, b)
	slices.SortFunc(s.Backends, func(a, b *api.Backend) int { return slices.Compare(a.Address, b.Address) })
}

// remove SERVICE ADDRESS:PORT
func (w *world) removeBackend(f []string) {
	s := w.change(f[0])
	name, port := splitPort(f[1])
	s.Backends = slices.DeleteFunc(s.Backends, func(o *api.Backend) bool {
		return slices.Equal(o.Address, ip(w.text(name))) && o.Port == uint32(port)
	})
}

func (w *world) only(from, to string) {
	id := func(name string) uint32 { return uint32(slices.Index(worldIdentities, name) + 1) }
	n := 2 * id(to)
	w.peers = slices.DeleteFunc(slices.Clone(w.peers), func(p *api.PeerSet) bool { return p.Id == n || p.Id == n+1 })
	w.peers = append(w.peers, &api.PeerSet{Id: n, Identities: []uint32{id(from)}},
		&api.PeerSet{Id: n + 1, Identities: []uint32{id(to)}})
	slices.SortFunc(w.peers, func(a, b *api.PeerSet) int { return int(a.Id) - int(b.Id) })
	name := "NetworkPolicy default/" + to
	w.policy = slices.DeleteFunc(slices.Clone(w.policy), func(p *api.Policy) bool { return p.Name == name })
	w.policy = append(w.policy, &api.Policy{
		Name: name, Tier: api.Policy_TIER_NAMESPACE, Subjects: []uint32{n + 1}, Ingress: true,
		Rules: []*api.PolicyRule{{
			Name: "spec.ingress[0]", Action: api.PolicyRule_ACTION_ALLOW, Peers: []uint32{n}, AnyPort: true,
		}},
	})
	slices.SortFunc(w.policy, func(a, b *api.Policy) int { return strings.Compare(a.Name, b.Name) })
}

// send has a port's packet go through the worker and says what came of it: "b udp a:1000 > b:53 (reason)".
func (w *world) send(by, what string) string {
	w.t.Helper()
	w.renew()
	w.decided = pipeline.Decision{}
	data := w.build(what)
	if by == "uplink" {
		w.inject(0, data)
	} else {
		w.inject(1, onTrunk(worldPorts[by], data))
	}
	w.poll()
	var parts []string
	for device := range 2 {
		for _, out := range w.sent(device) {
			port := "uplink"
			if device == 1 {
				port = w.portName(packet.TrunkPort(packet.MAC(out[:6])))
			}
			parts = append(parts, port+" "+w.describe(out))
		}
	}
	if r := w.decided.Reason; r != verdict.Routed {
		parts = append(parts, "("+r.String()+")")
	}
	return strings.Join(parts, " ")
}

func (w *world) portName(id packet.PortID) string {
	for name, is := range worldPorts {
		if is == id {
			return name
		}
	}
	return fmt.Sprint("port ", id)
}
