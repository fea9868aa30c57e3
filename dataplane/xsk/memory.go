// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
)

// MemoryConfig describes a queue in memory. Sizes are powers of two; 0 is 2048.
type MemoryConfig struct {
	UMEM           *UMEM
	Device         string // for Info only
	QueueID        int
	RxSize         int
	TxSize         int
	FillSize       int
	CompletionSize int
	MultiBuffer    bool
	TxChecksum     bool
}

// Memory is a Queue with no kernel behind it: Inject and Drain are its wire. One goroutine may be at the wire while
// another one uses the queue.
type Memory struct {
	rings
	wire   rings // the same rings seen from the other side
	info   Info
	broken atomic.Bool
	closed bool

	rxDropped, rxRingFull, fillRingEmpty, txRingEmpty atomic.Uint64

	joined []byte // a packet of several frames, or with a checksum to complete
}

var _ Queue = (*Memory)(nil)

// NewMemory returns a queue in memory.
func NewMemory(c MemoryConfig) (*Memory, error) {
	for _, size := range []*int{&c.RxSize, &c.TxSize, &c.FillSize, &c.CompletionSize} {
		if *size == 0 {
			*size = defaultSize
		}
		if err := checkSize(*size); err != nil {
			return nil, err
		}
	}
	if c.UMEM == nil {
		return nil, errors.New("memory queue without umem")
	}
	c.UMEM.mu.Lock()
	slot, err := c.UMEM.takeSlot()
	c.UMEM.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m := &Memory{rings: rings{
		umem: c.UMEM, slot: slot, multiBuffer: c.MultiBuffer, metadata: c.TxChecksum, maxFrames: maxFrames,
		fill: newRing[uint64](c.FillSize), rx: newRing[Desc](c.RxSize),
		tx: newRing[Desc](c.TxSize), completion: newRing[uint64](c.CompletionSize),
		returned: make([]uint64, 0, c.TxSize),
	}}
	m.wire.fill, m.wire.rx = m.fill.peer(), m.rx.peer()
	m.wire.tx, m.wire.completion = m.tx.peer(), m.completion.peer()
	m.info = Info{
		Backend: "memory", Device: c.Device, QueueID: c.QueueID, MultiBuffer: c.MultiBuffer, TxChecksum: c.TxChecksum,
		HugePages: c.UMEM.huge, RxSize: c.RxSize, TxSize: c.TxSize, FillSize: c.FillSize,
		CompletionSize: c.CompletionSize, MaxFrames: m.frameLimit(),
	}
	return m, nil
}

// checkSize says what the kernel would say of a ring's size (xsk_init_queue in net/xdp/xsk.c).
func checkSize(size int) error {
	if size < 1 || size > 1<<20 || size&(size-1) != 0 {
		return fmt.Errorf("ring size %d: not a power of two up to %d", size, 1<<20)
	}
	return nil
}

// Inject delivers a packet as a device does: it copies it into frames of the fill ring, each of which keeps the UMEM's
// headroom free, and puts it on the rx ring. It returns false, and counts, when there are not enough frames, the rx
// ring is full, or the packet is empty or needs several frames that the queue does not allow.
func (m *Memory) Inject(packet []byte) bool {
	room := m.umem.ChunkSize() - m.umem.Headroom()
	count := (len(packet) + room - 1) / room
	if m.broken.Load() {
		return false
	}
	if count == 0 || count > 1 && !m.multiBuffer {
		m.rxDropped.Add(1)
		return false
	}
	if m.wire.fill.available(count) < count {
		m.rxDropped.Add(1)
		m.fillRingEmpty.Add(1)
		return false
	}
	if m.wire.rx.free(count) < count {
		m.rxRingFull.Add(1)
		return false
	}
	for ; len(packet) > room; packet = packet[room:] {
		m.deliver(packet[:room], Contd)
	}
	m.deliver(packet, 0)
	m.wire.rx.publish()
	m.wire.fill.publish()
	return true
}

