// SPDX-License-Identifier: Apache-2.0

package cacheline

import (
	"testing"
	"unsafe"
)

// What is fetched stays as it is, and what is not there may be asked for.
func TestFetch(t *testing.T) {
	at := [64]byte{1, 2, 3}
	was := at
	Fetch(unsafe.Pointer(&at))
	Fetch(nil)
	if at != was {
		t.Errorf("%v", at)
	}
}

func BenchmarkFetch(b *testing.B) {
	var at [64]byte
	for b.Loop() {
		Fetch(unsafe.Pointer(&at))
	}
}
