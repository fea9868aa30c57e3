// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 && !arm64

// Package cacheline has the CPU fetch what is going to be read.
package cacheline

import "unsafe"

// Fetch does nothing where it is not known how.
func Fetch(unsafe.Pointer) {}
