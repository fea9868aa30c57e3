// SPDX-License-Identifier: Apache-2.0

// Package offloadtest carries packets as hooks do, by the bytes of a kernel's flow table: for tests that have no
// kernel.
package offloadtest

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Hook is xdpprog/bpf/carry.h in Go. Several may read one memory at once, while its table is written.
type Hook struct {
	offload.Memory
	Kernel func() int64 // CLOCK_MONOTONIC
}

// Packet is what a hook reads of a packet that has nothing unusual.
type Packet struct {
	Ends  packet.Ends
	Proto packet.IPProto
	In    packet.PortID
	Len   int // of the IP packet, bytes

	// Of TCP.
	Flags    uint8
	Seq, Ack uint32
	Payload  int // bytes
	Scaled   bool
	Scale    uint8 // of windows, of a SYN-ACK, if it is Scaled
}

// Carried is what becomes of it.
type Carried struct {
	Ends packet.Ends
	MAC  packet.MAC
	Out  packet.PortID
	Pair bool
}

const (
	fin, syn, rst, ack, urg = 1, 2, 4, 16, 32

	finSynRst = fin | syn | rst
	whole     = 64  // flags of records
	young     = 128 // see may_go

	bucketSize, recordSize, waySize, egressSize = 64, 192, 64, 32
	slots                                       = bucketSize / 8
)

// Carry says what becomes of a packet; false: it goes to userspace.
func (h *Hook) Carry(p Packet) (Carried, bool) {
	if word(h.Control, 40) == 0 {
		return Carried{}, false
	}
	if r, d, ok := h.find(p.Ends, p.Proto, p.In); ok {
		return h.repeat(r, d, p.Ends, &p, p.Proto == packet.ProtoTCP)
	}
	if p.Proto != packet.ProtoTCP {
		return Carried{}, false
	}
	e := p.Ends
	e.SrcPort, e.DstPort = 0, 0
	r, d, ok := h.find(e, p.Proto, p.In)
	if !ok {
		return Carried{}, false
	}
	c, ok := h.repeat(r, d, e, &p, false)
	c.Pair = ok
	if ok {
		c.Ends.SrcPort, c.Ends.DstPort = p.Ends.SrcPort, p.Ends.DstPort
	}
	return c, ok
}

func word(b []byte, at int) uint32 { return atomic.LoadUint32((*uint32)(unsafe.Pointer(&b[at]))) }

// plain is word of what userspace writes between two versions.
//
//go:norace
func plain(b []byte, at int) uint32 { return *(*uint32)(unsafe.Pointer(&b[at])) }

func long(b []byte, at int) *uint64 { return (*uint64)(unsafe.Pointer(&b[at])) }

// key is struct flow_key, but for the port that a packet came by.
type key struct {
	src, dst         [16]byte
	srcPort, dstPort [2]byte
	proto            uint8
}

func keyOf(e packet.Ends, proto packet.IPProto) (k key) {
	k.src, k.dst, k.proto = bytesOf(e.Src), bytesOf(e.Dst), uint8(proto)
	binary.BigEndian.PutUint16(k.srcPort[:], e.SrcPort)
	binary.BigEndian.PutUint16(k.dstPort[:], e.DstPort)
	return k
}

func bytesOf(a packet.Addr) (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return b
}

//go:norace
func addrOf(b []byte) packet.Addr {
	return packet.Addr{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}
}

// hash is key_hash.
func (h *Hook) hash(k *key, in packet.PortID) uint64 {
	le := binary.LittleEndian
	x := *long(h.Control, 0)
	ports := uint64(le.Uint16(k.srcPort[:])) | uint64(le.Uint16(k.dstPort[:]))<<16
	for _, w := range []uint64{
		le.Uint64(k.src[:]), le.Uint64(k.src[8:]), le.Uint64(k.dst[:]), le.Uint64(k.dst[8:]),
		ports | uint64(in)<<32 | uint64(k.proto)<<56,
	} {
		x = (x ^ w) * 0x6a09e667f3bcc909
		x ^= x >> 29
	}
	x = (x ^ *long(h.Control, 8)) * 0xbb67ae8584caa73b
	return x ^ x>>32
}

// find is find_flow. The detector of races knows nothing of versions.
//
//go:norace
func (h *Hook) find(e packet.Ends, proto packet.IPProto, in packet.PortID) (record []byte, d uint8, ok bool) {
	k := keyOf(e, proto)
	hash, mask := h.hash(&k, in), word(h.Control, 28)
	first := uint32(hash) & mask
	for _, b := range [2]uint32{first, (first ^ (uint32(hash>>33) | 1)) & mask} {
		for i := range slots {
			s := atomic.LoadUint64(long(h.Buckets, int(b)*bucketSize+8*i))
			n := uint32(s) - 1
			if s == 0 || s>>33 != hash>>33 || n >= uint32(len(h.Records)/recordSize) {
				continue
			}
			r := h.Records[n*recordSize : (n+1)*recordSize]
			if d := uint8(s>>32) & 1; is(r, d, &k, in) {
				return r, d, true
			}
		}
	}
	return nil, 0, false
}

