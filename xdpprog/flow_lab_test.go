// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"testing"
	"unsafe"
)

// The layout of bpf/shared.h, as userspace writes it.

type testWay struct {
	packets, bytes uint64
	used           uint32
	ack            [4]byte
	from, to       uint32
	mac            [6]byte
	farDstPort     [2]byte
	mtu            uint16
	_              uint16
	farDst         [16]byte
	_              uint32
}

type testRecord struct {
	nearSrc, nearDst, farSrc             [16]byte
	nearSrcPort, nearDstPort, farSrcPort [2]byte
	proto, flags                         uint8
	generation, version                  uint32
	way                                  [2]testWay
}

type testEgress struct {
	ifindex, port uint32
	mac           [6]byte
	kind, tags    uint8
	outer, inner  [2][2]byte
	_             uint64
}

type testControl struct {
	seed                                                [2]uint64
	heart                                               uint64
	layout, mask, records, generation, carry, onAbsence uint32
	hung                                                uint64
	hostPort, _                                         uint32
}

const (
	testTranslated = 1
	testPair       = 2

	egressPod  = 1
	egressHost = 2
	egressWire = 3
)

func controlOf(f *FlowTable) *testControl {
	return (*testControl)(unsafe.Pointer(&f.memory.Control[0]))
}

func recordOf(f *FlowTable, n int) *testRecord {
	return (*testRecord)(unsafe.Pointer(&f.memory.Records[192*n]))
}

func egressOf(f *FlowTable, n int) *testEgress {
	return (*testEgress)(unsafe.Pointer(&f.memory.Egresses[32*n]))
}

// testFlow is a flow of the table: what each end sends and gets. Near is what the opener sends, far what the other end
// gets.
type testFlow struct {
	near, far [2]netip.AddrPort // source, destination
	proto     uint8
	flags     uint8
	in        [2]uint32 // PortIDs by which the directions come
	to        [2]uint32 // numbers of egresses
	mac       [2][6]byte
	mtu       uint16
}

// put writes the flow as record n, and slots for both directions.
func (x *testFlow) put(t testing.TB, f *FlowTable, n int) *testRecord {
	t.Helper()
	r := recordOf(f, n)
	*r = testRecord{
		nearSrc: x.near[0].Addr().As16(), nearDst: x.near[1].Addr().As16(), farSrc: x.far[0].Addr().As16(),
		nearSrcPort: be(x.near[0].Port()), nearDstPort: be(x.near[1].Port()), farSrcPort: be(x.far[0].Port()),
		proto: x.proto, flags: x.flags, version: r.version + 2,
	}
	for d := range r.way {
		r.way[d] = testWay{from: x.in[d], to: x.to[d], mac: x.mac[d], mtu: x.mtu, farDst: x.far[1].Addr().As16(),
			farDstPort: be(x.far[1].Port())}
	}
	place(t, f, n, 0, x.near[0], x.near[1], x.proto, x.in[0])
	place(t, f, n, 1, x.far[1], x.far[0], x.proto, x.in[1])
	return r
}

func be(v uint16) (b [2]byte) {
	binary.BigEndian.PutUint16(b[:], v)
	return b
}

// place writes a slot into a free place of either bucket.
func place(t testing.TB, f *FlowTable, n, way int, src, dst netip.AddrPort, proto uint8, port uint32) {
	t.Helper()
	c := controlOf(f)
	hash := testHash(c, src, dst, proto, port)
	first := uint32(hash) & c.mask
	for _, b := range []uint32{first, (first ^ (uint32(hash>>33) | 1)) & c.mask} {
		for i := range 8 {
			if at := f.memory.Buckets[64*int(b)+8*i:]; binary.NativeEndian.Uint64(at) == 0 {
				binary.NativeEndian.PutUint64(at, hash>>33<<33|uint64(way)<<32|uint64(n+1))
				return
			}
		}
	}
	t.Fatal("both buckets are full")
}

