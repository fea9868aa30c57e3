// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// All of the package's unsafe code is in this file.

// ring is our side of one single-producer, single-consumer ring (net/xdp/xsk_queue.h). Of its two cursors one is ours
// to move; the other is the peer's. Both run freely over uint32 and wrap, the entry is the cursor modulo the size.
//
// next runs ahead of the shared cursor: a batch is written or read first and published by one store. seen is the last
// value read of the peer's cursor, and is read again only when it does not suffice. Go's atomics are sequentially
// consistent, which is more than the acquire and release that the kernel uses.
type ring[T uint64 | Desc] struct {
	entries []T
	mask    uint32
	next    uint32
	seen    uint32
	ours    *uint32
	theirs  *uint32
	flags   *uint32
	mapping []byte
}

// free returns how many entries the producer may write, at most want.
func (r *ring[T]) free(want int) int {
	size := r.mask + 1
	n := size - (r.next - r.seen)
	if int(n) < want {
		r.seen = atomic.LoadUint32(r.theirs)
		n = size - (r.next - r.seen)
	}
	if n > size { // a consumer ahead of its producer: the cursor is corrupt
		return 0
	}
	return min(int(n), want)
}

// available returns how many entries the consumer may read, at most want.
func (r *ring[T]) available(want int) int {
	n := r.seen - r.next
	if int(n) < want {
		r.seen = atomic.LoadUint32(r.theirs)
		n = r.seen - r.next
	}
	if n > r.mask+1 { // a producer more than the ring ahead: the cursor is corrupt
		return 0
	}
	return min(int(n), want)
}

// at is the entry of a cursor position. The mask keeps every position inside the ring.
func (r *ring[T]) at(position uint32) *T { return &r.entries[position&r.mask] }

// publish shows the peer what was written, or that what was read may be overwritten.
func (r *ring[T]) publish() { atomic.StoreUint32(r.ours, r.next) }

// pending says whether the peer has not taken all that was published yet. For the producer's side.
func (r *ring[T]) pending() bool { return atomic.LoadUint32(r.theirs) != r.next }

// settled says whether the peer knows of everything that was written or read.
func (r *ring[T]) settled() bool { return atomic.LoadUint32(r.ours) == r.next }

// progress is the peer's cursor as it is at this moment.
func (r *ring[T]) progress() uint32 { return atomic.LoadUint32(r.theirs) }

// needWakeup says whether the kernel sleeps on this ring until it is told: XDP_RING_NEED_WAKEUP.
func (r *ring[T]) needWakeup() bool { return atomic.LoadUint32(r.flags)&unix.XDP_RING_NEED_WAKEUP != 0 }

// newRing makes a ring in ordinary memory. size is a power of two.
func newRing[T uint64 | Desc](size int) ring[T] {
	return ring[T]{entries: make([]T, size), mask: uint32(size - 1),
		ours: new(uint32), theirs: new(uint32), flags: new(uint32)}
}

// peer is the other side of a fresh ring: the consumer's view of a producer's ring and vice versa.
func (r *ring[T]) peer() ring[T] {
	p := *r
	p.ours, p.theirs = r.theirs, r.ours
	return p
}

// producer and consumer say which of a mapped ring's cursors is ours.
const (
	producer = true
	consumer = false
)

// mapRing maps one of the socket's rings of size entries. page is its XDP_PGOFF_… offset.
func mapRing[T uint64 | Desc](fd int, page int64, size int, off unix.XDPRingOffset, side bool) (ring[T], error) {
	var entry T
	length := off.Desc + uint64(size)*uint64(unsafe.Sizeof(entry))
	mapping, err := unix.Mmap(fd, page, int(length), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return ring[T]{}, fmt.Errorf("map ring: %w", err)
	}
	r := ring[T]{
		entries: unsafe.Slice((*T)(unsafe.Pointer(&mapping[off.Desc])), size),
		mask:    uint32(size - 1),
		ours:    (*uint32)(unsafe.Pointer(&mapping[off.Producer])),
		theirs:  (*uint32)(unsafe.Pointer(&mapping[off.Consumer])),
		flags:   (*uint32)(unsafe.Pointer(&mapping[off.Flags])),
		mapping: mapping,
	}
	if side == consumer { //nolint:staticcheck // the two sides have names
		r.ours, r.theirs = r.theirs, r.ours
	}
	r.next, r.seen = atomic.LoadUint32(r.ours), atomic.LoadUint32(r.theirs) // not zero where the socket was another's
	return r, nil
}

// close drops the ring's memory. The ring is then full for a producer and empty for a consumer.
func (r *ring[T]) close() {
	mapping := r.mapping
	*r = newRing[T](1)
	r.next = 1
	if mapping != nil {
		_ = unix.Munmap(mapping)
	}
}

// registerMemory registers data with the socket: XDP_UMEM_REG.
func registerMemory(fd int, data []byte, chunkSize, headroom int, metadata bool) error {
	reg := unix.XDPUmemReg{
		Addr:     address(data),
		Len:      uint64(len(data)),
		Size:     uint32(chunkSize),
		Headroom: uint32(headroom),
	}
	if metadata {
		reg.Flags = unix.XDP_UMEM_TX_METADATA_LEN
		reg.Tx_metadata_len = txMetadataLen
	}
	return setsockopt(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg))
}

func setsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option),
		uintptr(value), size, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// getsockopt reads an AF_XDP option into value, a structure of the kernel's layout.
func getsockopt[T unix.XDPMmapOffsets | unix.XDPStatistics | uint32](fd, option int, value *T) error {
	size := uint32(unsafe.Sizeof(*value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option),
		uintptr(unsafe.Pointer(value)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// kick is sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0): the kernel transmits what is on the tx ring.
//
// It is a raw system call, of which the scheduler does not know; see the package documentation for why.
func kick(fd int) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

// wake is recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL): a sleeping driver looks at the fill ring. It takes nothing
// off the rx ring, and answers whether the socket is still bound (xsk_recvmsg in net/xdp/xsk.c).
func wake(fd int) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

// mapOver maps a file from its begin in place of the memory at b, whose begin and end are at pages' of the file.
func mapOver(fd int, b []byte) error {
	_, err := unix.MmapPtr(fd, 0, unsafe.Pointer(&b[0]), uintptr(len(b)), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_FIXED)
	return err
}

// address is where b begins in memory.
func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }
