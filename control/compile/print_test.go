// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
)

// namer is how numbers are printed: as they are, or as what they are numbers of.
type namer struct {
	origin   func(uint32) string
	port     func(uint32) string
	group    func(uint32) string
	identity func(uint32) string
	peers    func(uint32) string
	service  func(uint32) string
}

func numbersOf(origins func(uint32) string) namer {
	number := func(n uint32) string { return fmt.Sprint(n) }
	return namer{origin: origins, port: number, group: number, identity: number, peers: number, service: number}
}

func printSnapshot(b *strings.Builder, s *api.Snapshot) {
	fmt.Fprintf(b, "epoch %d ", s.Epoch)
	n := numbersOf(func(i uint32) string { return s.Origins[i] })
	for _, line := range n.lines(s) {
		fmt.Fprintln(b, line)
	}
}

func printDelta(b *strings.Builder, step *compile.Step) {
	fmt.Fprintf(b, "epoch %d\n", step.Snapshot.Epoch)
	n := numbersOf(func(i uint32) string { return fmt.Sprintf("(%d)", i) })
	if d := step.Delta; d != nil {
		for _, line := range n.removed(d) {
			fmt.Fprintf(b, "- %s\n", line)
		}
		for _, i := range slices.Sorted(maps.Keys(d.Origins)) {
			fmt.Fprintf(b, "+ origin %d %s\n", i, d.Origins[i])
		}
		for _, line := range n.lines(d.Set) {
			fmt.Fprintf(b, "+ %s\n", line)
		}
		for _, change := range d.PeerSetChanges {
			fmt.Fprintf(b, "+ peers %d with %v without %v\n", change.Id, change.Added, change.Removed)
		}
	}
	for _, j := range step.Judged {
		fmt.Fprintf(b, "judged %s", j.Object.Key)
		if j.Error != nil {
			fmt.Fprintf(b, ": %s: %s", j.Error.Field, j.Error.Reason)
		}
		if j.Gone {
			b.WriteString(": gone")
		}
		b.WriteByte('\n')
	}
}

func (n namer) removed(d *api.Delta) (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, i := range d.RemovedOrigins {
		add("origin %d", i)
	}
	for _, id := range d.RemovedPorts {
		add("port %d", id)
	}
	for _, id := range d.RemovedLimits {
		add("limit port %d", id)
	}
	for _, nb := range d.RemovedNeighbors {
		add("neighbor %s port %d", address(nb.Address), nb.Port)
	}
	for _, id := range d.RemovedGroups {
		add("group %d", id)
	}
	for _, p := range d.RemovedRoutes {
		add("route %s", prefix(p))
	}
	for _, p := range d.RemovedHostRoutes {
		add("host route %s", prefix(p))
	}
	for _, id := range d.RemovedIdentities {
		add("identity %d", id)
	}
	for _, p := range d.RemovedIdentityPrefixes {
		add("address %s", prefix(p))
	}
	for _, name := range d.RemovedPolicies {
		add("policy %s", name)
	}
	for _, id := range d.RemovedPeerSets {
		add("peers %d", id)
	}
	for _, id := range d.RemovedServices {
		add("service %d", id)
	}
	for _, namespace := range d.RemovedEgress {
		add("egress %s", namespace)
	}
	return lines
}

// lines prints what is there, in order.
func (n namer) lines(s *api.Snapshot) (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if node := s.Node; node != nil {
		add("%s", settings(node))
	}
	for _, p := range s.Ports {
		add("port %s %s on %s queues %v vlans %d.%d mtu %d addresses %v%s", n.port(p.Id), p.Name, p.Device, p.Queues,
			p.OuterVlan, p.InnerVlan, p.Mtu, prefixes(p.Addresses), n.station(p))
	}
	for _, l := range s.Limits {
		add("limit port %s from %d burst %d to %d burst %d", n.port(l.Port), l.FromPortBitsPerSecond,
			l.FromPortBurstBytes, l.ToPortBitsPerSecond, l.ToPortBurstBytes)
	}
	for _, nb := range s.Neighbors {
		add("neighbor %s port %s is %s", address(nb.Address), n.port(nb.Port), net.HardwareAddr(nb.Mac))
	}
	for _, g := range s.Groups {
		add("group %s %s", n.group(g.Id), n.content(g))
	}
	for _, r := range s.Routes {
		add("route %s/%d group %s from %s", address(r.Prefix), r.Bits, n.group(r.Group), n.origin(r.Origin))
	}
	for _, r := range s.HostRoutes {
		via := "viaduct"
		if len(r.Via) > 0 {
			via = address(r.Via)
		}
		if r.Service {
			via += " to services"
		}
		add("host route %s via %s from %s", prefix(r.Prefix), via, n.origin(r.Origin))
	}
	for _, i := range s.Identities {
		add("identity %s %s", n.identity(i.Id), labels(i))
	}
	for _, p := range s.IdentityPrefixes {
		add("address %s identity %s from %s", prefix(p.Prefix), n.identity(p.Identity), n.origin(p.Origin))
	}
	for _, p := range s.PeerSets {
		add("peers %s %s", n.peers(p.Id), n.set(p))
	}
	for _, p := range s.Policies {
		add("policy %s from %s: %s", p.Name, n.origin(p.Origin), n.policy(p))
		for _, r := range p.Rules {
			add("policy %s rule %s", p.Name, n.rule(r))
		}
	}
	for _, s := range s.Services {
		lines = append(lines, n.serviceLines(s)...)
	}
	for _, e := range s.Egress {
		text := "egress " + e.Namespace
		for _, a := range e.Addresses {
			text += " " + address(a)
		}
		if e.Announced {
			text += " announced"
		}
		add("%s from %s", text, n.origin(e.Origin))
	}
	return lines
}

