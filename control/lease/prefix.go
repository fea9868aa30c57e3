// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"cmp"
	"math"
	"math/big"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/viaduct-net/viaduct/control/model"
)

// reserved lists the addresses of a pool that are never leased: the node's own and the dataplane's, the network and
// broadcast address of IPv4, and the subnet-router anycast address of IPv6 (RFC 4291, 2.6.1).
func reserved(pool netip.Prefix) []netip.Prefix {
	var addresses []netip.Addr
	for _, own := range []netip.Addr{model.NodeAddress(pool), model.DataplaneAddress(pool)} {
		if own.IsValid() {
			addresses = append(addresses, own)
		}
	}
	if hostBits(pool) > 1 {
		addresses = append(addresses, pool.Addr())
		if pool.Addr().Is4() {
			addresses = append(addresses, netipx.PrefixLastIP(pool))
		}
	}
	prefixes := make([]netip.Prefix, len(addresses))
	for i, a := range addresses {
		prefixes[i] = netip.PrefixFrom(a, a.BitLen())
	}
	return prefixes
}

func hostBits(p netip.Prefix) int { return p.Addr().BitLen() - p.Bits() }

// masked returns the valid prefixes without their host bits, each once, in the order given.
func masked(prefixes []netip.Prefix) []netip.Prefix {
	var kept []netip.Prefix
	for _, p := range prefixes {
		if p = p.Masked(); p.IsValid() && !slices.Contains(kept, p) {
			kept = append(kept, p)
		}
	}
	return kept
}

// ranges is a set of addresses: prefixes in order, none of which contains another.
type ranges []netip.Prefix

func newRanges(prefixes []netip.Prefix) ranges {
	sorted := slices.SortedFunc(slices.Values(prefixes), comparePrefixes)
	set := sorted[:0]
	for _, p := range sorted {
		if len(set) == 0 || !set[len(set)-1].Overlaps(p) {
			set = append(set, p)
		}
	}
	return set
}

// comparePrefixes has a prefix come before those that it contains.
func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// at returns the prefix of the set that contains an address.
func (r ranges) at(address netip.Addr) (netip.Prefix, bool) {
	i, found := slices.BinarySearchFunc(r, address, func(p netip.Prefix, a netip.Addr) int { return p.Addr().Compare(a) })
	if found {
		return r[i], true
	}
	if i > 0 && r[i-1].Contains(address) {
		return r[i-1], true
	}
	return netip.Prefix{}, false
}

// rest is the number of addresses of a prefix that are not in the set; it saturates.
func (r ranges) rest(p netip.Prefix) uint64 {
	count := func(p netip.Prefix) *big.Int { return new(big.Int).Lsh(big.NewInt(1), uint(hostBits(p))) }
	n := count(p)
	for _, q := range r {
		switch {
		case !q.Overlaps(p):
		case q.Bits() <= p.Bits():
			return 0
		default:
			n.Sub(n, count(q))
		}
	}
	if !n.IsUint64() {
		return math.MaxUint64
	}
	return n.Uint64()
}
