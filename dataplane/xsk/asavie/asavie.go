// SPDX-License-Identifier: Apache-2.0

// Package asavie is the second backend of AF_XDP: an xsk.Queue over github.com/asavie/xdp v0.3.3. It is there to
// compare with and to fall back on; package xsk is better at everything.
//
// The library maps its own UMEM, so every packet is copied twice more: between its frames and a queue in memory, and
// between that queue's wire and ours. The caller's frames therefore never meet the library, nor the kernel: they are on
// an xsk.Memory, which accounts for them, and Close returns them whatever has become of the socket.
//
// What it cannot do:
//   - several frames to a packet: larger ones are dropped by the kernel on reception, which also counts them, and
//     refused by Send (Info.MaxFrames is 1). A packet to be sent must fit into 2048 bytes;
//   - checksums left to the device: Info.TxChecksum is false, complete them before Send;
//   - counters of packets that the device refused (Statistics.TxDropped): the library keeps them to itself;
//   - a choice of copy mode or zero copy: the kernel chooses, and Info tells;
//   - need-wakeup, a transmission budget, busy polling: one system call for each 32 packets sent;
//   - processors other than amd64: it reads and writes the ring indices with plain loads and stores.
//
// What it does wrong, and how that is kept from doing harm:
//   - it panics when sendto fails, as it does when the device is down or gone: the panic is caught, the descriptors
//     are on its ring by then, and the socket is asked whether its device still exists (xsk.ErrGone) or is only down;
//   - it gives up at EAGAIN and leaves the rest of the tx ring to the next transmission, which stalls when none
//     follows: Flush transmits again for as long as anything is left;
//   - its list of free frames knows no difference between those for reception and those for transmission, so that one
//     could be both: the first half of its frames is only ever transmitted from, the other only received into;
//   - it closes its socket but not the mappings of the rings, which keep the socket bound: Close unmaps them first.
package asavie

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// frameSize is the size of the library's frames in bytes.
const frameSize = 2048

// bindWait is how long OpenAsavie waits for a busy queue unless told.
const bindWait = 3 * time.Second

// batch is the number of packets received at once.
const batch = 64

// queue is an xsk.Memory whose wire is the library's socket.
type queue struct {
	*xsk.Memory
	socket *xdp.Socket
	info   xsk.Info
	txFree []xdp.Desc // the frames that Flush may transmit from, and how many of them it has used
	txUsed int
	txSize int
	gone   bool
	closed bool
	stage  func(packet []byte, metadata bool)
	own    xsk.Statistics
}

var _ xsk.Queue = (*queue)(nil)

// OpenAsavie binds a socket of the library to a device's queue. Of the configuration it takes the UMEM, the device, the
// queue and the ring sizes, which share the UMEM's rules; it fails when zero copy is demanded, multi-buffer or
// checksums are asked for. It loads no XDP program: put FD in the XSKMAP of ours.
func OpenAsavie(c xsk.SocketConfig) (xsk.Queue, error) {
	if err := check(c); err != nil {
		return nil, fmt.Errorf("open asavie socket: %w", err)
	}
	device, err := findDevice(c)
	if err != nil {
		return nil, fmt.Errorf("open asavie socket: %w", err)
	}
	memory, err := xsk.NewMemory(xsk.MemoryConfig{
		UMEM: c.UMEM, Device: device.Name, QueueID: c.QueueID,
		RxSize: c.RxSize, TxSize: c.TxSize, FillSize: c.FillSize, CompletionSize: c.CompletionSize,
	})
	if err != nil {
		return nil, fmt.Errorf("open asavie socket: %w", err)
	}
	info := memory.Info()
	half := max(info.TxSize, info.FillSize)
	socket, err := bind(device.Index, c.QueueID, half, c.BindWait)
	if err != nil {
		_ = memory.Close(nil)
		return nil, fmt.Errorf("open asavie socket on %s queue %d: %w", device.Name, c.QueueID, err)
	}
	q := &queue{Memory: memory, socket: socket, info: info, txSize: half}
	q.stage = q.put // once, for a method value allocates
	q.info.Backend, q.info.IfIndex = "asavie", device.Index
	options, err := unix.GetsockoptInt(socket.FD(), unix.SOL_XDP, unix.XDP_OPTIONS)
	q.info.ZeroCopy = err == nil && options&unix.XDP_OPTIONS_ZEROCOPY != 0
	receiving := make([]xdp.Desc, half)
	for i := range receiving {
		receiving[i].Addr = uint64(half+i) * frameSize
	}
	socket.Fill(receiving)
	return q, nil
}

// bind makes a socket of the library, waiting while the queue is busy. The library's errors cannot be unwrapped.
func bind(ifIndex, queueID, size int, wait time.Duration) (*xdp.Socket, error) {
	if wait == 0 {
		wait = bindWait
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		socket, err := xdp.NewSocket(ifIndex, queueID, &xdp.SocketOptions{
			NumFrames: 2 * size, FrameSize: frameSize, FillRingNumDescs: size,
			CompletionRingNumDescs: size, RxRingNumDescs: size, TxRingNumDescs: size,
		})
		if err == nil {
			return socket, nil
		}
		if orphans := unmapOrphans(); orphans != nil {
			return nil, errors.Join(err, orphans)
		}
		if !strings.Contains(err.Error(), unix.EBUSY.Error()) || time.Now().After(deadline) {
			return nil, err
		}
	}
}

