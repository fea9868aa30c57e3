// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"
	"unsafe"
)

// What who opens a flow needs of a shard is in the lines that foresee.go has fetched.
func TestLayout(t *testing.T) {
	var sh shard
	line := func(offset, size uintptr) [2]uintptr {
		return [2]uintptr{offset / cacheLine, (offset + size - 1) / cacheLine}
	}
	for name, lines := range map[string][2]uintptr{
		"lock to entries":  line(0, unsafe.Offsetof(sh.entries)+unsafe.Sizeof(sh.entries)),
		"lists to table":   line(unsafe.Offsetof(sh.lists), unsafe.Offsetof(sh.table)+8-unsafe.Offsetof(sh.lists)),
		"records":          line(unsafe.Offsetof(sh.records), unsafe.Offsetof(sh.stamps)+4-unsafe.Offsetof(sh.records)),
		"opened and UDP's": line(unsafe.Offsetof(sh.count)+unsafe.Offsetof(sh.count.opened), 8+4*uintptr(udpReplied)),
		"aliases":          line(unsafe.Offsetof(sh.aliases), unsafe.Offsetof(sh.aliases.over)),
	} {
		if lines[0] != lines[1] {
			t.Errorf("%s are in lines %d to %d", name, lines[0], lines[1])
		}
	}
	if size := unsafe.Sizeof(sh); size%cacheLine != 0 {
		t.Errorf("a shard takes %d bytes, no whole lines", size)
	}
	if size := unsafe.Sizeof(entry{}); size != 2*cacheLine {
		t.Errorf("an entry takes %d bytes", size)
	}
	for name, size := range map[string]uintptr{"record": unsafe.Sizeof(record{}), "alias": unsafe.Sizeof(alias{})} {
		if size != cacheLine {
			t.Errorf("%s: %d bytes", name, size)
		}
	}
}
