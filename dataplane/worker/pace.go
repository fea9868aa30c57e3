// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"container/heap"

	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// The bounds of what waits for limits: a port's own bucket bounds the time (tables.Bucket), these the memory.
const (
	paceLimit     = 2048
	paceShare     = 4 // one frame in so many may wait
	pacePortShare = 8 // and of what may wait, one port's may be one in so many
)

// pace is the packets of a worker that wait for their ports' limits, in the order in which they may leave. A packet
// that is let go is judged again: what it was to do may have changed meanwhile.
type pace struct {
	due    []departure // a heap
	slots  []pacedPacket
	free   []uint16
	serial uint64
	frames int         // that packets have
	of     []portShare // by PortID
	going  pacedPacket // the one that release lets go, whose slot may be in use again
}

// departure is when a packet may leave. Of those due at one time the first that came is the first.
type departure struct {
	at     int64 // monotonic nanoseconds
	serial uint64
	slot   uint16
}

// portShare is what of it is a port's.
type portShare struct{ packets, frames int }

type pacedPacket struct {
	in     packet.PortID
	device int
	count  int
	descs  [maxFrames]xsk.Desc
}

func newPace() pace {
	return pace{due: make([]departure, 0, paceLimit), free: make([]uint16, 0, paceLimit)}
}

// heap.Interface, by which the earliest is at the front.

func (p *pace) Len() int { return len(p.due) }
func (p *pace) Less(i, j int) bool {
	a, b := p.due[i], p.due[j]
	return a.at < b.at || a.at == b.at && a.serial < b.serial
}
func (p *pace) Swap(i, j int) { p.due[i], p.due[j] = p.due[j], p.due[i] }

// Push has nothing to do: delay appends, since an interface's value would be an allocation.
func (p *pace) Push(any) {}

// Pop has nothing to return for the same reason: the caller has read the front.
func (p *pace) Pop() any {
	p.due = p.due[:len(p.due)-1]
	return nil
}

// delay keeps the packet until it may leave.
func (w *Worker) delay(p *packet.Packet, device int, descs []xsk.Desc, until int64) {
	if !w.pace.room(p.In, len(descs), w.umem.Chunks()/paceShare) {
		w.finish(p.In, verdict.OverLimit)
		w.free(descs)
		return
	}
	slot := w.pace.slot()
	kept := &w.pace.slots[slot]
	kept.in, kept.device, kept.count = p.In, device, len(descs)
	copy(kept.descs[:], descs)
	w.pace.count(p.In, 1, len(descs))
	w.pace.serial++
	w.pace.due = append(w.pace.due, departure{until, w.pace.serial, slot})
	heap.Fix(&w.pace, len(w.pace.due)-1)
	w.book.Account(p.In).Add(ledger.Held, 1)
}

// slot returns a free slot. They are made as they are needed: most workers have no limits.
func (p *pace) slot() uint16 {
	if n := len(p.free); n > 0 {
		slot := p.free[n-1]
		p.free = p.free[:n-1]
		return slot
	}
	p.slots = append(p.slots, pacedPacket{})
	return uint16(len(p.slots) - 1)
}

// pop takes the packet that leaves first out; it is valid until the next delay.
func (p *pace) pop() *pacedPacket {
	slot := p.due[0].slot
	heap.Pop(p)
	p.free = append(p.free, slot)
	going := &p.slots[slot]
	p.count(going.in, -1, -going.count)
	return going
}

// room says whether a packet of a port may wait, whose frames are so many, of the most that may.
func (p *pace) room(in packet.PortID, frames, most int) bool {
	for int(in) >= len(p.of) {
		p.of = append(p.of, portShare{})
	}
	of := p.of[in]
	return len(p.due) < paceLimit && p.frames+frames <= most &&
		of.packets < paceLimit/pacePortShare && (of.packets == 0 || of.frames+frames <= most/pacePortShare)
}

func (p *pace) count(in packet.PortID, packets, frames int) {
	p.frames += frames
	p.of[in].packets += packets
	p.of[in].frames += frames
}

// release judges the packets that may leave.
func (w *Worker) release() {
	if len(w.pace.due) == 0 || w.pace.due[0].at > w.now {
		return
	}
	w.pipeline.Paid(true)
	for len(w.pace.due) > 0 && w.pace.due[0].at <= w.now {
		p := &w.pace.going
		*p = *w.pace.pop()
		w.rejudge(&w.packet, p.in, p.device, p.descs[:p.count])
	}
	w.pipeline.Paid(false)
}

// abandonPaced drops what waits.
func (w *Worker) abandonPaced(why verdict.Reason) {
	for len(w.pace.due) > 0 {
		kept := w.pace.pop()
		w.free(kept.descs[:kept.count])
		w.book.Account(kept.in).Sub(ledger.Held, 1)
		w.finish(kept.in, why)
	}
}
