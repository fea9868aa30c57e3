// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// headroom is left in front of packets of our own: room for tags, and for struct xsk_tx_metadata (linux/if_xdp.h).
const headroom = 256

// tickInterval is how often neighbour timers run and held packets are looked through, in nanoseconds.
const tickInterval = int64(100e6)

// sweepParts is in how many ticks all shards of the table of flows are swept a little: packets wait meanwhile.
const sweepParts = 4

// tick does what is due ten times a second.
func (w *Worker) tick() {
	if w.now-w.advanced < tickInterval {
		return
	}
	w.advanced = w.now
	w.hold.due = true
	for _, l := range w.links {
		l.offered = 0 // a queue may have dropped a packet without a word: find out what the ring lacks
	}
	w.manyFlows = w.flows.Entries() > fewFlows
	w.freeFrames.Store(uint64(w.pool.Free()))
	if w.timers {
		w.tables.Neighbors.Advance(w.now, w.probe)
		w.announce()
		w.flows.Sweep(w.now, w.swept, sweepParts)
		w.swept = (w.swept + 1) % sweepParts
	}
}

// solicit asks a neighbour for its link-layer address: by unicast to mac, or else by broadcast (ARP, RFC 826) or to
// its solicited-node group (RFC 4861 7.2.2).
func (w *Worker) solicit(n *neighbor.Entry, mac packet.MAC, unicast bool) {
	port := w.tables.Port(n.Port)
	if port == nil {
		return
	}
	src := port.Source(n.Addr)
	w.tell(port, func(frame []byte) (end int) {
		if !n.Addr.Is4() {
			return packet.BuildNS(frame, headroom, port.MAC, src, n.Addr, mac)
		}
		if !unicast {
			mac = packet.BroadcastMAC
		}
		return packet.BuildARPRequest(frame, headroom, port.MAC, src, mac, n.Addr)
	})
}

// tell sends a frame of our own on the port's link, which build writes from headroom on, without tags.
func (w *Worker) tell(port *tables.Port, build func(frame []byte) (end int)) {
	l := w.linkOf(port.ID)
	if l == nil || !port.Up {
		return
	}
	chunk, ok := w.pool.Get()
	if !ok {
		w.book.Account(port.ID).Add(ledger.OriginatedLost, 1)
		return
	}
	p := packet.Packet{Frame: w.umem.Frame(chunk), Start: headroom}
	p.End = build(p.Frame)
	if port.VLANs != (packet.VLANs{}) {
		p.Parse()
		p.SetEthernet(p.DstMAC(), port.MAC, port.VLANs)
	}
	w.originate(l, chunk, &p, port.ID)
}

// originate stages a packet of our own that fills one fresh frame.
func (w *Worker) originate(l *link, chunk uint64, p *packet.Packet, out packet.PortID) {
	size := p.End - p.Start
	w.one[0] = xsk.Desc{Addr: chunk + uint64(p.Start), Len: uint32(size)}
	w.stage(l, w.one[:], out, out, size, originated)
}
