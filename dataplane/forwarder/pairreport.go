// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"cmp"
	"iter"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// pairState is the state of what is listed of a pair.
const pairState = "pair"

// pairFlows are the pairs as flows without ports, at time now.
func (f *Forwarder) pairFlows(now int64) iter.Seq[conntrack.Flow] {
	return func(yield func(conntrack.Flow) bool) {
		table := f.carrier.table.Load()
		if table == nil {
			return
		}
		for _, ref := range table.Pairs() {
			flow, ways, ok := table.Flow(ref)
			k, still := table.Read(ref)
			if !ok || !still {
				continue
			}
			is := conntrack.Flow{
				Tuple: conntrack.Tuple{Src: flow.Near.Src, Dst: flow.Near.Dst, Proto: packet.ProtoTCP},
				In:    ways[0].In, Out: ways[1].In, State: pairState, Generation: flow.Generation, Carried: true,
			}
			is.Add(&k)
			if k.Used != 0 {
				is.Idle = time.Duration(max(now-k.Used, 0))
			}
			if !yield(is) {
				return
			}
		}
	}
}

// untrackedState is the state of what is listed of a flow between wires.
const untrackedState = "untracked"

// untrackedFlows are the flows that the kernel carries and nobody tracks, at time now.
func (f *Forwarder) untrackedFlows(now int64) iter.Seq[conntrack.Flow] {
	return func(yield func(conntrack.Flow) bool) {
		table := f.carrier.table.Load()
		if table == nil {
			return
		}
		for u := range table.Untracked() {
			k, still := table.Read(u.Ref)
			if !still {
				continue
			}
			e, ways := &u.Flow.Near, &u.Ways
			is := conntrack.Flow{
				Tuple: conntrack.Tuple{Src: e.Src, Dst: e.Dst, SrcPort: e.SrcPort, DstPort: e.DstPort, Proto: u.Flow.Proto},
				In:    cmp.Or(ways[0].In, ways[1].Out), Out: cmp.Or(ways[0].Out, ways[1].In),
				State: untrackedState, Generation: u.Flow.Generation, Carried: true,
			}
			is.Add(&k)
			if k.Used != 0 {
				is.Idle = time.Duration(max(now-k.Used, 0))
			}
			if is.Expires = offload.UntrackedFor - is.Idle; !yield(is) {
				return
			}
		}
	}
}

// describe says what has become of pairs.
func (p *pairs) describe(o *api.Offload) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.PairsWithdrawn, o.ConnectionsResumed, o.ConnectionsDenied = p.withdrawn, p.resumed, p.denied
}
