// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"

	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// maxFrames is the most frames that one received packet may have: 64 KiB in frames of 2048 bytes, less their headroom.
// How many one to send may have is the queue's word.
const maxFrames = 40

// stageSize is how many descriptors wait on a link for the end of the pass before they are sent early.
const stageSize = 1024

// link is a device's queue and what is staged to leave by it.
type link struct {
	device   int // index as Tables.Demux takes
	queue    xsk.Queue
	checksum bool // the queue takes TX metadata for checksums
	most     int  // frames of the longest packet that the queue sends
	fill     int  // frames that the fill ring is to hold
	offered  int  // frames in the fill and rx rings, at least; counted afresh every tick
	gone     bool

	staged  []xsk.Desc
	packets []stagedPacket
	sent    tally
}

// stagedPacket is what has to be put right in the ledger when a staged packet cannot be sent.
type stagedPacket struct {
	in, out packet.PortID
	descs   uint16
	bytes   uint32
	kind    sentAs
}

type sentAs uint8

const (
	forwarded  sentAs = iota // the packet received
	originated               // one of our own
	fragment                 // a fragment or segment of a packet received, not its first
)

// AddLink gives the worker a queue on a device. fill is how many frames its fill ring is to hold.
func (w *Worker) AddLink(device int, q xsk.Queue, fill int) {
	l := &link{device: device, queue: q, checksum: q.Info().TxChecksum, most: q.Info().MaxFrames, fill: fill,
		staged: make([]xsk.Desc, 0, stageSize+maxFrames), packets: make([]stagedPacket, 0, stageSize+maxFrames)}
	w.links = append(w.links, l)
	w.queues.Or(offload.QueueBit(q.Info().QueueID))
	for len(w.byDevice) <= device {
		w.byDevice = append(w.byDevice, nil)
	}
	if w.byDevice[device] == nil {
		w.byDevice[device] = l
	}
	w.refill(l)
	w.watch(q.FD())
}

// SetMerging says whether packets of a device may be superframes, as they are on a generic hook.
func (w *Worker) SetMerging(device int, is bool) { w.pipeline.SetMerging(device, is) }

// RemoveDevice closes the worker's queues on a device and takes all their frames back. Packets received from it that
// wait for a neighbour go on waiting: their frames are the worker's.
func (w *Worker) RemoveDevice(device int) {
	for _, l := range w.links {
		if l.device == device {
			l.gone = true
		}
	}
	w.closeGone()
	w.book.Publish()
}

// dropGone lets go of the links whose device vanished and tells the owner.
func (w *Worker) dropGone() {
	for _, l := range w.links {
		if l.gone {
			device := l.device
			w.RemoveDevice(device)
			if w.gone != nil {
				w.gone(device)
			}
			return
		}
	}
}

func (w *Worker) closeGone() {
	kept := w.links[:0]
	for _, l := range w.links {
		if !l.gone {
			kept = append(kept, l)
			continue
		}
		w.bookSent(l)
		w.unsend(l, 0, verdict.PortClosed)
		w.unwatch(l.queue.FD())
		_ = l.queue.Close(w.pool.Put) // the device is given up: there is nobody to tell
		w.byDevice[l.device] = nil
	}
	clear(w.links[len(kept):])
	w.links = kept
}

// stage queues a packet's frames, of so many bytes in all, to leave by the link at the end of the pass.
func (w *Worker) stage(l *link, descs []xsk.Desc, in, out packet.PortID, bytes int, kind sentAs) {
	for _, d := range descs[:len(descs)-1] {
		d.Options |= xsk.Contd
		l.staged = append(l.staged, d)
	}
	last := descs[len(descs)-1]
	last.Options &^= xsk.Contd
	l.staged = append(l.staged, last)
	m := len(l.packets)
	l.packets = l.packets[:m+1] // there is room: a link is transmitted before it is full
	s := &l.packets[m]
	s.in, s.out, s.descs, s.bytes, s.kind = in, out, uint16(len(descs)), uint32(bytes), kind
	if out != l.sent.port {
		w.bookSent(l)
		l.sent.port = out
	}
	l.sent.packets++
	l.sent.bytes += uint64(bytes)
	switch kind {
	case originated:
		w.book.Account(out).Add(ledger.Originated, 1)
	case fragment:
		w.book.Account(out).Add(ledger.Fragments, 1)
	}
	if len(l.staged) >= stageSize {
		w.transmit(l)
	}
}

// bookSent books what was staged and not yet booked.
func (w *Worker) bookSent(l *link) {
	if t := &l.sent; t.packets > 0 {
		a := w.book.Account(t.port)
		a.Add(ledger.Transmitted, t.packets)
		a.Add(ledger.TransmittedBytes, t.bytes)
		*t = tally{}
	}
}

// transmit gives the link's staged packets to its tx ring, takes sent frames back and tells the kernel.
func (w *Worker) transmit(l *link) {
	w.reclaim(l)
	w.bookSent(l)
	if len(l.staged) > 0 {
		sent := l.queue.Send(l.staged)
		if sent < len(l.staged) { // make room: let the kernel work the ring off, once
			w.flush(l)
			w.reclaim(l)
			sent += l.queue.Send(l.staged[sent:])
		}
		w.unsend(l, sent, verdict.TxRingFull)
		l.staged, l.packets = l.staged[:0], l.packets[:0]
	}
	w.flush(l)
}

func (w *Worker) flush(l *link) {
	if err := l.queue.Flush(); errors.Is(err, xsk.ErrGone) {
		l.gone = true
	}
}

// reclaim takes back the frames whose transmission is complete.
func (w *Worker) reclaim(l *link) {
	for {
		n := l.queue.Completed(w.frames[:])
		w.pool.PutN(w.frames[:n])
		if n < len(w.frames) {
			return
		}
	}
}

// unsend frees the staged packets from descriptor sent on, and corrects the ledger.
func (w *Worker) unsend(l *link, sent int, why verdict.Reason) {
	at := 0
	for _, s := range l.packets {
		if at >= sent {
			w.free(l.staged[at : at+int(s.descs)])
			w.unbook(s, why)
		}
		at += int(s.descs)
	}
	l.staged, l.packets = l.staged[:0], l.packets[:0]
}

func (w *Worker) unbook(s stagedPacket, why verdict.Reason) {
	out := w.book.Account(s.out)
	out.Sub(ledger.Transmitted, 1)
	out.Sub(ledger.TransmittedBytes, uint64(s.bytes))
	switch s.kind {
	case forwarded:
		w.book.Account(s.in).Move(verdict.Routed, why)
	case originated:
		out.Sub(ledger.Originated, 1)
		out.Add(ledger.OriginatedLost, 1)
	case fragment:
		out.Sub(ledger.Fragments, 1)
		out.Add(ledger.OriginatedLost, 1)
	}
}

// refillBatch is how many frames the fill ring must lack before it is visited.
const refillBatch = 64

// reserve is the part of all frames that fill rings do not get, one in so many: solicitations, fragments and segments
// need some.
const reserve = 16

// refill offers free frames to the link's fill ring, as long as there are any.
func (w *Worker) refill(l *link) {
	for l.fill-l.offered >= refillBatch {
		spare := max(w.pool.Free()-w.umem.Chunks()/reserve, 0)
		n := w.pool.GetN(w.frames[:min(l.fill-l.offered, len(w.frames), spare)])
		taken := l.queue.Fill(w.frames[:n])
		w.pool.PutN(w.frames[taken:n])
		l.offered += taken
		if n == 0 {
			return
		}
		if taken < n {
			l.offered = l.fill // the ring is full, whatever we counted
		}
	}
}
