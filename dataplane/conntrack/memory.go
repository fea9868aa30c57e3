// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is the arrays of all shards, without a pointer in them: the collector does not look inside.
type memory struct {
	entries []entry
	slots   []uint64
	links   []link
	marks   []uint64
	syns    []uint32
}

func reserve(shards, each, slots int) memory {
	return memory{
		entries: huge[entry](shards * each),
		slots:   huge[uint64](shards * slots),
		links:   make([]link, shards*(each+1)),
		marks:   make([]uint64, shards*slots/2),
		syns:    make([]uint32, shards*max(min(repeatFactor*shards*each, repeatMax)/shards/repeatWays, 1)*repeatWays),
	}
}

// huge makes an array for which the kernel is asked to use huge pages: flows are looked up in no order, and with pages
// of 4 KB each look would miss the TLB too. A kernel that has none gives others.
func huge[T any](n int) []T {
	const page = 2 << 20
	a := make([]T, n)
	b := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(a))), uintptr(n)*unsafe.Sizeof(*new(T)))
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	if skip := int(-at & (page - 1)); len(b) >= skip+page {
		b = b[skip:]
		_ = unix.Madvise(b[:len(b)&^(page-1)], unix.MADV_HUGEPAGE)
	}
	return a
}
