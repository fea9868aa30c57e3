// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"cmp"
	"slices"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/denial"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Denials lists the flows that were denied lately that the request asks for, the latest first.
func (f *Forwarder) Denials(r *api.DenialsRequest) (*api.DenialsReply, error) {
	var address packet.Addr
	if r.Address != "" {
		var err error
		if address, err = parseAddress(r.Address); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	var all []denial.Denial
	for _, t := range f.workers {
		all = append(all, t.worker.Denials().List()...)
	}
	f.mu.Unlock()
	all = append(all, f.carrier.walk.reviewer.Log.List()...)
	slices.SortFunc(all, func(a, b denial.Denial) int { return cmp.Compare(b.Last, a.Last) })
	t, now, reply := f.tables.Load(), f.clock(), &api.DenialsReply{}
	for i := range all {
		d := describeDenial(t, &all[i], now)
		if (r.Address == "" || all[i].Tuple.Src == address || all[i].Tuple.Dst == address) &&
			(r.Port == "" || d.InPort == r.Port || d.OutPort == r.Port) {
			reply.Denials = append(reply.Denials, d)
		}
	}
	return reply, nil
}

func describeDenial(t *tables.Tables, d *denial.Denial, now int64) *api.Denial {
	a := &api.Denial{
		Protocol: explain.Protocol(d.Tuple.Proto),
		Source:   d.Tuple.Src.String(), SourcePort: uint32(d.Tuple.SrcPort),
		Destination: d.Tuple.Dst.String(), DestinationPort: uint32(d.Tuple.DstPort),
		InPort: portName(t, d.In), OutPort: portName(t, d.Out), Rule: explain.Rule(t.Policy, d.Rule), Staged: d.Staged,
		LastNanoseconds: uint64(max(now-d.Last, 0)), FirstNanoseconds: uint64(max(now-d.First, 0)), Packets: d.Packets,
	}
	if d.Reason != verdict.None {
		a.Reason = d.Reason.String()
	}
	return a
}
