// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// gateways are the addresses by which the host's stack knows the dataplane, the same that pods have for their router.
var gateways = [2]netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")}

// Pair is the veth pair by which the host's stack is a port of the dataplane.
type Pair struct {
	Stack, Hook Link // PairStack and PairHook
}

// EnsurePair makes the host's pair, or makes the one that is there as it has to be. mtu is in bytes, up to 65535, and
// 65535 for 0. The addresses are the node's own on PairStack, each without a subnet (/32 and /128); others on it are
// removed. What the host sends to the dataplane goes to the MAC gateway, without ARP or ND.
//
// Notes say which addresses the kernel does not take; IPv6 may be off.
func (s *Stack) EnsurePair(mtu int, addresses []netip.Addr, gateway net.HardwareAddr) (Pair, []Note, error) {
	if mtu == 0 {
		mtu = maxMTU
	}
	stack, hook, err := s.ensureVeth(PairStack, PairHook, 1)
	if err != nil {
		return Pair{}, nil, err
	}
	if err := s.mute(hook); err != nil {
		return Pair{}, nil, err
	}
	if err := setReception(slices.ContainsFunc(addresses, netip.Addr.Is6)); err != nil {
		return Pair{}, nil, err
	}
	if err := s.raise(mtu, stack, hook); err != nil {
		return Pair{}, nil, err
	}
	notes, err := s.setAddresses(stack, addresses)
	if err != nil {
		return Pair{}, nil, err
	}
	if err := s.setGateways(stack, gateway); err != nil {
		return Pair{}, nil, err
	}
	return Pair{Stack: describe(stack), Hook: describe(hook)}, notes, nil
}

// setReception says what the stack takes from the dataplane. The dataplane has judged where a packet came from, so the
// reverse path is not asked; where the host asks it on all devices (the stricter of the two holds, Documentation/
// networking/ip-sysctl.rst), this one asks for any route back. Packets from an address of the host's own are
// taken (accept_local), for the dataplane answers there for services; it lets no pod send them. IPv6 asks neither.
// Routers are not looked for, and the device has no link-local address, for the dataplane is its only neighbour.
func setReception(ipv6 bool) error {
	filter := "0"
	if everywhere, err := readSysctl("net/ipv4/conf/all/rp_filter"); err == nil && everywhere != "0" {
		filter = "2"
	}
	device := "net/ipv4/conf/" + PairStack + "/"
	errs := []error{ensureSysctl(device+"rp_filter", filter), ensureSysctl(device+"accept_local", "1")}
	device = "net/ipv6/conf/" + PairStack + "/"
	errs = append(errs, ensureSysctl(device+"addr_gen_mode", "1"), ensureSysctl(device+"accept_ra", "0"))
	if ipv6 {
		errs = append(errs, ensureSysctl(device+"disable_ipv6", "0"))
	}
	return errors.Join(errs...)
}

// setAddresses has the device have these addresses and no others.
func (s *Stack) setAddresses(link netlink.Link, addresses []netip.Addr) ([]Note, error) {
	name := link.Attrs().Name
	there, err := Dump(func() ([]netlink.Addr, error) { return s.links.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	missing := slices.Clone(addresses)
	for _, a := range there {
		p := prefixOf(a.IPNet)
		if i := slices.Index(missing, p.Addr()); i >= 0 && p.IsSingleIP() {
			missing = slices.Delete(missing, i, i+1)
		} else if err := s.links.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return nil, fmt.Errorf("remove address %s from %s: %w", p, name, err)
		}
	}
	var notes []Note
	for _, a := range missing {
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE // nobody else is on this link
		}
		if err := s.links.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			notes = append(notes, Note{"address " + a.String() + " of " + name, familyReason(a, err)})
		}
	}
	return notes, nil
}

// setGateways makes permanent neighbours of the dataplane's addresses.
func (s *Stack) setGateways(link netlink.Link, mac net.HardwareAddr) error {
	for _, a := range gateways {
		if a.Is6() && !speaksIPv6(PairStack) {
			continue
		}
		if err := s.links.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
		}); err != nil {
			return fmt.Errorf("make %s a neighbour on %s: %w", a, link.Attrs().Name, err)
		}
	}
	return nil
}

// familyReason is why the kernel does not take something of the address's family.
func familyReason(a netip.Addr, err error) string {
	if a.Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.EAFNOSUPPORT)) {
		return "IPv6 is off: have it on, or use IPv4 only (" + err.Error() + ")"
	}
	return err.Error()
}

// speaksIPv6 tells whether the kernel speaks IPv6 on the device.
func speaksIPv6(device string) bool {
	disabled, err := readSysctl("net/ipv6/conf/" + device + "/disable_ipv6")
	return err == nil && disabled == "0"
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the zero Prefix for nil.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), bits)
}

// addrOf is the zero Addr for an address that is none.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
