// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// carryOut does with the frames in descs, received from device, what was decided about the packet in them.
func (w *Worker) carryOut(p *packet.Packet, device int, descs []xsk.Desc, d *pipeline.Decision) {
	if w.observe != nil {
		w.observe(p, d)
	}
	if d.Answer() && p.Tail == 0 && len(descs) > 1 { // an ICMP error fits the first frame
		w.free(descs[1:])
		descs = descs[:1]
	}
	switch {
	case d.Wait != nil:
		w.keep(p, device, descs, d)
		return
	case d.Until != 0:
		w.delay(p, device, descs, d.Until)
		return
	case d.Datagram != 0:
		w.await(p, device, descs, d)
		return
	}
	w.finish(p.In, d.Reason)
	if !d.Send {
		w.free(descs)
		return
	}
	w.emit(p, descs, d)
}

// emit sends the packet, whose frames are descs, by its Out port.
func (w *Worker) emit(p *packet.Packet, descs []xsk.Desc, d *pipeline.Decision) {
	kind := forwarded
	if d.Answer() {
		kind = originated
	}
	l := w.linkOf(p.Out)
	if l == nil {
		w.lose(p, kind, descs, verdict.NoOutputPort)
		return
	}
	descs[0].Addr = w.umem.ChunkOf(descs[0].Addr) + uint64(p.Start)
	descs[0].Len = uint32(p.End - p.Start)
	descs[0].Options = 0
	if d.Cut != pipeline.Whole {
		w.cut(p, l, descs, d)
		return
	}
	if len(descs) > l.most {
		w.lose(p, kind, descs, verdict.TooLargeForPort)
		return
	}
	if p.Flags&packet.PartialChecksum != 0 {
		w.checksum(p, l, descs)
	}
	w.stage(l, descs, p.In, p.Out, p.Len(), kind)
}

// lose frees a packet that cannot leave after all, and corrects what finish booked.
func (w *Worker) lose(p *packet.Packet, kind sentAs, descs []xsk.Desc, why verdict.Reason) {
	w.free(descs)
	if kind == originated {
		w.book.Account(p.Out).Add(ledger.OriginatedLost, 1)
		return
	}
	w.book.Account(p.In).Move(verdict.Routed, why)
}

func (w *Worker) linkOf(port packet.PortID) *link {
	p := w.tables.Port(port)
	if p == nil || p.DeviceIndex >= len(w.byDevice) {
		return nil
	}
	return w.byDevice[p.DeviceIndex]
}

// checksum has the device, or the receiving stack of a veth, complete a partial transport checksum; where the queue
// cannot ask for it, it is completed here.
func (w *Worker) checksum(p *packet.Packet, l *link, descs []xsk.Desc) {
	if !l.checksum || p.Outer != 0 { // a device need not find what is inside
		p.CompleteChecksum(w.tails(descs))
		return
	}
	start, offset := p.ChecksumPlace()
	xsk.PutTxChecksum(p.Frame, p.Start, start, offset)
	descs[0].Options |= xsk.TxMetadata
}

// maxLinkHeader is an Ethernet header with two tags, bytes.
const maxLinkHeader = 22

// cut sends a packet larger than its way allows as several: fragments (RFC 791 section 3.2) or TCP segments. They live
// in fresh frames; the packet's own are freed.
func (w *Worker) cut(p *packet.Packet, l *link, descs []xsk.Desc, d *pipeline.Decision) {
	mtu := min(d.MTU, w.umem.ChunkSize()-headroom-maxLinkHeader-p.Outer)
	tails := w.tails(descs)
	kind := forwarded
	var ok bool
	if d.Cut == pipeline.Segment {
		if w.segments, ok = p.Segments(mtu, tails); ok {
			kind = sendPieces(w, &w.segments, l, p)
		}
	} else {
		if p.Flags&packet.PartialChecksum != 0 {
			p.CompleteChecksum(tails)
			p.Flags &^= packet.PartialChecksum
		}
		if w.fragments, ok = p.Fragments(mtu, tails); ok {
			kind = sendPieces(w, &w.fragments, l, p)
		}
	}
	switch {
	case !ok:
		w.book.Account(p.In).Move(verdict.Routed, verdict.TooLargeForPort)
	case kind == forwarded: // not even the first
		w.book.Account(p.In).Move(verdict.Routed, verdict.NoFrame)
	}
	w.free(descs)
}

// pieces is a packet being cut: packet.Fragments or packet.Segments.
type pieces interface {
	Count() int
	Next(frame []byte, start int) (end int)
}

// sendPieces stages all pieces, as long as there are frames. The first stands for the packet in the ledger, the others
// are counted extra: it returns forwarded when there was not even a first.
func sendPieces[P pieces](w *Worker, cut P, l *link, p *packet.Packet) sentAs {
	kind := forwarded
	for cut.Count() > 0 {
		chunk, ok := w.pool.Get()
		if !ok {
			if kind == fragment { // else the whole packet is counted as lost
				w.book.Account(p.Out).Add(ledger.OriginatedLost, uint64(cut.Count()))
			}
			break
		}
		end := cut.Next(w.umem.Frame(chunk), headroom)
		w.one[0] = xsk.Desc{Addr: chunk + headroom, Len: uint32(end - headroom)}
		w.stage(l, w.one[:], p.In, p.Out, end-headroom, kind)
		kind = fragment
	}
	return kind
}
