// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is the arrays of all shards, outside the collector's heap: it has nothing to look for in them, and their size
// is not to make it wait with the rest. It is taken at once, but for syns, which only a flood touches, and for what
// only flows touch that are translated, or that the kernel carries.
type memory struct {
	entries []entry
	slots   []uint64
	links   []link
	marks   []uint64
	syns    []uint32

	records    []record
	aliases    []alias
	aliasSlots []uint64
	carriages  []carriage

	held *mapping
}

// mapping is what the kernel gave, for as long as somebody refers to it.
type mapping struct{ bytes []byte }

func reserve(shards, each, slots int) memory {
	syns := max(min(repeatFactor*shards*each, repeatMax)/shards/repeatWays, 1) * repeatWays
	aliases := aliasesFor(each)
	aliasSlots := ceilPower(aliases * 7 / 4)
	m := memory{held: mapped(size[entry](shards*each) + size[uint64](shards*slots) + size[link](shards*(each+1)) +
		size[uint64](shards*slots/2) + size[uint32](shards*syns) +
		size[record](shards*each) + size[alias](shards*aliases) + size[uint64](shards*aliasSlots) +
		size[carriage](shards*each))}
	rest := m.held.bytes
	m.entries, rest = carve[entry](rest, shards*each)
	m.slots, rest = carve[uint64](rest, shards*slots)
	m.links, rest = carve[link](rest, shards*(each+1))
	m.marks, rest = carve[uint64](rest, shards*slots/2)
	touch(m.held.bytes[:len(m.held.bytes)-len(rest)])
	m.syns, rest = carve[uint32](rest, shards*syns)
	m.records, rest = carve[record](rest, shards*each)
	m.aliases, rest = carve[alias](rest, shards*aliases)
	m.aliasSlots, rest = carve[uint64](rest, shards*aliasSlots)
	m.carriages, _ = carve[carriage](rest, shards*each)
	return m
}

const cacheLine, smallPage = 64, 4096

// size is what an array takes, in bytes: whole cache lines.
func size[T any](n int) int {
	return (n*int(unsafe.Sizeof(*new(T))) + cacheLine - 1) &^ (cacheLine - 1)
}

// carve takes an array off the front of b, whose address is that of a cache line.
func carve[T any](b []byte, n int) ([]T, []byte) {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n), b[size[T](n):]
}

// mapped asks the kernel for zeroed memory, in huge pages if it has some: flows are looked up in no order, and with
// pages of 4 KB each look would miss the TLB too. Where there is no memory it panics, as make does.
func mapped(bytes int) *mapping {
	const anonymous = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
	b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, anonymous)
	if err != nil {
		panic(fmt.Sprintf("no memory for a table of flows of %d bytes: %v", bytes, err))
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	m := &mapping{b}
	runtime.AddCleanup(m, func(b []byte) { _ = unix.Munmap(b) }, b)
	return m
}

func touch(b []byte) {
	for i := 0; i < len(b); i += smallPage {
		b[i] = 0
	}
}
