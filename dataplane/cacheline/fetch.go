// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

// Package cacheline has the CPU fetch what is going to be read.
package cacheline

import "unsafe"

// Fetch has the CPU bring the 64 bytes around p into its caches, and goes on at once. It reads nothing: p may be nil,
// or point to what another thread is writing.
//
//go:noescape
func Fetch(p unsafe.Pointer)
