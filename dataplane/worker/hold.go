// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// The bounds of what waits for neighbours: RFC 4861 7.2.2 asks for at least one packet a neighbour and says that the
// oldest goes when there are too many.
const (
	holdLimit        = 512
	holdPerNeighbour = 32
	holdShare        = 8 // one frame in so many may wait
)

// hold is the packets of a worker that wait for a neighbour, oldest first.
type hold struct {
	packets    []heldPacket
	judging    []heldPacket // those that resume goes through
	frames     int          // that packets have
	generation uint32       // of the neighbour table, when last looked through
	due        bool         // look through in any case
}

type heldPacket struct {
	wait   *neighbor.Entry
	reason verdict.Reason // of an answer of our own; None for a packet received
	in     packet.PortID
	device int
	count  int
	descs  [maxFrames]xsk.Desc
}

func newHold() hold {
	return hold{packets: make([]heldPacket, 0, holdLimit), judging: make([]heldPacket, 0, holdLimit)}
}

// keep holds the packet until its neighbour is known. An answer of ours is booked at once: only the packets received
// are in flight for the ledger.
func (w *Worker) keep(p *packet.Packet, device int, descs []xsk.Desc, d *pipeline.Decision) {
	if d.Solicit {
		w.solicit(d.Wait, packet.MAC{}, false)
	}
	h := heldPacket{wait: d.Wait, in: p.In, device: device, count: len(descs)}
	if d.Answer() {
		h.reason = d.Reason
		w.finish(p.In, d.Reason)
		p.SetEthernet(packet.MAC{}, packet.MAC{}, packet.VLANs{}) // so that it parses again
		descs[0].Addr = w.umem.ChunkOf(descs[0].Addr) + uint64(p.Start)
		descs[0].Len = uint32(p.End - p.Start)
	} else {
		w.book.Account(p.In).Add(ledger.Held, 1)
	}
	copy(h.descs[:], descs)
	w.makeRoom(d.Wait)
	for len(w.hold.packets) > 0 && w.hold.frames+len(descs) > w.umem.Chunks()/holdShare {
		w.discard(0, verdict.NeighborQueueFull)
	}
	w.hold.frames += len(descs)
	w.hold.packets = append(w.hold.packets, h)
}

// makeRoom drops the oldest packet that waits for the same neighbour when that has its share, or the oldest of all.
func (w *Worker) makeRoom(n *neighbor.Entry) {
	first, same := 0, 0
	for i := range w.hold.packets {
		if w.hold.packets[i].wait == n {
			if same == 0 {
				first = i
			}
			same++
		}
	}
	switch {
	case same >= holdPerNeighbour:
		w.discard(first, verdict.NeighborQueueFull)
	case len(w.hold.packets) == holdLimit:
		w.discard(0, verdict.NeighborQueueFull)
	}
}

// discard drops the held packet at index i.
func (w *Worker) discard(i int, why verdict.Reason) {
	h := &w.hold.packets[i]
	w.free(h.descs[:h.count])
	w.hold.frames -= h.count
	if h.reason == verdict.None {
		w.book.Account(h.in).Sub(ledger.Held, 1)
		w.finish(h.in, why)
	} else {
		w.book.Account(h.in).Add(ledger.OriginatedLost, 1)
	}
	w.hold.packets = append(w.hold.packets[:i], w.hold.packets[i+1:]...)
}

// resume judges the held packets again when a neighbour became known or failed, or a tick passed.
func (w *Worker) resume() {
	g := w.tables.Neighbors.Generation()
	if len(w.hold.packets) == 0 || (g == w.hold.generation && !w.hold.due) {
		w.hold.generation = g
		return
	}
	w.hold.generation, w.hold.due = g, false
	w.hold.packets, w.hold.judging = w.hold.judging[:0], w.hold.packets
	for i := range w.hold.judging {
		h := &w.hold.judging[i]
		w.hold.frames -= h.count
		if h.reason != verdict.None {
			w.answerAgain(h)
			continue
		}
		w.rejudge(&w.packet, h.in, h.device, h.descs[:h.count])
	}
}

func (w *Worker) answerAgain(h *heldPacket) {
	p := &w.packet
	w.view(p, h.descs[:h.count])
	p.Parse()
	p.In = h.in
	w.carryOutAnswer(p, h, w.pipeline.Resume(p, h.reason))
}

// rejudge runs a packet that was held, in frames descs, through the pipeline once more.
func (w *Worker) rejudge(p *packet.Packet, in packet.PortID, device int, descs []xsk.Desc) {
	w.view(p, descs)
	w.book.Account(in).Sub(ledger.Held, 1)
	w.pipeline.Again(true)
	d := w.pipeline.Judge(p, device)
	w.pipeline.Again(false)
	if p.In != in { // the tables moved the packet to another port meanwhile
		size := uint64(p.Len())
		w.book.Account(in).Sub(ledger.Received, 1)
		w.book.Account(in).Sub(ledger.ReceivedBytes, size)
		w.book.Account(p.In).Add(ledger.Received, 1)
		w.book.Account(p.In).Add(ledger.ReceivedBytes, size)
	}
	w.carryOut(p, device, descs, d)
}

func (w *Worker) carryOutAnswer(p *packet.Packet, h *heldPacket, d *pipeline.Decision) {
	switch {
	case d.Wait != nil:
		if d.Solicit {
			w.solicit(d.Wait, packet.MAC{}, false)
		}
		h.wait = d.Wait
		w.hold.frames += h.count
		w.hold.packets = append(w.hold.packets, *h)
	case d.Send:
		w.emit(p, h.descs[:h.count], d)
	default:
		w.free(h.descs[:h.count])
		w.book.Account(h.in).Add(ledger.OriginatedLost, 1)
	}
}
