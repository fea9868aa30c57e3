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
func (w *Worker) carryOut(p *packet.Packet, device int, descs []xsk.Desc, d pipeline.Decision) {
	if w.observe != nil {
		w.observe(p, d)
	}
	if d.Answer() && p.Tail == 0 && len(descs) > 1 { // an ICMP error fits the first frame
		w.free(descs[1:])
		descs = descs[:1]
	}
	if d.Wait != nil {
		w.keep(p, device, descs, d)
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
func (w *Worker) emit(p *packet.Packet, descs []xsk.Desc, d pipeline.Decision) {
	s := stagedPacket{in: p.In, out: p.Out, bytes: uint32(p.Len()), kind: forwarded}
	if d.Answer() {
		s.kind = originated
	}
	l := w.linkOf(p.Out)
	if l == nil {
		w.lose(s, descs)
		return
	}
	descs[0].Addr = w.umem.ChunkOf(descs[0].Addr) + uint64(p.Start)
	descs[0].Len = uint32(p.End - p.Start)
	descs[0].Options = 0
	if d.FragmentMTU > 0 {
		w.fragment(p, l, descs, d.FragmentMTU)
		return
	}
	if p.Flags&packet.PartialChecksum != 0 {
		w.checksum(p, l, descs)
	}
	w.stage(l, descs, s)
}

// lose frees a packet for which there is no queue to leave by, and corrects what finish booked.
func (w *Worker) lose(s stagedPacket, descs []xsk.Desc) {
	w.free(descs)
	if s.kind == originated {
		w.book.Account(s.out).Add(ledger.OriginatedLost, 1)
		return
	}
	w.book.Account(s.in).Move(verdict.Routed, verdict.NoOutputPort)
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
	if !l.checksum {
		p.CompleteChecksum(w.tails(descs))
		return
	}
	start, offset := p.ChecksumPlace()
	xsk.PutTxChecksum(p.Frame, p.Start, start, offset)
	descs[0].Options |= xsk.TxMetadata
}

// maxLinkHeader is an Ethernet header with two tags, bytes.
const maxLinkHeader = 22

// fragment sends an IPv4 packet as fragments of at most mtu bytes (RFC 791 section 3.2). The fragments live in fresh
// frames; the packet's own are freed. The first stands for the packet in the ledger, the others are counted extra.
func (w *Worker) fragment(p *packet.Packet, l *link, descs []xsk.Desc, mtu int) {
	if p.Flags&packet.PartialChecksum != 0 {
		p.CompleteChecksum(w.tails(descs))
		p.Flags &^= packet.PartialChecksum
	}
	s := stagedPacket{in: p.In, out: p.Out, kind: forwarded}
	room := w.umem.ChunkSize() - headroom - maxLinkHeader
	split, ok := p.Fragments(min(mtu, room), w.tails(descs))
	for ok && split.Count() > 0 {
		var chunk uint64
		if chunk, ok = w.pool.Get(); !ok {
			break
		}
		end := split.Next(w.umem.Frame(chunk), headroom)
		s.bytes = uint32(end - headroom)
		w.one[0] = xsk.Desc{Addr: chunk + headroom, Len: s.bytes}
		w.stage(l, w.one[:], s)
		s.kind = fragment
	}
	if s.kind == forwarded { // not even the first
		w.book.Account(s.in).Move(verdict.Routed, verdict.NoFrame)
	}
	w.free(descs)
}
