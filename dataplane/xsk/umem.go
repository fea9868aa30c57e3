// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// UMEMConfig says how much memory packets get.
type UMEMConfig struct {
	Chunks    int // number of frames, at least 1
	ChunkSize int // bytes in a frame: 2048 or 4096
	Headroom  int // bytes left free before a received packet, beside the kernel's 256; a multiple of 8
}

// UMEM is the memory in which packets lie, cut into chunks of equal size. Frames are named by their offset in it.
// Sockets on any number of devices and queues share one UMEM.
//
// Frame, ChunkOf and the sizes are for use from any goroutine. The frame accounting belongs to the goroutine that uses
// the queues; opening and closing sockets may run beside it.
type UMEM struct {
	mapping  []byte   // as the kernel gave it
	data     []byte   // the part of it that has frames, aligned to huge pages
	file     *os.File // that data is of; nil where it is nobody else's to have
	size     uint64   // of a chunk
	mask     uint64   // size - 1
	shift    uint
	headroom int
	huge     bool
	owner    []uint8 // by chunk: the slot of the queue that owns it, or free or pooled

	mu     sync.Mutex
	slots  [lastSlot + 1]bool // queues in being
	groups map[registration][]*Socket
}

// Owners of a chunk. Queues are numbered from firstSlot to lastSlot.
const (
	callerOwns = 0
	firstSlot  = 1
	lastSlot   = 254
	poolOwns   = 255 // kept by the debug build only
)

// kernelHeadroom is XDP_PACKET_HEADROOM: what the kernel leaves free before a received packet (linux/bpf.h).
const kernelHeadroom = 256

// NewUMEM maps the memory: in huge pages when enough are free, in ordinary ones else. Close releases it.
func NewUMEM(c UMEMConfig) (*UMEM, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	m, err := mapMemory(c.Chunks * c.ChunkSize)
	if err != nil {
		return nil, fmt.Errorf("map umem of %d bytes: %w", c.Chunks*c.ChunkSize, err)
	}
	return c.over(m), nil
}

func (c UMEMConfig) check() error {
	if c.ChunkSize != 2048 && c.ChunkSize != 4096 {
		return fmt.Errorf("umem chunk size %d: neither 2048 nor 4096", c.ChunkSize)
	}
	if c.Chunks < 1 || c.Chunks > 1<<24 {
		return fmt.Errorf("umem of %d chunks: want 1 to %d", c.Chunks, 1<<24)
	}
	if c.Headroom < 0 || c.Headroom%8 != 0 || c.Headroom > c.ChunkSize/2 {
		return fmt.Errorf("umem headroom %d: want a multiple of 8 up to %d", c.Headroom, c.ChunkSize/2)
	}
	return nil
}

// over is a UMEM of whose chunks the caller has all.
func (c UMEMConfig) over(m memory) *UMEM {
	u := &UMEM{
		mapping: m.mapping, data: m.data, file: m.file, huge: m.huge, headroom: c.Headroom,
		size: uint64(c.ChunkSize), mask: uint64(c.ChunkSize - 1), shift: 11,
		owner:  make([]uint8, c.Chunks),
		groups: map[registration][]*Socket{},
	}
	if c.ChunkSize == 4096 {
		u.shift = 12
	}
	return u
}

// Frame returns the whole chunk that contains addr, headroom included. It panics when addr is outside the UMEM.
func (u *UMEM) Frame(addr uint64) []byte {
	start := addr &^ u.mask
	end := start + u.size
	return u.data[start:end:end]
}

// ChunkOf returns the address of the chunk that contains addr.
func (u *UMEM) ChunkOf(addr uint64) uint64 { return addr &^ u.mask }

// ChunkSize is the number of bytes in a frame.
func (u *UMEM) ChunkSize() int { return int(u.size) }

// Chunks is the number of frames.
func (u *UMEM) Chunks() int { return len(u.owner) }

// Headroom is the number of bytes before a received packet in its first frame.
func (u *UMEM) Headroom() int { return kernelHeadroom + u.headroom }

// HugePages says whether the memory is in huge pages.
func (u *UMEM) HugePages() bool { return u.huge }

// Close releases the memory. It fails while a queue uses it; no frame may be touched afterwards.
func (u *UMEM) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for slot, used := range u.slots {
		if used {
			return fmt.Errorf("close umem: queue %d still uses it", slot)
		}
	}
	if u.data == nil {
		return nil
	}
	u.data = nil
	return memory{mapping: u.mapping, file: u.file}.release()
}

// chunkMemory is the part of the mapping that has chunks: huge pages round it up.
func (u *UMEM) chunkMemory() []byte { return u.data[:len(u.owner)<<u.shift] }

// takeSlot finds a number for a queue. The caller holds mu.
func (u *UMEM) takeSlot() (uint8, error) {
	if u.data == nil {
		return 0, errors.New("umem is closed")
	}
	for slot := firstSlot; slot <= lastSlot; slot++ {
		if !u.slots[slot] {
			u.slots[slot] = true
			return uint8(slot), nil
		}
	}
	return 0, fmt.Errorf("more than %d queues over one umem", lastSlot)
}

func (u *UMEM) freeSlot(slot uint8) {
	u.mu.Lock()
	u.slots[slot] = false
	u.mu.Unlock()
}

// sweep releases every frame that belongs to slot.
func (u *UMEM) sweep(slot uint8, release func(frame uint64)) {
	for chunk, owner := range u.owner {
		if owner != slot {
			continue
		}
		u.owner[chunk] = callerOwns
		if release != nil {
			release(uint64(chunk) << u.shift)
		}
	}
}
