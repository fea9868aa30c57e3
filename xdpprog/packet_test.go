// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"encoding/binary"
	"net/netip"
)

var (
	ours4    = netip.MustParseAddr("10.9.0.9")
	ours6    = netip.MustParseAddr("fd00:9::9")
	inOurs4  = netip.MustParseAddr("10.77.3.4")
	inOurs6  = netip.MustParseAddr("fd00:77::1234")
	kernels4 = netip.MustParseAddr("10.9.0.1")
	kernels6 = netip.MustParseAddr("fd00:9::1")
	peer4    = netip.MustParseAddr("10.9.0.2")
	peer6    = netip.MustParseAddr("fd00:9::2")
	group6   = netip.MustParseAddr("ff02::1:ff00:9")

	ourPrefixes = []netip.Prefix{
		netip.PrefixFrom(ours4, 32), netip.PrefixFrom(ours6, 128),
		netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("fd00:77::/32"),
	}
)

// join puts a packet together.
func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func ether(proto uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, proto)
}

func tag(proto uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0x20, 100}, proto) }

func ip4(to netip.Addr, payload []byte) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	return join(h, peer4.AsSlice(), to.AsSlice(), payload)
}

func ip6(to netip.Addr, next, hops byte, payload []byte) []byte {
	h := []byte{0x60, 0, 0, 0, 0, 0, next, hops}
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	return join(h, peer6.AsSlice(), to.AsSlice(), payload)
}

func arp(operation byte, target netip.Addr) []byte {
	return join([]byte{0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 2}, peer4.AsSlice(), make([]byte, 6),
		target.AsSlice())
}

func ndMessage(kind byte, target netip.Addr) []byte {
	return join([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice(), []byte{1, 1, 2, 0, 0, 0, 0, 2})
}

// with returns a copy of b with one byte set.
func with(b []byte, at int, value byte) []byte {
	c := append([]byte(nil), b...)
	c[at] = value
	return c
}

// reference is from_wire_shared.c written naively: the reason for a frame of at least 14 bytes.
func reference(frame []byte) Reason {
	proto, rest := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	for range 2 {
		if proto != 0x8100 && proto != 0x88a8 {
			break
		}
		if len(rest) < 4 {
			return PassedTruncated
		}
		proto, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	switch proto {
	case 0x8100, 0x88a8:
		return PassedTooManyTags
	case 0x0800:
		return referenceIPv4(rest)
	case 0x86dd:
		return referenceIPv6(rest)
	case 0x0806:
		return referenceARP(rest)
	}
	return PassedNotOurs
}

func referenceOurs(address []byte) Reason {
	a, _ := netip.AddrFromSlice(address)
	for _, p := range ourPrefixes {
		if p.Contains(a) {
			return ToUserspace
		}
	}
	return PassedNotOurs
}

func referenceARP(b []byte) Reason {
	if len(b) < 28 {
		return PassedTruncated
	}
	if string(b[:6]) != "\x00\x01\x08\x00\x06\x04" {
		return PassedMalformed
	}
	return referenceOurs(b[24:28])
}

func referenceIPv4(b []byte) Reason {
	if len(b) < 20 {
		return PassedTruncated
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if b[0]>>4 != 4 || header < 20 || total < header {
		return PassedMalformed
	}
	if total > len(b) {
		return PassedTruncated
	}
	return referenceOurs(b[16:20])
}

func referenceIPv6(b []byte) Reason {
	if len(b) < 40 {
		return PassedTruncated
	}
	payload := int(binary.BigEndian.Uint16(b[4:]))
	if b[0]>>4 != 6 {
		return PassedMalformed
	}
	if 40+payload > len(b) {
		return PassedTruncated
	}
	if referenceOurs(b[24:40]) == ToUserspace {
		return ToUserspace
	}
	nd := b[40:]
	if b[6] != 58 || len(nd) < 24 || (nd[0] != 135 && nd[0] != 136) {
		return PassedNotOurs
	}
	if nd[1] != 0 || b[7] != 255 || payload < 24 {
		return PassedMalformed
	}
	return referenceOurs(nd[8:24])
}
