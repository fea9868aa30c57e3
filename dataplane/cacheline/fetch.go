// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

// Package cacheline has the CPU fetch what is going to be read, and publishes what others read.
package cacheline

import "unsafe"

// Fetch has the CPU bring the 64 bytes around p into its caches, and goes on at once. It reads nothing: p may be nil,
// or point to what another thread is writing.
//
//go:noescape
func Fetch(p unsafe.Pointer)

// Publish64 stores a word that others read by sync/atomic: they see it as a whole, and with it what was written before.
// Other than a store of that package's, which waits until all that this CPU has written is in its cache, it goes on at
// once: what the CPU reads next it may read before others see the store. p is aligned.
//
//go:noescape
func Publish64(p *uint64, v uint64)

// Publish32 is Publish64 for half a word.
//
//go:noescape
func Publish32(p *uint32, v uint32)