func check(c xsk.SocketConfig) error {
	switch {
	case runtime.GOARCH != "amd64":
		return fmt.Errorf("not safe on %s: the library has no memory barriers", runtime.GOARCH)
	case c.UMEM == nil:
		return errors.New("no umem")
	case c.MultiBuffer:
		return errors.New("the library has no multi-buffer packets")
	case c.TxChecksum:
		return errors.New("the library has no tx metadata")
	case c.ZeroCopy == xsk.ZeroCopyOn:
		return errors.New("the library cannot demand zero copy")
	}
	return nil
}

func findDevice(c xsk.SocketConfig) (*net.Interface, error) {
	if c.IfIndex != 0 {
		return net.InterfaceByIndex(c.IfIndex)
	}
	device, err := net.InterfaceByName(c.Device)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", c.Device, err)
	}
	return device, nil
}

// Receive takes what the library received into frames of the fill ring, and then what is on the rx ring.
func (q *queue) Receive(descs []xsk.Desc) int {
	if !q.gone && !q.closed {
		q.pull(min(len(descs), batch))
	}
	return q.Memory.Receive(descs)
}

// pull copies up to n packets from the library to the queue, and gives their frames back to the library.
func (q *queue) pull(n int) {
	received := q.socket.Receive(n)
	for i := range received {
		q.Inject(q.socket.GetFrame(received[i]))
		received[i].Addr -= received[i].Addr % frameSize
	}
	q.socket.Fill(received)
}

// Flush hands the tx ring to the library and makes it transmit. See xsk.Queue.
func (q *queue) Flush() error {
	if q.gone || q.closed {
		return xsk.ErrGone
	}
	q.reap()
	q.txFree = q.transmittable()
	q.txUsed = 0
	q.DrainN(len(q.txFree), q.stage)
	q.transmit(q.txFree[:q.txUsed])
	return q.judge()
}

// reap takes completed frames back into the library's list of free ones.
func (q *queue) reap() {
	if n := q.socket.NumCompleted(); n > 0 {
		q.socket.Complete(n)
	}
}

// transmittable are the free frames of the half that is transmitted from. The library lists frames in the order of
// their addresses, so they are the first ones.
func (q *queue) transmittable() []xdp.Desc {
	free := q.socket.GetDescs(q.txSize)
	for i := range free {
		if free[i].Addr >= uint64(q.txSize)*frameSize {
			return free[:i]
		}
	}
	return free
}

// put copies a packet into the next of those frames.
func (q *queue) put(packet []byte, _ bool) {
	if len(packet) > frameSize {
		q.own.RefusedOnSend++
		return
	}
	d := &q.txFree[q.txUsed]
	d.Len = frameSize
	d.Len = uint32(copy(q.socket.GetFrame(*d), packet))
	q.txUsed++
}

// transmit calls the library once for every batch that the kernel takes, for as long as it takes any.
func (q *queue) transmit(descs []xdp.Desc) {
	for before := -1; len(descs) > 0 || q.socket.NumFreeTxSlots() < q.txSize; descs = nil {
		free := q.socket.NumFreeTxSlots()
		if descs == nil && free == before {
			q.own.TxAgain++
			return
		}
		before = free
		if !q.try(descs) {
			return
		}
		q.reap()
	}
}

// try makes the library transmit and says whether it did not panic.
func (q *queue) try(descs []xdp.Desc) (ok bool) {
	defer func() {
		if fault := recover(); fault != nil {
			ok = false
		}
	}()
	q.socket.Transmit(descs)
	return true
}

// judge asks the socket whether its device is there: see xsk.Socket.Flush.
func (q *queue) judge() error {
	_, _, err := unix.Recvfrom(q.socket.FD(), nil, unix.MSG_DONTWAIT)
	switch err {
	case unix.ENXIO, unix.ENODEV:
		q.gone = true
		return xsk.ErrGone
	case unix.ENETDOWN:
		q.own.Down++
	}
	return nil
}

// FD is the library's socket.
func (q *queue) FD() int { return q.socket.FD() }

// Info says what the queue is.
func (q *queue) Info() xsk.Info { return q.info }

// Statistics reads the kernel's counters and adds those of the copies.
func (q *queue) Statistics() (xsk.Statistics, error) {
	s, err := q.Memory.Statistics()
	s.TxAgain, s.Down = q.own.TxAgain, q.own.Down
	s.RefusedOnSend += q.own.RefusedOnSend
	s.TxRingEmpty = 0
	if err != nil || q.closed {
		return s, err
	}
	if q.gone {
		return s, xsk.ErrGone
	}
	kernel, err := q.socket.Stats()
	if err != nil {
		return s, fmt.Errorf("asavie socket statistics: %w", err)
	}
	k := kernel.KernelStats
	s.RxDropped += k.Rx_dropped
	s.RxInvalid, s.TxInvalid = k.Rx_invalid_descs, k.Tx_invalid_descs
	s.RxRingFull += k.Rx_ring_full
	s.FillRingEmpty += k.Rx_fill_ring_empty_descs
	s.TxRingEmpty = k.Tx_ring_empty_descs
	return s, q.judge()
}

// Close closes the library's socket and hands back every frame of the queue.
func (q *queue) Close(release func(frame uint64)) error {
	if q.closed {
		return nil
	}
	q.closed = true
	return errors.Join(unmapRings(q.socket.FD()), q.socket.Close(), q.Memory.Close(release))
}