func (m *Memory) deliver(part []byte, options uint32) {
	frame := *m.wire.fill.at(m.wire.fill.next)
	m.wire.fill.next++
	addr := frame + uint64(m.umem.Headroom())
	copy(m.umem.Frame(frame)[m.umem.Headroom():], part)
	*m.wire.rx.at(m.wire.rx.next) = Desc{Addr: addr, Len: uint32(len(part)), Options: options}
	m.wire.rx.next++
}

// Drain takes every packet off the tx ring, shows it to visit and completes its frames, for as many as the completion
// ring has room. A packet with metadata has its checksum completed, as by a device. The bytes are valid until visit
// returns.
func (m *Memory) Drain(visit func(packet []byte, metadata bool)) { m.DrainN(math.MaxInt, visit) }

// DrainN is Drain for at most n packets.
func (m *Memory) DrainN(n int, visit func(packet []byte, metadata bool)) {
	for ; n > 0 && !m.broken.Load(); n-- {
		count := m.firstPacket()
		if count == 0 || m.wire.completion.free(count) < count {
			return
		}
		packet, metadata := m.join(count)
		visit(packet, metadata)
		m.complete(count)
	}
}

// firstPacket counts the frames of the first packet on the tx ring. Send takes whole packets, so its end is there.
func (m *Memory) firstPacket() int {
	n := m.wire.tx.available(len(m.wire.tx.entries))
	if n == 0 {
		m.txRingEmpty.Add(1)
	}
	for i := range n {
		if m.wire.tx.at(m.wire.tx.next+uint32(i)).Options&Contd == 0 {
			return i + 1
		}
	}
	return 0
}

// join returns the bytes of the packet in the first count entries of the tx ring.
func (m *Memory) join(count int) (packet []byte, metadata bool) {
	first := *m.wire.tx.at(m.wire.tx.next)
	metadata = first.Options&TxMetadata != 0
	if count == 1 && !metadata {
		return m.bytes(first), false
	}
	m.joined = m.joined[:0]
	for i := range count {
		m.joined = append(m.joined, m.bytes(*m.wire.tx.at(m.wire.tx.next + uint32(i)))...)
	}
	if metadata {
		start, offset, _ := txChecksum(m.umem, first.Addr)
		completeChecksum(m.joined, start, offset)
	}
	return m.joined, metadata
}

func (m *Memory) bytes(d Desc) []byte {
	start := d.Addr & m.umem.mask
	return m.umem.Frame(d.Addr)[start : start+uint64(d.Len)]
}

func (m *Memory) complete(count int) {
	for range count {
		*m.wire.completion.at(m.wire.completion.next) = m.wire.tx.at(m.wire.tx.next).Addr
		m.wire.completion.next++
		m.wire.tx.next++
	}
	m.wire.completion.publish()
	m.wire.tx.publish()
}

// Break makes the queue behave as if its device had vanished.
func (m *Memory) Break() { m.broken.Store(true) }

// Flush returns ErrGone after Break. There is nobody to tell of work.
func (m *Memory) Flush() error {
	if m.broken.Load() {
		return ErrGone
	}
	return nil
}

// FD is -1: there is nothing to poll.
func (m *Memory) FD() int { return -1 }

// Statistics counts what the kernel would have counted.
func (m *Memory) Statistics() (Statistics, error) {
	return Statistics{
		RxDropped: m.rxDropped.Load(), RxRingFull: m.rxRingFull.Load(),
		FillRingEmpty: m.fillRingEmpty.Load(), TxRingEmpty: m.txRingEmpty.Load(),
		RefusedOnSend: m.txInvalid, RefusedOnReturn: m.rxInvalid,
	}, nil
}

// Info says what the queue is.
func (m *Memory) Info() Info { return m.info }

// Close hands back every frame of the queue. The wire must be quiet.
func (m *Memory) Close(release func(frame uint64)) error {
	if m.closed {
		return nil
	}
	m.closed = true
	m.broken.Store(true)
	m.closeRings(release)
	return nil
}