func (n namer) serviceLines(s *api.Service) (lines []string) {
	family := 4
	if s.Ipv6 {
		family = 6
	}
	name := fmt.Sprintf("service %s %s IPv%d", n.service(s.Id), s.Name, family)
	text := fmt.Sprintf("%s %s %s", name, enum(s.Protocol), enum(s.Algorithm))
	for i, value := range []uint32{s.AffinitySeconds, s.SlowStartSeconds, s.EjectionFailures} {
		if value > 0 {
			text += fmt.Sprintf(" %s %d", []string{"affinity", "slow start", "ejection"}[i], value)
		}
	}
	if s.Removal != 0 {
		text += " " + enum(s.Removal)
	}
	if s.DirectReturn {
		text += " direct"
	}
	lines = append(lines, text+" from "+n.origin(s.Origin))
	for _, f := range s.Frontends {
		text := fmt.Sprintf("%s at %s %s port %d", name, enum(f.Kind), address(f.Address), f.Port)
		if f.LocalOnly {
			text += " local"
		}
		if len(f.Sources) > 0 {
			text += fmt.Sprint(" sources ", prefixes(f.Sources))
		}
		if f.Announced {
			text += " announced"
		}
		lines = append(lines, text)
	}
	for _, b := range s.Backends {
		text := fmt.Sprintf("%s by %s port %d", name, address(b.Address), b.Port)
		if b.Weight != 1 {
			text += fmt.Sprint(" weight ", b.Weight)
		}
		for word, is := range map[string]bool{" draining": !b.Cluster && !b.Local, " local alone": b.Local && !b.Cluster,
			" and local": b.Local && b.Cluster} {
			if is {
				text += word
			}
		}
		lines = append(lines, text)
	}
	return lines
}

// enum is the last word or words of a value of an enum: "node port".
func enum(value fmt.Stringer) string {
	text := value.String()
	for _, prefix := range []string{"PROTOCOL_", "ALGORITHM_", "KIND_", "REMOVAL_"} {
		text = strings.TrimPrefix(text, prefix)
	}
	return strings.ToLower(strings.ReplaceAll(text, "_", " "))
}

// named prints what numbers are of, in the order of that.
func named(numbers []uint32, name func(uint32) string) string {
	var list []string
	for _, number := range numbers {
		list = append(list, name(number))
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b)) })
	return "[" + strings.Join(list, " ") + "]"
}

func (n namer) set(p *api.PeerSet) string {
	var parts []string
	if len(p.Identities) > 0 || len(p.Blocks)+len(p.Domains) == 0 {
		parts = append(parts, "identities "+named(p.Identities, n.identity))
	}
	for _, b := range p.Blocks {
		parts = append(parts, fmt.Sprint("block ", prefix(b.Prefix), " but ", prefixes(b.Except)))
	}
	if len(p.Domains) > 0 {
		parts = append(parts, fmt.Sprint("domains ", p.Domains))
	}
	return strings.Join(parts, " ")
}

func (n namer) policy(p *api.Policy) string {
	text := fmt.Sprintf("%s %d for %s", strings.ToLower(strings.TrimPrefix(p.Tier.String(), "TIER_")), p.Priority,
		named(p.Subjects, n.peers))
	if p.Ingress {
		text += " isolates ingress"
	}
	if p.Egress {
		text += " isolates egress"
	}
	if p.Staged {
		text += " staged"
	}
	return text
}

func (n namer) rule(r *api.PolicyRule) string {
	direction := strings.ToLower(strings.TrimPrefix(r.Direction.String(), "DIRECTION_"))
	action := strings.ToLower(strings.TrimPrefix(r.Action.String(), "ACTION_"))
	text := fmt.Sprintf("%s %s %s peers %s", r.Name, direction, action, named(r.Peers, n.peers))
	if r.AnyPeer {
		text += " any"
	}
	if r.AnyPort {
		return text + " ports any"
	}
	return text + " ports" + ranges(r.Ports)
}

func ranges(ports []*api.PortRange) string {
	var list []string
	for _, p := range ports {
		text := strings.TrimPrefix(p.Protocol.String(), "PROTOCOL_") + ":" + p.Name
		if p.Name == "" {
			text += fmt.Sprintf("%d-%d", p.First, p.Last)
		}
		list = append(list, text)
	}
	return fmt.Sprint(" ", list)
}