// testHash is key_hash of bpf/flow_table.h.
func testHash(c *testControl, src, dst netip.AddrPort, proto uint8, port uint32) uint64 {
	h := c.seed[0]
	mix := func(word uint64) {
		h = (h ^ word) * 0x6a09e667f3bcc909
		h ^= h >> 29
	}
	for _, a := range []netip.Addr{src.Addr(), dst.Addr()} {
		b := a.As16()
		mix(binary.LittleEndian.Uint64(b[:]))
		mix(binary.LittleEndian.Uint64(b[8:]))
	}
	mix(uint64(bits.ReverseBytes16(src.Port())) | uint64(bits.ReverseBytes16(dst.Port()))<<16 | uint64(port)<<32 |
		uint64(proto)<<56)
	h = (h ^ c.seed[1]) * 0xbb67ae8584caa73b
	return h ^ h>>32
}

// sum16 is RFC 1071's, one word at a time.
func sum16(parts ...[]byte) uint16 {
	sum := uint32(0)
	for _, b := range parts {
		for i := range b {
			sum += uint32(b[i]) << (8 * (1 - i&1))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

const (
	tcpProto = 6
	udpProto = 17
)

// segment is a frame of TCP or UDP to the dataplane with right checksums. For TCP it has an acknowledgement.
func segment(src, dst netip.AddrPort, proto uint8, payload []byte) []byte {
	ports := join(portBytes(src), portBytes(dst))
	var l4 []byte
	if proto == tcpProto {
		l4 = join(ports, []byte{0, 0, 0, 1, 9, 8, 7, 6, 0x50, 0x18, 1, 0, 0, 0, 0, 0}, payload)
	} else {
		l4 = join(ports, portLen(8+len(payload)), []byte{0, 0}, payload)
	}
	frame := join(routerMAC(), stationMAC[:], []byte{0x86, 0xdd}, make([]byte, 40), l4)
	h := frame[14:]
	if src.Addr().Is4() {
		frame = join(routerMAC(), stationMAC[:], []byte{8, 0}, make([]byte, 20), l4)
		h = frame[14:]
		copy(h, []byte{0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, proto})
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
		copy(h[12:], src.Addr().AsSlice())
		copy(h[16:], dst.Addr().AsSlice())
	} else {
		h[0], h[6], h[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
		copy(h[8:], src.Addr().AsSlice())
		copy(h[24:], dst.Addr().AsSlice())
	}
	complete(frame)
	return frame
}

func portBytes(a netip.AddrPort) []byte { b := be(a.Port()); return b[:] }

func portLen(n int) []byte { b := be(uint16(n)); return b[:] }

func routerMAC() []byte { return []byte{0x02, 0x76, 0x64, 0, 0, 0} }

// headerOf says how long the IP header is, and where its addresses are.
func headerOf(frame []byte) (size int, addresses []byte) {
	if frame[12] == 8 {
		return 20, frame[14+12 : 14+20]
	}
	return 40, frame[14+8 : 14+40]
}

func protoOf(frame []byte) byte {
	if frame[12] == 8 {
		return frame[14+9]
	}
	return frame[14+6]
}

// complete computes the checksums of an untagged frame anew.
func complete(frame []byte) {
	size, addresses := headerOf(frame)
	h, l4 := frame[14:14+size], frame[14+size:]
	if size == 20 {
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], sum16(h))
	}
	at := 16
	if protoOf(frame) == udpProto {
		at = 6
	}
	l4[at], l4[at+1] = 0, 0
	check := sum16(addresses, []byte{0, protoOf(frame)}, portLen(len(l4)), l4)
	if check == 0 && at == 6 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], check)
}

// leaving is what becomes of a frame that is carried: rewritten naively, and all checksums computed anew, but for UDP
// without one.
func leaving(frame []byte, src, dst netip.AddrPort, to, from [6]byte) []byte {
	b := join(to[:], from[:], frame[12:])
	size, addresses := headerOf(b)
	copy(addresses, join(src.Addr().AsSlice(), dst.Addr().AsSlice()))
	copy(b[14+size:], join(portBytes(src), portBytes(dst)))
	if size == 20 {
		b[14+8]--
	} else {
		b[14+7]--
	}
	without := protoOf(b) == udpProto && b[14+size+6]|b[14+size+7] == 0
	complete(b)
	if without {
		b[14+size+6], b[14+size+7] = 0, 0
	}
	return b
}
