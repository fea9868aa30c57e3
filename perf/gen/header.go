// SPDX-License-Identifier: Apache-2.0

package gen

import (
	"encoding/binary"
	"math"

	"github.com/viaduct-net/viaduct/perf/bpf"
)

const (
	ethernetSize = 14
	ipv4Size     = 20
	ipv6Size     = 40
	udpSize      = 8
	tcpSize      = 20
	headerSize4  = ethernetSize + ipv4Size + udpSize
	headerSize6  = ethernetSize + ipv6Size + udpSize

	protocolTCP = 6
	protocolUDP = 17
	hopLimit    = 64
)

// program is the configuration as the program reads it: a header template and the sums over what does not change.
func (c *Config) program() *bpf.GenGenConfig {
	p := &bpf.GenGenConfig{
		Prefixes: uint32(c.Prefixes),
		Flows:    uint32(c.Flows),
		Step:     c.step(),
		Ifindex:  uint32(c.Interface),
	}
	if c.Timed {
		p.Timed = 1
	}
	if c.Rate > 0 {
		p.IntervalNs = max(1, uint64(float64(len(c.CPUs))*1e9/c.Rate))
	}
	copy(p.Header[0:6], c.DstMAC)
	copy(p.Header[6:12], c.SrcMAC)
	switch {
	case c.Request != 0:
		c.fillRequest(p)
	case c.Src.Is6():
		c.fill6(p)
	default:
		c.fill4(p)
	}
	return p
}

// step is how far the next flow is, such that each comes once before one comes again: where Scattered, the golden
// section of all, whose multiples lie evenly.
func (c *Config) step() uint32 {
	if !c.Scattered || c.Flows < 3 {
		return 1
	}
	step := int(float64(c.Flows) / math.Phi)
	for gcd(step, c.Flows) != 1 {
		step--
	}
	return uint32(step)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// fillRequest is a SYN without options (RFC 9293 section 3.1). What is behind it in a frame of 64 bytes is padding.
func (c *Config) fillRequest(p *bpf.GenGenConfig) {
	const dataOffset, syn, window = tcpSize / 4 << 4, 2, 64240
	binary.BigEndian.PutUint16(p.Header[12:], 0x0800)
	ip, tcp := p.Header[ethernetSize:][:ipv4Size], p.Header[ethernetSize+ipv4Size:][:tcpSize]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], ipv4Size+tcpSize)
	ip[8], ip[9] = hopLimit, protocolTCP
	src := c.Sources.Masked().Addr().As4()
	copy(ip[12:], src[:])
	binary.BigEndian.PutUint16(tcp[2:], c.Request)
	tcp[12], tcp[13] = dataOffset, syn
	binary.BigEndian.PutUint16(tcp[14:], window)
	p.IpSum = sum(ip)
	p.UdpSum = sum(src[:]) + sum([]byte{0, protocolTCP, 0, tcpSize}) + sum(tcp)

	dst := c.Prefix.Addr().As4()
	p.Destination = binary.BigEndian.Uint32(dst[:])
	p.RandomSources = uint32(math.MaxUint32 >> c.Sources.Bits())
}

func (c *Config) fill4(p *bpf.GenGenConfig) {
	binary.BigEndian.PutUint16(p.Header[12:], 0x0800)
	ip, udp := p.Header[ethernetSize:][:ipv4Size], p.Header[ethernetSize+ipv4Size:][:udpSize]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(c.Size-ethernetSize))
	ip[8], ip[9] = hopLimit, protocolUDP
	src := c.Src.As4()
	copy(ip[12:], src[:])
	c.fillUDP(p, udp, src[:])
	p.IpSum = sum(ip)

	dst := c.Prefix.Masked().Addr().As4()
	p.Destination = binary.BigEndian.Uint32(dst[:])
	p.PrefixStride = 1 << (32 - c.Prefix.Bits())
	if c.Prefix.Bits() < 32 {
		p.Destination |= 1
	}
}

func (c *Config) fill6(p *bpf.GenGenConfig) {
	binary.BigEndian.PutUint16(p.Header[12:], 0x86dd)
	ip, udp := p.Header[ethernetSize:][:ipv6Size], p.Header[ethernetSize+ipv6Size:][:udpSize]
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(c.Size-ethernetSize-ipv6Size))
	ip[6], ip[7] = protocolUDP, hopLimit
	src, dst := c.Src.As16(), c.Prefix.Masked().Addr().As16()
	p.Destination = binary.BigEndian.Uint32(dst[4:])
	p.PrefixStride = 1 << (64 - c.Prefix.Bits())
	p.Ipv6 = 1
	dst[15] |= 1
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	clear(ip[28:32]) // the program's: bits 32 to 63
	c.fillUDP(p, udp, ip[8:40])
}

// fillUDP writes the length and sums the pseudo-header (RFC 768, RFC 8200 section 8.1) without what the program adds.
func (c *Config) fillUDP(p *bpf.GenGenConfig, udp, addresses []byte) {
	length := uint16(c.Size - headerSize4 + udpSize)
	if c.Src.Is6() {
		length = uint16(c.Size - headerSize6 + udpSize)
	}
	binary.BigEndian.PutUint16(udp[4:], length)
	var pseudo [4]byte
	pseudo[1] = protocolUDP
	binary.BigEndian.PutUint16(pseudo[2:], length)
	p.UdpSum = sum(addresses) + sum(pseudo[:]) + sum(udp)
}

// sum adds 16-bit words in the order of this machine, as the program does: the one's complement sum is the same in
// either order, but for its bytes' order (RFC 1071, section 2 B).
func sum(b []byte) uint32 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.NativeEndian.Uint16(b[i:]))
	}
	return s
}
