// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
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
}

func numbersOf(origins func(uint32) string) namer {
	number := func(n uint32) string { return fmt.Sprint(n) }
	return namer{origin: origins, port: number, group: number, identity: number}
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
		add("host route %s via %s from %s", prefix(r.Prefix), via, n.origin(r.Origin))
	}
	for _, i := range s.Identities {
		add("identity %s %s", n.identity(i.Id), labels(i))
	}
	for _, p := range s.IdentityPrefixes {
		add("address %s identity %s from %s", prefix(p.Prefix), n.identity(p.Identity), n.origin(p.Origin))
	}
	return lines
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
	for _, a := range p.Station.Addresses {
		text += " " + address(a)
	}
	return text + " from " + n.origin(p.Origin)
}

func settings(n *api.NodeSettings) string {
	text := fmt.Sprintf("node %s workers %d mtu %d offload %t %s masquerade %t pods %v", n.Name, n.Workers,
		n.Mtu, n.Offload, n.OnAbsence, n.Masquerade, prefixes(n.PodPrefixes))
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
	return fmt.Sprintf("pod of %s %v %v", i.Namespace, i.Labels, i.NamespaceLabels)
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
	ports, groups, identities := map[uint32]string{}, map[uint32]string{}, map[uint32]string{}
	n := namer{
		origin:   func(i uint32) string { return s.Origins[i] },
		port:     func(id uint32) string { return ports[id] },
		group:    func(id uint32) string { return "{" + groups[id] + "}" },
		identity: func(id uint32) string { return "{" + identities[id] + "}" },
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
	lines := n.lines(s)
	for _, text := range s.Origins {
		lines = append(lines, "origin "+text)
	}
	lines = slices.DeleteFunc(lines, func(line string) bool { return line == "origin " }) // a free place
	slices.Sort(lines)
	return lines
}
