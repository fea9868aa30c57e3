// SPDX-License-Identifier: Apache-2.0

package pipeline

import (
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/fragment"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// translation says how the flow is translated that the packet opens from one port to the other; not at all where
// neither a service has it nor its source needs another address.
func (l *Pipeline) translation(p *packet.Packet, in, out *tables.Port) verdict.Reason {
	o := &l.opening
	if l.seen.Reply {
		return verdict.None
	}
	if l.direct(p, in, out) {
		return l.openDirect(out)
	}
	src, r := l.source(p, in, out)
	if r != verdict.None || src.IsZero() && !l.way.chosen {
		return r
	}
	o.translated = true
	o.translation = conntrack.Translation{Src: src}
	if c := &l.choice; l.way.chosen {
		o.translation.Dst, o.translation.DstPort, o.translation.Backend = c.Backend, c.Port, c.Number
	}
	return verdict.None
}

// source is the address that the flow's packets come from instead of their own; zero: they keep theirs. What a service
// leads elsewhere has to come back by this node.
func (l *Pipeline) source(p *packet.Packet, in, out *tables.Port) (packet.Addr, verdict.Reason) {
	f := &l.seen.Tuple
	switch {
	case l.way.chosen && f.Src == f.Dst && (isPod(in) || isPod(out)): // to itself: the answer would not leave it
		return p.Dst, verdict.None
	case isPod(out): // whose answers come by this node in any case
		return packet.Addr{}, verdict.None
	case isPod(in):
		return l.podSource(f, out)
	case !l.way.chosen:
		return packet.Addr{}, verdict.None
	case out.Host && l.t.HostAnswers() && l.t.IsHost(f.Dst) && !l.t.IsHost(f.Src):
		return packet.Addr{}, verdict.None
	}
	return l.outer(out, f.Dst)
}

// podSource is the address that a pod of this node has towards what is outside the cluster: its namespace's, or, by a
// port that masquerades, the port's.
func (l *Pipeline) podSource(f *conntrack.Tuple, out *tables.Port) (packet.Addr, verdict.Reason) {
	four, six := l.t.EgressOf(f.Src)
	egress := pick(f.Dst, four, six)
	if egress.IsZero() && !out.Masquerades || l.t.Unmasqueraded(f.Dst) {
		return packet.Addr{}, verdict.None
	}
	if !egress.IsZero() {
		return egress, verdict.None
	}
	return usable(out.Source(f.Dst))
}

// isPod: behind the port is a pod of this node, and nobody else.
func isPod(port *tables.Port) bool { return port.Station.Only() && !port.Station.Router }

// usable is an address to translate to, if there is one that means something beyond its link.
func usable(a packet.Addr) (packet.Addr, verdict.Reason) {
	if a.IsZero() || a.IsLinkLocal() {
		return packet.Addr{}, verdict.NoNATAddress
	}
	return a, verdict.None
}

// addresses are those that a first fragment is going to have: all of its datagram have them.
func (l *Pipeline) addresses(p *packet.Packet) fragment.Addresses {
	s, o := &l.seen, &l.opening
	switch {
	case l.way.direct && l.way.translated:
		return fragment.Addresses{Dst: s.Direct}
	case l.way.direct:
		return fragment.Addresses{Dst: o.translation.Dst}
	case l.way.translated && isError(s):
		src := p.Src
		if src == s.Quoted.Dst {
			src = s.Ends.Dst
		}
		return fragment.Addresses{Src: src, Dst: s.Ends.Src}
	case l.way.translated:
		return fragment.Addresses{Src: s.Ends.Src, Dst: s.Ends.Dst}
	case o.is && o.translated:
		a := fragment.Addresses{Src: o.translation.Src, Dst: o.translation.Dst}
		if a.Src.IsZero() {
			a.Src = p.Src
		}
		if a.Dst.IsZero() {
			a.Dst = p.Dst
		}
		return a
	}
	return fragment.Addresses{}
}

// translate gives the packet, which is about to leave, the ends that its flow has on the other side.
func (l *Pipeline) translate(p *packet.Packet) verdict.Reason {
	w, s := &l.way, &l.seen
	var is bool
	switch {
	case w.judged:
		is = p.Translate(packet.Ends{Src: l.others.Src, Dst: l.others.Dst})
	case isError(s):
		is = p.TranslateError(s.Ends)
	default:
		is = p.Translate(s.Ends)
	}
	if !is {
		return verdict.NATUnsupported
	}
	return verdict.None
}
