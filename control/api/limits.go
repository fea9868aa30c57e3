// SPDX-License-Identifier: Apache-2.0

package api

// MaxPort is the largest number of a port; the smallest is 1. It bounds the dataplane's arrays by port. The trunk's
// encoding would have 24 bits.
const MaxPort = 1<<20 - 1
