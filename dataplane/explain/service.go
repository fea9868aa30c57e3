// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Asked is a flow that would begin.
type Asked struct {
	Src, Dst netip.Addr
	Proto    packet.IPProto
	Port     uint16 // of the destination
	Inside   bool   // the client is of the cluster: traffic policies of clients outside do not hold for it
	ToNode   bool   // Dst is an address of the node at which node ports, and host ports of all addresses, are
}

// To explains a flow to where it is addressed. One that is a service's of the snapshot is explained for each backend
// that may be chosen, as judge says of that: it may be where one of them may be reached.
func To(s *controlapi.Snapshot, a *Asked, judge func(dst netip.Addr, port uint16) *api.ExplainReply) *api.ExplainReply {
	found := find(s, a)
	direct := judge(a.Dst, a.Port)
	if found == nil {
		return direct
	}
	r := &api.ExplainReply{Service: found.service.GetName(), Steps: direct.Steps[:1:1]} // who asks
	r.Steps = append(r.Steps, fmt.Sprintf("to %s: %s", a.Dst, found))
	if reason := found.refuses(a); reason != verdict.None {
		r.Verdict, r.Reason = word(false), reason.String()
		r.Steps = append(r.Steps, reason.Doc())
		return r
	}
	var decides, staged *api.ExplainReply
	for _, b := range found.backends(a) {
		address, _ := netip.AddrFromSlice(b.GetAddress())
		one := judge(address, uint16(b.GetPort()))
		r.Backends = append(r.Backends, &api.ExplainedBackend{
			Address: address.String(), Port: b.GetPort(), Verdict: one.Verdict, Reason: one.Reason, Rule: one.Rule})
		r.Steps = append(r.Steps, "backend "+backendText(address, b, one))
		if decides == nil || decides.Verdict != word(true) && one.Verdict == word(true) {
			decides = one
		}
		if let, _ := stagedOf(one); staged == nil || let == word(true) {
			staged = one
		}
	}
	r.Verdict, r.Reason, r.Rule = decides.Verdict, decides.Reason, decides.Rule
	r.Steps = append(r.Steps, decides.Steps[1:]...)
	if r.StagedVerdict, r.StagedRule = stagedOf(staged); r.StagedVerdict == r.Verdict {
		r.StagedVerdict, r.StagedRule = "", ""
	}
	return r
}

func backendText(address netip.Addr, b *controlapi.Backend, r *api.ExplainReply) string {
	text := fmt.Sprintf("%s: %s", netip.AddrPortFrom(address, uint16(b.GetPort())), r.Verdict)
	if r.Reason != "" {
		text += ", " + r.Reason
	}
	if r.Rule != "" {
		text += ": " + r.Rule
	}
	return text
}

// frontend is where a service takes the flow; without a frontend, an address of services that has not the port.
type frontend struct {
	service  *controlapi.Service
	frontend *controlapi.Frontend
}

// find looks for the frontend that a flow goes to, nil where it goes to none. One with an address goes before one of
// all addresses of the node, and of these a pod's host port before a node port.
func find(s *controlapi.Snapshot, a *Asked) *frontend {
	var best *frontend
	var beside bool // a cluster address, which has not the port
	rank := func(f *controlapi.Frontend) int {
		switch {
		case len(f.GetAddress()) > 0:
			return 0
		case f.GetKind() == controlapi.Frontend_KIND_HOST_PORT:
			return 1
		}
		return 2
	}
	for _, service := range s.GetServices() {
		if service.GetIpv6() != a.Dst.Is6() {
			continue
		}
		for _, f := range service.GetFrontends() {
			if !at(s, f, a) {
				continue
			}
			same := packet.IPProto(service.GetProtocol()) == a.Proto && f.GetPort() == uint32(a.Port)
			beside = beside || !same && f.GetKind() == controlapi.Frontend_KIND_CLUSTER_IP
			if same && (best == nil || rank(f) < rank(best.frontend)) {
				best = &frontend{service, f}
			}
		}
	}
	if best == nil && beside && (Ports(a.Proto) || a.Proto == packet.ProtoICMP || a.Proto == packet.ProtoICMPv6) {
		return &frontend{}
	}
	return best
}

// at says whether a frontend is at the destination's address.
func at(s *controlapi.Snapshot, f *controlapi.Frontend, a *Asked) bool {
	if len(f.GetAddress()) > 0 {
		return slices.Equal(f.GetAddress(), a.Dst.AsSlice())
	}
	return a.ToNode && (f.GetKind() != controlapi.Frontend_KIND_NODE_PORT || nodePorts(s.GetNode(), a.Dst))
}

// nodePorts says whether node ports are at an address of the node.
func nodePorts(n *controlapi.NodeSettings, a netip.Addr) bool {
	return len(n.GetNodePortPrefixes()) == 0 || within(n.GetNodePortPrefixes(), a)
}

func within(list []*controlapi.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p *controlapi.Prefix) bool {
		address, ok := netip.AddrFromSlice(p.GetAddress())
		return ok && netip.PrefixFrom(address, int(p.GetBits())).Contains(a)
	})
}

// String is "service default/web:http, its node-port".
func (f *frontend) String() string {
	if f.service == nil {
		return "an address of services alone, none of which has the port"
	}
	kind := strings.ReplaceAll(lower(f.frontend.GetKind().String(), "KIND_"), "_", "-")
	text := fmt.Sprintf("service %s, its %s", f.service.GetName(), kind)
	if f.frontend.GetLocalOnly() {
		text += " for backends of this node alone"
	}
	return text
}

// refuses says why nobody is chosen.
func (f *frontend) refuses(a *Asked) verdict.Reason {
	switch {
	case f.service == nil:
		return verdict.ServiceRefused
	case len(f.frontend.GetSources()) > 0 && !within(f.frontend.GetSources(), a.Src):
		return verdict.ServiceSourceDenied
	case len(f.backends(a)) > 0:
		return verdict.None
	case f.local(a) && len(f.service.GetBackends()) > 0:
		return verdict.ServiceNoLocal
	}
	return verdict.ServiceRefused
}

// local says whether backends of this node alone are chosen.
func (f *frontend) local(a *Asked) bool {
	return f.frontend.GetLocalOnly() && (!a.Inside || f.frontend.GetKind() == controlapi.Frontend_KIND_CLUSTER_IP)
}

// backends are those that may be chosen.
func (f *frontend) backends(a *Asked) []*controlapi.Backend {
	local := f.local(a)
	return slices.DeleteFunc(slices.Clone(f.service.GetBackends()), func(b *controlapi.Backend) bool {
		return local && !b.GetLocal() || !local && !b.GetCluster()
	})
}

// Backends are the addresses of all that a flow to the destination may be led to by the snapshot's services.
func Backends(s *controlapi.Snapshot, dst netip.Addr) (list []netip.Addr) {
	for _, service := range s.GetServices() {
		if !slices.ContainsFunc(service.GetFrontends(), func(f *controlapi.Frontend) bool {
			return len(f.GetAddress()) == 0 || slices.Equal(f.GetAddress(), dst.AsSlice())
		}) {
			continue
		}
		for _, b := range service.GetBackends() {
			if a, ok := netip.AddrFromSlice(b.GetAddress()); ok {
				list = append(list, a)
			}
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}
