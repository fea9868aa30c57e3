// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 && !arm64

// Package cacheline has the CPU fetch what is going to be read, and publishes what others read.
package cacheline

import (
	"sync/atomic"
	"unsafe"
)

// Fetch does nothing where it is not known how.
func Fetch(unsafe.Pointer) {}

// Publish64 stores a word that others read by sync/atomic.
func Publish64(p *uint64, v uint64) { atomic.StoreUint64(p, v) }

// Publish32 is Publish64 for half a word.
func Publish32(p *uint32, v uint32) { atomic.StoreUint32(p, v) }
