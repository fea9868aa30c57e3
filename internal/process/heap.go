// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"runtime/debug"
)

// KeepHeap has the garbage collector begin when the heap has grown by so many hundredths of what is in use, unless the
// environment says otherwise (GOGC). Go's own 100 is for programs that allocate all the time. A daemon that does so
// when something changes, and holds tables of a cluster meanwhile, has their memory twice for nothing.
func KeepHeap(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
