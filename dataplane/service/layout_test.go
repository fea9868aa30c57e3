// SPDX-License-Identifier: Apache-2.0

package service

import (
	"testing"
	"unsafe"
)

// What Choose reads of a service is in the lines that Foresee fetches.
func TestLayout(t *testing.T) {
	var s Service
	var g group
	if end := unsafe.Offsetof(s.cluster) + unsafe.Offsetof(s.cluster.even) + 1; end > 2*line {
		t.Errorf("what is read of a service takes %d bytes", end)
	}
	if size := unsafe.Sizeof(s); size%line != 0 {
		t.Errorf("services take %d bytes, no whole lines", size)
	}
	if size := unsafe.Sizeof(g); size != 2*line {
		t.Errorf("groups take %d bytes", size)
	}
	if size := unsafe.Sizeof(slot{}); size != line {
		t.Errorf("slots take %d bytes", size)
	}
}
