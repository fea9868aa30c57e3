// SPDX-License-Identifier: Apache-2.0

package xsk

// rings are the four rings of a queue and the accounting of the frames on them. Sockets and memory queues share it:
// they differ in who is at the other side, and in how that side is told.
type rings struct {
	umem *UMEM
	slot uint8

	fill       ring[uint64]
	rx         ring[Desc]
	tx         ring[Desc]
	completion ring[uint64]

	// returned holds frames that go back to the caller by Completed though the other side never had them.
	returned []uint64

	multiBuffer bool
	metadata    bool // the UMEM registration has room for struct xsk_tx_metadata
	maxFrames   int  // of a packet to send

	txInvalid, rxInvalid uint64 // packets
}

// Fill offers frames for reception; see Queue.
func (q *rings) Fill(frames []uint64) int {
	n := q.fill.free(len(frames))
	for _, addr := range frames[:n] {
		addr = q.umem.ChunkOf(addr)
		if debug {
			q.umem.pass(addr, callerOwns, callerOwns, "fill")
		}
		q.umem.owner[addr>>q.umem.shift] = q.slot
		*q.fill.at(q.fill.next) = addr
		q.fill.next++
	}
	if n > 0 {
		q.fill.publish()
	}
	return n
}

// Receive takes received descriptors; see Queue. A packet of more frames than descs has room for would block the ring
// and is dropped and counted; no packet has more than 64 frames.
func (q *rings) Receive(descs []Desc) int {
	n := q.rx.available(len(descs))
	if n == 0 {
		return 0
	}
	taken, whole := 0, 0 // descriptors in descs; those of whole packets
	start := q.rx.next   // of the packet in hand
	bad := false
	for i := range n {
		d := *q.rx.at(q.rx.next)
		q.rx.next++
		bad = bad || !q.owns(d)
		descs[taken] = d
		taken++
		if d.Options&Contd != 0 && i < n-1 {
			continue
		}
		switch {
		case d.Options&Contd != 0: // the rest has not come yet, or has no room in descs
			if whole > 0 || n < len(descs) || !q.discard(start) {
				q.rx.next = start
			}
		case bad:
			q.reject(start, q.rx.next)
		default:
			q.take(descs[whole:taken])
			whole = taken
		}
		taken, start, bad = whole, q.rx.next, false
	}
	q.rx.publish()
	return whole
}

// owns says whether a received descriptor lies in a frame that is this queue's: the kernel is not trusted with more.
func (q *rings) owns(d Desc) bool {
	u := q.umem
	chunk := d.Addr >> u.shift
	return chunk < uint64(len(u.owner)) && u.owner[chunk] == q.slot && d.Addr&u.mask+uint64(d.Len) <= u.size
}

// take makes the caller the owner of a received packet's frames.
func (q *rings) take(descs []Desc) {
	for _, d := range descs {
		q.umem.owner[d.Addr>>q.umem.shift] = callerOwns
	}
}

// discard drops the packet that starts at a position of the rx ring, if its end is there.
func (q *rings) discard(start uint32) bool {
	q.rx.available(len(q.rx.entries))
	for end := start; end != q.rx.seen; end++ {
		if q.rx.at(end).Options&Contd == 0 {
			q.reject(start, end+1)
			q.rx.next = end + 1
			return true
		}
	}
	return false
}

// reject drops a received packet, which lies at [start, end) of the rx ring.
func (q *rings) reject(start, end uint32) {
	q.rxInvalid++
	for ; start != end; start++ {
		if d := *q.rx.at(start); q.owns(Desc{Addr: d.Addr}) {
			q.giveBack(d.Addr)
		}
	}
}

// giveBack returns a frame of ours by the next Completed. Should there be no room, Close finds the frame.
func (q *rings) giveBack(addr uint64) {
	if len(q.returned) < cap(q.returned) {
		q.returned = append(q.returned, q.umem.ChunkOf(addr))
	}
}

// Send queues descriptors for transmission; see Queue. The kernel would lose the frames of a packet that it finds
// invalid, or stop at it for good (xskq_cons_read_desc and xsk_skb_metadata in net/xdp), so such a packet is counted
// and comes back by Completed at once. A packet of more frames than the tx ring has entries is never taken.
func (q *rings) Send(descs []Desc) int {
	n := q.tx.free(len(descs))
	for n > 0 && descs[n-1].Options&Contd != 0 {
		n--
	}
	if n == 0 || len(q.returned)+n > cap(q.returned) {
		return 0
	}
	start := 0 // of the packet in hand
	for i, d := range descs[:n] {
		if debug {
			q.umem.pass(d.Addr, callerOwns, callerOwns, "send")
		}
		q.umem.owner[d.Addr>>q.umem.shift] = q.slot
		*q.tx.at(q.tx.next) = d
		q.tx.next++
		if d.Options&Contd != 0 {
			continue
		}
		if !q.valid(descs[start : i+1]) {
			q.tx.next -= uint32(i + 1 - start)
			q.refuse(descs[start : i+1])
		}
		start = i + 1
	}
	q.tx.publish()
	return n
}

// valid says whether the kernel would take the packet (xp_aligned_validate_desc in net/xdp/xsk_queue.h).
func (q *rings) valid(packet []Desc) bool {
	room := uint64(0)
	if q.metadata {
		room = txMetadataLen
	}
	for i, d := range packet {
		offset := d.Addr & q.umem.mask
		if d.Len == 0 || offset < room || offset+uint64(d.Len) > q.umem.size {
			return false
		}
		if i > 0 && d.Options&^Contd != 0 || d.Options&^(Contd|TxMetadata) != 0 {
			return false
		}
	}
	if len(packet) > 1 && (!q.multiBuffer || len(packet) > q.maxFrames) {
		return false
	}
	return packet[0].Options&TxMetadata == 0 || q.metadata && validTxMetadata(q.umem, packet[0])
}

func (q *rings) refuse(packet []Desc) {
	q.txInvalid++
	for _, d := range packet {
		q.giveBack(d.Addr)
	}
}

// Completed takes back transmitted frames; see Queue.
func (q *rings) Completed(frames []uint64) int {
	taken := 0
	if len(q.returned) > 0 {
		taken = q.takeReturned(frames)
	}
	n := q.completion.available(len(frames) - taken)
	if n == 0 {
		return taken
	}
	for range n {
		addr := *q.completion.at(q.completion.next)
		q.completion.next++
		if !q.owns(Desc{Addr: addr}) {
			q.txInvalid++
			continue
		}
		q.umem.owner[addr>>q.umem.shift] = callerOwns
		frames[taken] = q.umem.ChunkOf(addr)
		taken++
	}
	q.completion.publish()
	return taken
}

func (q *rings) takeReturned(frames []uint64) int {
	n := min(len(frames), len(q.returned))
	last := len(q.returned) - n
	for i, frame := range q.returned[last:] {
		q.umem.owner[frame>>q.umem.shift] = callerOwns
		frames[i] = frame
	}
	q.returned = q.returned[:last]
	return n
}

// frameLimit is Info.MaxFrames.
func (q *rings) frameLimit() int {
	if !q.multiBuffer {
		return 1
	}
	return q.maxFrames
}

// closeRings drops the rings and hands every frame on them to release.
func (q *rings) closeRings(release func(frame uint64)) {
	q.fill.close()
	q.rx.close()
	q.tx.close()
	q.completion.close()
	q.returned = nil
	q.umem.sweep(q.slot, release)
	q.umem.freeSlot(q.slot)
}