// is says the same as is_of.
//
//go:norace
func is(r []byte, d uint8, k *key, in packet.PortID) bool {
	w := way(r, d)
	if plain(w, 24) != uint32(in) || r[54] != k.proto {
		return false
	}
	if d != 0 {
		return k.srcPort == [2]byte(w[38:40]) && k.dstPort == [2]byte(r[52:54]) && k.src == [16]byte(w[44:60]) &&
			k.dst == [16]byte(r[32:48])
	}
	return k.srcPort == [2]byte(r[48:50]) && k.dstPort == [2]byte(r[50:52]) && k.src == [16]byte(r[:16]) &&
		k.dst == [16]byte(r[16:32])
}

func way(r []byte, d uint8) []byte { return r[waySize*(1+int(d)) : waySize*(2+int(d))] }

// repeat is repeat, with leads and copy.
//
//go:norace
func (h *Hook) repeat(r []byte, d uint8, e packet.Ends, p *Packet, connection bool) (c Carried, ok bool) {
	w, k := way(r, d), keyOf(e, p.Proto)
	version := word(r, 60)
	to, generation := plain(w, 28), plain(r, 56)
	packets, all := long(w, 0), long(w, 8)
	atomic.AddUint64(packets, 1)
	if version&1 != 0 || !is(r, d, &k, p.In) || to == 0 || p.Len > int(binary.LittleEndian.Uint16(w[40:])) ||
		int32(generation-word(h.Control, 36)) < 0 || h.Egresses[to*egressSize+14] == 0 ||
		connection && !mayGo(r, d, p) {
		atomic.AddUint64(packets, ^uint64(0))
		return c, false
	}
	c = Carried{Ends: e, MAC: packet.MAC(w[32:38]), Out: packet.PortID(plain(h.Egresses, int(to*egressSize)+4))}
	if r[55]&1 != 0 {
		c.Ends = other(r, d)
	}
	atomic.AddUint64(all, uint64(p.Len))
	if word(r, 60) != version {
		atomic.AddUint64(all, -uint64(p.Len))
		atomic.AddUint64(packets, ^uint64(0))
		return Carried{}, false
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&w[16])), uint32(h.Kernel()>>24))
	if p.Proto == packet.ProtoTCP {
		atomic.StoreUint32((*uint32)(unsafe.Pointer(&w[20])), bits.ReverseBytes32(p.Ack))
	}
	if connection {
		h.note(r, d, p)
	}
	return c, true
}

func behind(p *Packet) uint32 { return p.Seq + uint32(p.Payload) + 1 }

// mayGo is may_go.
//
//go:norace
func mayGo(r []byte, d uint8, p *Packet) bool {
	w := way(r, d)
	if r[55]&young != 0 && word(way(r, 1), 40)>>16 == 0 {
		return d != 0 && p.Flags&(finSynRst|ack|urg) == syn|ack && p.Payload == 0 &&
			bits.ReverseBytes32(p.Ack) == word(w, 20)
	}
	if r[55]&young != 0 && d == 0 && uint64(p.Ack-bits.ReverseBytes32(word(w, 20))) > *long(way(r, 1), 8) {
		return false
	}
	switch p.Flags & finSynRst {
	case 0:
		return true
	case fin:
		end, was := behind(p), word(w, 60)
		return r[55]&whole != 0 && end != 0 && (was == 0 || was == end)
	}
	return false
}

// note is note_progress, with tell.
//
//go:norace
func (h *Hook) note(r []byte, d uint8, p *Packet) {
	w := way(r, d)
	store := func(b []byte, at int, x uint32) { atomic.StoreUint32((*uint32)(unsafe.Pointer(&b[at])), x) }
	if p.Flags&syn != 0 {
		answered := uint32(0x20)
		if p.Scaled {
			answered |= 0x10 | uint32(p.Scale)
		}
		store(way(r, 0), 20, bits.ReverseBytes32(p.Seq+1))
		store(w, 40, word(w, 40)&0xffff|answered<<16)
	}
	if p.Flags&fin != 0 {
		store(w, 60, behind(p))
	}
	if word(w, 60) != 0 || r[55]&young != 0 {
		n := uintptr(unsafe.Pointer(&r[0])) - uintptr(unsafe.Pointer(&h.Records[0]))
		number := int(n / recordSize)
		atomic.OrUint64(long(h.News, number/64*8), 1<<(number%64))
	}
}

// other are the ends that packets in direction d get.
//
//go:norace
func other(r []byte, d uint8) packet.Ends {
	w, be := way(r, d), binary.BigEndian
	if d != 0 {
		return packet.Ends{
			Src: addrOf(r[16:]), Dst: addrOf(r), SrcPort: be.Uint16(r[50:]), DstPort: be.Uint16(r[48:]),
		}
	}
	return packet.Ends{
		Src: addrOf(r[32:]), Dst: addrOf(w[44:]), SrcPort: be.Uint16(r[52:]), DstPort: be.Uint16(w[38:]),
	}
}
