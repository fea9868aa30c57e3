// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
)

// checker collects the first complaint about an object, with the path of the field that it is about. Its methods
// return a value of use in any case, so that building goes on without branches.
type checker struct {
	path   []string
	field  string
	reason string
	served bool            // an API server said so, whose definitions may be newer than ours
	newer  map[string]bool // paths of rules in which it says what is not known here

	complaints []Complaint // what does not count, while the object does
}

// within runs f with the field name added to the path.
func (c *checker) within(field string, f func()) {
	c.path = append(c.path, field)
	f()
	c.path = c.path[:len(c.path)-1]
}

// check complains about the field unless ok.
func (c *checker) check(ok bool, field, format string, args ...any) {
	if ok || c.reason != "" {
		return
	}
	parts := slices.Clone(c.path)
	if field != "" {
		parts = append(parts, field)
	}
	c.field = strings.Join(parts, ".")
	c.reason = fmt.Sprintf(format, args...)
}

func (c *checker) between(field string, v, low, high int64) int64 {
	c.check(low <= v && v <= high, field, "%d is not between %d and %d", v, low, high)
	return v
}

// mtu accepts 0 for "found elsewhere".
func (c *checker) mtu(field string, v int64) uint32 {
	if v != 0 {
		c.between(field, v, minMTU, maxMTU)
	}
	return uint32(v)
}

// oneOf returns the value, or the first choice when it is empty.
func (c *checker) oneOf(field, value string, choices ...string) string {
	if value == "" {
		return choices[0]
	}
	c.check(slices.Contains(choices, value), field, "%q is not one of %s", value, strings.Join(choices, ", "))
	return value
}

func (c *checker) name(field, value string) string {
	c.check(value != "", field, "must be said")
	c.check(len(value) <= maxName, field, "longer than %d bytes", maxName)
	c.check(printable(value), field, "%q has spaces or unprintable characters", value)
	return value
}

// device checks what the kernel's dev_valid_name (net/core/dev.c) checks.
func (c *checker) device(field, value string) string {
	c.check(value != "", field, "must be said")
	valid := len(value) < 16 && value != "." && value != ".." && !strings.ContainsAny(value, "/:") && printable(value)
	c.check(valid, field, "%q is not a device name", value)
	return value
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' })
}

func (c *checker) prefix(field, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	c.check(err == nil, field, "%q is not a prefix (10.0.0.0/8, fd00::/8)", text)
	c.check(err != nil || !p.Addr().Is4In6(), field, "%q is an IPv4-mapped prefix", text)
	c.check(p == p.Masked(), field, "%q has bits behind its length; meant is %s", text, p.Masked())
	return p
}

// addresses reads a prefix, or an address, which is a prefix of itself alone.
func (c *checker) addresses(field, text string) netip.Prefix {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return c.prefix(field, text)
	}
	c.check(!a.Is4In6() && a.Zone() == "", field, "%q is no plain address", text)
	return netip.PrefixFrom(a, a.BitLen())
}

// podCIDR reads a prefix that pods have their addresses of, and that other nodes have routes to.
func (c *checker) podCIDR(field, text string) netip.Prefix {
	p := c.prefix(field, text)
	c.check(!p.Addr().IsMulticast() && !p.Addr().IsLoopback() && !linkLocal(p), field, "%s is not forwarded", p)
	return p
}

// podCIDRs reads a node's, no two of which overlap.
func (c *checker) podCIDRs(field string, texts []string) (list []netip.Prefix) {
	for i, text := range texts {
		p := c.podCIDR(index(field, i), text)
		for _, other := range list {
			c.check(!p.IsValid() || !p.Overlaps(other), index(field, i), "%s overlaps %s, another of the node's", p, other)
		}
		list = append(list, p)
	}
	return list
}

// interfaceAddress reads an address with the length of its subnet.
func (c *checker) interfaceAddress(field, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	c.check(err == nil, field, "%q is not an address with its subnet's length (10.1.0.1/24)", text)
	c.checkUnicast(field, text, p.Addr())
	c.check(err != nil || p.Bits() > 0, field, "%q: a subnet has at least one bit", text)
	if hasBroadcast(p) {
		c.check(p.Addr() != p.Masked().Addr(), field, "%s is the subnet's own address", p.Addr())
		c.check(p.Addr() != netipx.PrefixLastIP(p), field, "%s is the subnet's broadcast address", p.Addr())
	}
	return p
}

// hasBroadcast says whether the first and last address of the subnet are no station's; RFC 3021: of a /31 both are.
func hasBroadcast(p netip.Prefix) bool { return p.IsValid() && p.Addr().Is4() && p.Bits() < 31 }

func (c *checker) unicast(field, text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	c.check(err == nil, field, "%q is not an address", text)
	c.checkUnicast(field, text, a)
	return a
}

func (c *checker) checkUnicast(field, text string, a netip.Addr) {
	bad := a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4In6() || a.Zone() != "" ||
		a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) // "this network" (RFC 1122), class E and broadcast (RFC 1112)
	c.check(!bad, field, "%q is not a unicast address", text)
}

func (c *checker) mac(field, text string) net.HardwareAddr {
	m, err := net.ParseMAC(text)
	c.check(err == nil && len(m) == 6, field, "%q is not a MAC address", text)
	valid := len(m) == 6 && m[0]&1 == 0 && !slices.Equal(m, make(net.HardwareAddr, 6))
	c.check(valid, field, "%q is not a unicast MAC address", text)
	return m
}

func index(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }
