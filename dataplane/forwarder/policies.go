// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// Policies lists the policies that the request asks for.
func (f *Forwarder) Policies(r *api.PoliciesRequest) (list []*api.Policy, epoch uint64, err error) {
	s := f.InForce()
	wanted := func(p *api.Policy) bool { return isNamed(p.GetName(), r.Name) }
	if r.Address != "" {
		address, err := parseAddress(r.Address)
		if err != nil {
			return nil, 0, err
		}
		id := uint32(f.tables.Load().Identities.Of(address))
		named := wanted
		wanted = func(p *api.Policy) bool { return named(p) && slices.Contains(p.Subjects, id) }
	}
	return explain.Policies(s, wanted), s.GetEpoch(), nil
}

// isNamed says whether a policy, "NetworkPolicy shop/web", is the one that is asked for: by that name, or without the
// kind. All are where none is said.
func isNamed(policy, name string) bool {
	return name == "" || policy == name || strings.HasSuffix(policy, " "+name)
}

// Explain says what the policies in force say of a flow that would begin: both ends' policies, wherever they are, and
// of one for a service those of each backend.
func (f *Forwarder) Explain(r *api.ExplainRequest) (*api.ExplainReply, error) {
	t := f.tables.Load()
	var ends [2]packet.Addr
	for i, text := range []string{r.Source, r.Destination} {
		var err error
		if ends[i], err = parseAddress(text); err != nil {
			return nil, err
		}
	}
	proto, err := explain.ParseProtocol(r.Protocol)
	switch {
	case err != nil:
		return nil, err
	case ends[0].Is4() != ends[1].Is4():
		return nil, fmt.Errorf("%s and %s are of two families", r.Source, r.Destination)
	case r.Port > 0xffff:
		return nil, fmt.Errorf("port %d is above 65535", r.Port)
	}
	opener := behind(t, ends[0])
	q := service.Query{
		Src: ends[0], Dst: ends[1], Proto: proto, DstPort: uint16(r.Port), Now: f.clock(),
		Inside: opener.ID != 0 || t.Inside(ends[0]), ToNode: t.IsNode(ends[1]),
	}
	reply := explain.To(t.Services, &q, func(to netip.Addr, port uint16) *api.ExplainReply {
		return f.explain(t, opener, ends[0], packet.AddrFrom(to), proto, port)
	})
	reply.Epoch = t.Epoch
	f.explainOffload(t, &q, reply)
	return reply, nil
}

// explain is Explain of a flow that goes where it is addressed.
func (f *Forwarder) explain(t *tables.Tables, opener *tables.Port, src, dst packet.Addr, proto packet.IPProto,
	port uint16) *api.ExplainReply {
	responder := behind(t, dst)
	q := tables.Query(opener, responder, src, dst, proto, port)
	q.Names, q.Port, q.Now = f.dns, opener.ID, f.clock()
	out, in := q, q // of an end that is not here the node is another one
	out.Egress, out.Ingress, out.ToNode = true, false, q.ToNode && opener.ID != 0
	in.Egress, in.Ingress, in.FromNode = false, true, q.FromNode && responder.ID != 0
	return explain.Between(t.Policy, &out, &in)
}

// behind is the port whose station has an address; an empty one where none has.
func behind(t *tables.Tables, a packet.Addr) *tables.Port {
	for i := range t.Ports {
		if p := &t.Ports[i]; p.ID != 0 && p.Station.Has(a) {
			return p
		}
	}
	return &tables.Port{}
}