// station is what is behind a port, and from where that is known; empty for one of the NodeConfig.
func (n namer) station(p *api.Port) string {
	if p.Station == nil {
		return ""
	}
	text := " " + strings.ToLower(strings.TrimPrefix(p.Attach.String(), "ATTACH_"))
	if mac := net.HardwareAddr(p.Station.Mac); len(mac) > 0 {
		text += " " + mac.String()
	}
	if p.Station.Router {
		text += " router"
	}
	if p.NoOffload {
		text += " no offload"
	}
	for _, a := range p.Station.Addresses {
		text += " " + address(a)
	}
	return text + " from " + n.origin(p.Origin)
}

func settings(n *api.NodeSettings) string {
	text := fmt.Sprintf("node %s workers %d mtu %d offload %t %s masquerade %t pods %v", n.Name, n.Workers,
		n.Mtu, n.Offload, n.OnAbsence, n.Masquerade, prefixes(n.PodPrefixes))
	const unsaid = " [TCP:22-22 UDP:68-68 TCP:179-179 UDP:546-546 TCP:2379-2379 TCP:2380-2380 TCP:6443-6443]" +
		" [UDP:53-53 UDP:67-67 TCP:179-179 UDP:547-547 TCP:2379-2379 TCP:2380-2380 TCP:6443-6443]"
	if safe := ranges(n.FailSafeIngress) + ranges(n.FailSafeEgress); safe != unsaid {
		text += " fail-safe" + safe
	}
	if n.Flows+n.FlowsPerPort > 0 {
		text += fmt.Sprintf(" flows %d of a port %d", n.Flows, n.FlowsPerPort)
	}
	if len(n.DataplaneAddresses) > 0 {
		text += " dataplane"
		for _, a := range n.DataplaneAddresses {
			text += " " + address(a)
		}
	}
	if len(n.NodePortPrefixes) > 0 {
		text += fmt.Sprint(" node ports ", prefixes(n.NodePortPrefixes))
	}
	if len(n.Unmasqueraded) > 0 {
		text += fmt.Sprint(" unmasqueraded ", prefixes(n.Unmasqueraded))
	}
	if n.Uplink != nil {
		text += fmt.Sprintf(" uplink %s %s", n.Uplink.Device, n.Uplink.Mode)
	}
	return text
}

// content has the hops sorted by their text: their order in the snapshot is that of the ports' numbers.
func (n namer) content(g *api.NextHopGroup) string {
	parts := []string{strings.ToLower(strings.TrimPrefix(g.Kind.String(), "KIND_"))}
	for _, h := range g.Hops {
		parts = append(parts,
			fmt.Sprintf("[port %s via %s weight %d mtu %d]", n.port(h.Port), address(h.Via), h.Weight, h.Mtu))
	}
	slices.Sort(parts[1:])
	return strings.Join(parts, " ")
}

func labels(i *api.Identity) string {
	if i.Kind == api.Identity_KIND_NODE {
		return fmt.Sprintf("node %v", i.Labels)
	}
	text := fmt.Sprintf("pod of %s %v %v", i.Namespace, i.Labels, i.NamespaceLabels)
	for _, p := range i.NamedPorts {
		text += fmt.Sprintf(" %s=%s:%d", p.Name, strings.TrimPrefix(p.Protocol.String(), "PROTOCOL_"), p.Port)
	}
	return text
}

func address(b []byte) string {
	if len(b) == 0 {
		return "link"
	}
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

func prefix(p *api.Prefix) string { return fmt.Sprintf("%s/%d", address(p.Address), p.Bits) }

func prefixes(list []*api.Prefix) []string {
	var texts []string
	for _, p := range list {
		texts = append(texts, prefix(p))
	}
	return texts
}

// canonical prints a snapshot without numbers, so that two that mean the same print the same. The lines are sorted.
func canonical(s *api.Snapshot) []string {
	ports, groups, identities, peers := map[uint32]string{}, map[uint32]string{}, map[uint32]string{}, map[uint32]string{}
	n := namer{
		origin:   func(i uint32) string { return s.Origins[i] },
		port:     func(id uint32) string { return ports[id] },
		group:    func(id uint32) string { return "{" + groups[id] + "}" },
		identity: func(id uint32) string { return "{" + identities[id] + "}" },
		peers:    func(id uint32) string { return "{" + peers[id] + "}" },
		service:  func(uint32) string { return "" },
	}
	for _, p := range s.Ports {
		ports[p.Id] = p.Name
	}
	for _, g := range s.Groups {
		groups[g.Id] = n.content(g) + " from " + n.origin(g.Origin)
	}
	for _, i := range s.Identities {
		identities[i.Id] = labels(i)
	}
	for _, p := range s.PeerSets {
		peers[p.Id] = n.set(p)
	}
	lines := n.lines(s)
	for _, text := range s.Origins {
		lines = append(lines, "origin "+text)
	}
	lines = slices.DeleteFunc(lines, func(line string) bool { return line == "origin " }) // a free place
	slices.Sort(lines)
	return lines
}
