// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Address is one of a device's.
type Address struct {
	netip.Prefix

	// Spare: the host does not begin connections with it, nor masquerades by it, by itself: it has no subnet, another
	// address of its subnet is before it (IPv4), or it is deprecated (IPv6: RFC 4862 section 5.5.4).
	Spare bool
}

// Addresses lists the addresses of the network namespace's devices, as they are on them, ordered and each once. Those
// of loopback's range and link-local ones are nobody's outside, and are left out; others on the loopback device, and
// those of PairStack, are in it.
func Addresses() ([]Address, error) {
	there, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var list []Address
	for _, a := range there {
		p := prefixOf(a.IPNet)
		if !p.IsValid() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		spare := unix.IFA_F_SECONDARY // of IPv6 the same bit is a temporary address
		if p.Addr().Is6() {
			spare = unix.IFA_F_DEPRECATED
		}
		list = append(list, Address{p, p.IsSingleIP() || a.Flags&spare != 0})
	}
	slices.SortFunc(list, func(a, b Address) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	return slices.CompactFunc(list, func(a, b Address) bool { return a.Addr() == b.Addr() }), nil
}

// DefaultDevices lists the devices of the main table's default routes, by ifindex: by them the host reaches the
// network. PairStack is none.
func DefaultDevices() ([]int, error) {
	routes, err := Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN},
			netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list default routes: %w", err)
	}
	var list []int
	for _, r := range routes {
		if !IsDefault(&r) {
			continue
		}
		if r.LinkIndex != 0 {
			list = append(list, r.LinkIndex)
		}
		for _, hop := range r.MultiPath {
			list = append(list, hop.LinkIndex)
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	return slices.DeleteFunc(list, func(ifindex int) bool {
		link, err := netlink.LinkByIndex(ifindex)
		return err != nil || link.Attrs().Name == PairStack || link.Attrs().Flags&unix.IFF_LOOPBACK != 0
	}), nil
}

// IsDefault says whether a route is for everywhere and leads somewhere.
func IsDefault(r *netlink.Route) bool {
	p := prefixOf(r.Dst)
	return (r.Dst == nil || p.Bits() == 0) && r.Type == unix.RTN_UNICAST
}
