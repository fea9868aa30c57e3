// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"iter"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Flow is a copy of an entry, for people.
type Flow struct {
	Tuple   Tuple         // as the opener sends it
	In, Out packet.PortID // the opener is behind In, the other end behind Out
	State   string
	Sent    Traffic       // by the opener
	Replied Traffic       // by the other end
	Age     time.Duration // since it was opened; to 17 ms, as the others
	Idle    time.Duration // since a packet last kept it
	Expires time.Duration // from now, if no packet keeps it
	Rule    uint32        // as Open or Keep was told
	// Generation of policy that let it in.
	Generation uint32
	// Translated: the other end gets it with Ends instead. Backend is the Translation's; 0: none.
	Translated bool
	Ends       packet.Ends
	Backend    uint32
	// Direct: the other end gets the packets as they are, and Ends are what it takes them for.
	Direct bool
	// Carried: the kernel carries one direction at least. What it has carried is in Sent and Replied.
	Carried bool
	// Kernel is what of Sent and Replied it has carried by the record that there is.
	Kernel [2]Traffic
}

// Traffic is what went in one direction. Bytes are of IP packets.
type Traffic struct{ Packets, Bytes uint64 }

// All iterates over the flows at time now, in monotonic nanoseconds, in no order. Each is consistent; the whole is not
// of one moment.
func (t *Table) All(now int64) iter.Seq[Flow] {
	return func(yield func(Flow) bool) {
		for i := range t.shards {
			if !t.shards[i].all(tickOf(now), yield) {
				return
			}
		}
	}
}

// all copies a few flows at a time, for the caller may take its time over each.
func (sh *shard) all(tick uint32, yield func(Flow) bool) bool {
	var some [16]Flow
	for at := 0; at < len(sh.entries); at += len(some) {
		copied := 0
		sh.lock.Lock()
		for i := at; i < min(at+len(some), len(sh.entries)); i++ {
			if sh.entries[i].state != free && !sh.expired(uint32(i+1), tick) {
				some[copied] = sh.flow(uint32(i+1), tick)
				copied++
			}
		}
		sh.lock.Unlock()
		for i := range copied {
			if !yield(some[i]) {
				return false
			}
		}
	}
	return true
}

func (sh *shard) flow(n, tick uint32) Flow {
	e := &sh.entries[n-1]
	var carried offload.Carried
	if e.flags&offloaded != 0 {
		carried = sh.catchUp(n)
	}
	span := func(t uint32) time.Duration { return time.Duration(duration(uint32(max(int32(t), 0)))) }
	state := states[e.state].name
	if e.flags&revoked != 0 {
		state = "revoked"
	}
	f := Flow{
		Tuple: e.tuple(),
		In:    packet.PortID(uint32(e.ports)), Out: packet.PortID(e.ports >> 32),
		State: state,
		Sent:  Traffic{e.packets[0], e.bytes[0]}, Replied: Traffic{e.packets[1], e.bytes[1]},
		Age: span(tick - e.opened), Idle: span(e.idle(tick)), Expires: span(e.expires - tick),
		Rule: e.rule, Generation: e.generation,
	}
	if e.flags&offloaded != 0 {
		f.Add(&carried)
		f.Carried = sh.carriages[n-1].entered != 0
	}
	if e.flags&translated != 0 {
		r := &sh.records[n-1]
		f.Translated, f.Backend = true, r.answerer()
		_, f.Ends = sh.ends(n, 0)
		if e.flags&oneWay != 0 { // what is told is who answers
			f.Direct, f.Ends = true, r.ends
			return f
		}
		f.Tuple.Src, f.Tuple.SrcPort = r.ends.Src, r.ends.SrcPort
		f.Tuple.Dst, f.Tuple.DstPort = r.ends.Dst, r.ends.DstPort
	}
	return f
}

// Add adds what the kernel has carried.
func (f *Flow) Add(c *offload.Carried) {
	for d, to := range []*Traffic{&f.Sent, &f.Replied} {
		f.Kernel[d] = Traffic(c.Traffic[d])
		to.Packets += c.Traffic[d].Packets
		to.Bytes += c.Traffic[d].Bytes
	}
}
