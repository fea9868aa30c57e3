// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"runtime"
	"sync/atomic"
)

// spinLock is held for less than a microsecond, by workers that have a CPU each: to wait is to spin. It gives way after
// a while, for where there are more threads than CPUs the holder may be waiting for this one's.
type spinLock struct{ held atomic.Uint32 }

// spins is how often the lock is tried between two yields: about a microsecond.
const spins = 100

// Lock waits until nobody else has the lock.
func (l *spinLock) Lock() {
	if !l.held.CompareAndSwap(0, 1) {
		l.wait()
	}
}

func (l *spinLock) wait() {
	for n := 1; ; n++ {
		if l.held.Load() == 0 && l.held.CompareAndSwap(0, 1) {
			return
		}
		if n%spins == 0 {
			runtime.Gosched()
		}
	}
}

// Unlock lets the next one have it.
func (l *spinLock) Unlock() { l.held.Store(0) }
