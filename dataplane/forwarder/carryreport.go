// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"cmp"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// offloadStatus is how the table is; nil before there is one, or is known to be none.
func (f *Forwarder) offloadStatus() *api.Offload {
	c := &f.carrier
	table := c.table.Load()
	if table == nil {
		if c.why == "" {
			return nil
		}
		return &api.Offload{Why: c.why}
	}
	s := table.Stats()
	o := &api.Offload{
		On: f.snapshot.GetNode().GetOffload(), Records: uint64(s.Records), Capacity: uint64(s.Capacity),
		Pairs: uint64(s.Pairs), Entered: s.Entered, Removed: s.Removed, Refused: s.Refused, Evicted: s.Evicted,
		RefusedPort: s.RefusedShare, EvictedPort: s.EvictedShare, Untracked: uint64(s.Untracked),
	}
	if !o.On {
		o.Why = tables.NodeOff.Of(nil)
	}
	c.walk.describe(o)
	c.pairs.describe(o)
	return o
}

// portOffload is what a port has of the table; nil: there is none.
func (f *Forwarder) portOffload(id packet.PortID) *api.PortOffload {
	table := f.carrier.table.Load()
	if table == nil {
		return nil
	}
	s := table.Share(id)
	return &api.PortOffload{Records: uint64(s.Records), Refused: s.Refused, Evicted: s.Evicted}
}

// explainOffload adds to a reply why the kernel would not carry the flow.
func (f *Forwarder) explainOffload(t *tables.Tables, q *service.Query, r *api.ExplainReply) {
	if r.Reason != "" {
		return
	}
	dst, port := explain.LedTo(q, r)
	in, out := leads(t, q.Src), leads(t, dst)
	switch {
	case f.carrier.table.Load() == nil:
		r.Uncarried = cmp.Or(f.carrier.why, "there is no worker yet")
	case in == nil || out == nil:
		r.Uncarried = "no port leads to one of its ends"
	default:
		r.Uncarried = pipeline.Uncarried(t, in, out, q.Proto, port)
		r.Pair = r.Uncarried == "" && q.Proto == packet.ProtoTCP && dst == q.Dst && pipeline.Paired(t, in, out, q.Src, dst)
	}
}

// leads is the port that packets for an address leave by, the first of several; nil: there is none.
func leads(t *tables.Tables, a packet.Addr) *tables.Port {
	group := t.FIB.Lookup(a)
	if group == nil || group.Kind != route.Forward {
		return nil
	}
	return t.Port(group.Hops()[0].Port)
}
