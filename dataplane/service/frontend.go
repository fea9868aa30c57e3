// SPDX-License-Identifier: Apache-2.0

package service

import (
	"github.com/gaissmai/bart"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// frontend is where a service takes traffic.
type frontend struct {
	service *Service
	sources *bart.Lite // that may come; nil: all
	kind    api.Frontend_Kind
	local   bool
	key     key
}

// key is what of a flow finds its frontend.
type key struct {
	addr  packet.Addr // zero, in the family's form, of frontends at every address of the node
	port  uint16
	proto packet.IPProto
	place place
}

// place is what a key is of. A flow may be found at several; it is the first one's in this order: an address of the
// service's own goes before the node's, and a pod's host port, which its node was chosen for, before a node port, which
// every node has.
type place uint8

const (
	atAddress place = iota
	atHostPort
	atNodePort
	clusterAddress // of any port: the address is services' alone
)

// find returns the frontend that a flow was sent to, nil for none.
func (t *Table) find(q *Query) *frontend {
	k := key{q.Dst, q.DstPort, q.Proto, atAddress}
	if f := t.index.get(k); f != nil || !q.ToNode {
		return f
	}
	k.addr, k.place = anyAddress(!q.Dst.Is4()), atHostPort
	if f := t.index.get(k); f != nil {
		return f
	}
	k.place = atNodePort
	return t.index.get(k)
}

// owns says whether a flow, of a transport protocol or an ICMP echo, is sent to an address that only services have.
// Nobody is behind it, so that an echo finds out as much as a port that is not there.
func (t *Table) owns(q *Query) bool {
	switch q.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP, packet.ProtoICMP, packet.ProtoICMPv6:
		return t.Alone(q.Dst)
	}
	return false
}

// Alone says whether an address is one that only services have: nobody is behind it.
func (t *Table) Alone(a packet.Addr) bool {
	return t != nil && t.index.alone(a)
}

// Claims says whether services have an address alone, or a port at it: nobody else speaks from there.
func (t *Table) Claims(a packet.Addr, port uint16, proto packet.IPProto) bool {
	return t != nil && (t.Alone(a) || t.index.get(key{a, port, proto, atAddress}) != nil)
}

// anyAddress stands for every address of a family.
func anyAddress(ipv6 bool) packet.Addr {
	if ipv6 {
		return packet.Addr{}
	}
	return packet.Addr4(0)
}

// outside says whether the frontend is for clients outside the cluster.
func (f *frontend) outside() bool { return f.kind != api.Frontend_KIND_CLUSTER_IP }

// onlyLocal says whether a flow goes to backends on this node alone: internal traffic policy holds for every client,
// external traffic policy for those outside.
func (f *frontend) onlyLocal(q *Query) bool { return f.local && !(f.outside() && q.Inside) }

// pool is those of whom one answers the flow; nil, with what becomes of it, where nobody does.
func (f *frontend) pool(q *Query) (*pool, Outcome) {
	s := f.service
	p := &s.cluster
	if f.onlyLocal(q) {
		p = &s.local
	}
	switch {
	case !f.lets(q.Src):
		return nil, SourceDenied
	case len(p.members) > 0:
		return p, Chosen
	case len(s.cluster.members) > 0: // somebody answers elsewhere
		return nil, NoLocal
	}
	return nil, Refused
}

func (f *frontend) lets(src packet.Addr) bool {
	return f.sources == nil || f.sources.Lookup(src.Netip())
}

// frontendOf makes a frontend that was checked.
func (s *Service) frontendOf(cfg *api.Frontend) frontend {
	f := frontend{service: s, kind: cfg.Kind, local: cfg.LocalOnly, key: key{
		addr: anyAddress(s.config.Ipv6), port: uint16(cfg.Port), proto: packet.IPProto(s.config.Protocol),
	}}
	switch {
	case len(cfg.Address) > 0:
		a, _ := address(cfg.Address, s.config.Ipv6)
		f.key.addr = packet.AddrFrom(a)
	case cfg.Kind == api.Frontend_KIND_HOST_PORT:
		f.key.place = atHostPort
	default:
		f.key.place = atNodePort
	}
	for _, p := range cfg.Sources {
		if f.sources == nil {
			f.sources = new(bart.Lite)
		}
		prefix, _ := identity.Parse(p)
		f.sources.Insert(prefix)
	}
	return f
}
