// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// To explains a flow to where it is addressed. One that a service has is explained for each backend that may be chosen,
// as judge says of that: it may be where one of them may be reached.
func To(t *service.Table, q *service.Query, judge func(netip.Addr, uint16) *api.ExplainReply) *api.ExplainReply {
	dst := q.Dst.Netip()
	found := t.Find(q)
	direct := judge(dst, q.DstPort)
	if found == nil {
		return direct
	}
	r := &api.ExplainReply{Service: found.Service, Steps: direct.Steps[:1:1]} // who asks
	r.Steps = append(r.Steps, fmt.Sprintf("to %s: %s", dst, frontendText(found)))
	if reason := refusal(found.Outcome); reason != verdict.None {
		r.Verdict, r.Reason = word(false), reason.String()
		r.Steps = append(r.Steps, reason.Doc())
		return r
	}
	var decides, staged *api.ExplainReply
	for _, b := range found.Backends {
		one := judge(b.Addr(), b.Port())
		r.Backends = append(r.Backends, &api.ExplainedBackend{Address: b.Addr().String(), Port: uint32(b.Port()),
			Verdict: one.Verdict, Reason: one.Reason, Rule: one.Rule})
		r.Steps = append(r.Steps, "backend "+backendText(b, one))
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

// LedTo is where a flow goes that a reply of To lets: to the first backend that may be reached, or where it is
// addressed.
func LedTo(q *service.Query, r *api.ExplainReply) (to packet.Addr, port uint16) {
	for _, b := range r.GetBackends() {
		if a, err := netip.ParseAddr(b.GetAddress()); err == nil && b.GetVerdict() == r.GetVerdict() {
			return packet.AddrFrom(a), uint16(b.GetPort())
		}
	}
	return q.Dst, q.DstPort
}

func backendText(b netip.AddrPort, r *api.ExplainReply) string {
	text := fmt.Sprintf("%s: %s", b, r.Verdict)
	if r.Reason != "" {
		text += ", " + r.Reason
	}
	if r.Rule != "" {
		text += ": " + r.Rule
	}
	return text
}

// frontendText is "service default/web:http, its node-port".
func frontendText(f *service.Found) string {
	if f.Service == "" {
		return "an address of services alone, none of which has the port"
	}
	kind := strings.ReplaceAll(lower(f.Kind.String(), "KIND_"), "_", "-")
	text := fmt.Sprintf("service %s, its %s", f.Service, kind)
	if f.LocalOnly {
		text += " for backends of this node alone"
	}
	return text
}

// refusal is why nobody is chosen.
func refusal(o service.Outcome) verdict.Reason {
	switch o {
	case service.NoLocal:
		return verdict.ServiceNoLocal
	case service.SourceDenied:
		return verdict.ServiceSourceDenied
	case service.Refused, service.NoSuchPort:
		return verdict.ServiceRefused
	case service.NoService, service.Chosen:
	}
	return verdict.None
}

// HasNodePorts says whether node ports, and host ports of all addresses, are at an address of the snapshot's node.
func HasNodePorts(s *controlapi.Snapshot, a netip.Addr) bool {
	list := s.GetNode().GetNodePortPrefixes()
	return len(list) == 0 || slices.ContainsFunc(list, func(cfg *controlapi.Prefix) bool {
		p, reason := identity.Parse(cfg)
		return reason == "" && p.Contains(a)
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
