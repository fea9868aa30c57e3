// SPDX-License-Identifier: Apache-2.0

package lease

import "net/netip"

// NodeAddress returns the address of a pool that is the node's own, the first usable one: "10.244.1.1" of
// 10.244.1.0/24, "fd00::1" of fd00::/64, the first of a pair (RFC 3021, RFC 6164). A pool of a single address has
// none, and its address is leased: the result is the zero Addr then.
func NodeAddress(pool netip.Prefix) netip.Addr {
	pool = pool.Masked()
	switch host := pool.Addr().BitLen() - pool.Bits(); {
	case !pool.IsValid() || host == 0:
		return netip.Addr{}
	case host == 1:
		return pool.Addr()
	}
	return pool.Addr().Next()
}
