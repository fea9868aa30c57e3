// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

func TestSumAgainstSlow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 200 {
		b := make([]byte, n)
		for range 20 {
			for i := range b {
				b[i] = byte(r.Uint32()) | byte(r.Uint32()&7/7*0xff) // many 0xff: carries
			}
			if got, want := ^Fold(Sum(b, 0)), slowChecksum(b); got != want {
				t.Fatalf("%d bytes: %x, want %x", n, got, want)
			}
			if got, want := ^Fold(Sum(b, 0x1_fffe_0003)), slowChecksum(cat(be16(1, 0xfffe, 3), b)); got != want {
				t.Fatalf("%d bytes on top of a sum: %x, want %x", n, got, want)
			}
		}
	}
	if ones := bytes.Repeat([]byte{0xff}, 1<<16); Fold(Sum(ones, 0)) != 0xffff {
		t.Error("64 KiB of ones")
	}
}

func TestUpdateChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	edges := []uint32{0, 1, 0xffff, 0x10000, 0xffff0000, 0xffffffff}
	for range 100_000 {
		b := binary.BigEndian.AppendUint64(nil, r.Uint64())
		b[0] |= 1 // a message of zeros has two representations of its sum
		field, to := slowChecksum(b), r.Uint32()
		if r.IntN(4) == 0 {
			to = edges[r.IntN(len(edges))]
		}
		c := bytes.Clone(b)
		binary.BigEndian.PutUint32(c[4:], to)
		if got := UpdateChecksum32(field, binary.BigEndian.Uint32(b[4:]), to); got != slowChecksum(c) {
			t.Fatalf("32 bits: %x -> %x: %x, want %x", b, c, got, slowChecksum(c))
		}
		c = bytes.Clone(b)
		binary.BigEndian.PutUint16(c[6:], uint16(to))
		if got := UpdateChecksum16(field, binary.BigEndian.Uint16(b[6:]), uint16(to)); got != slowChecksum(c) {
			t.Fatalf("16 bits: %x -> %x: %x, want %x", b, c, got, slowChecksum(c))
		}
	}
}

func TestVerifySCTP(t *testing.T) {
	b := cat(be16(1, 2, 0, 7), make([]byte, 4), filled(37))
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	whole := eth4(ip4(ProtoSCTP, 0, nil, b))
	p := framed(whole[:len(whole)-20])
	p.Tail = 20
	if r := p.Parse(); r != verdict.None {
		t.Fatal(r)
	}
	tail := [][]byte{whole[len(whole)-20 : len(whole)-7], whole[len(whole)-7:]}
	if !p.VerifyTransport(tail) {
		t.Error("right checksum refused")
	}
	p.Frame[p.L4+12] ^= 1
	if p.VerifyTransport(tail) {
		t.Error("wrong checksum taken")
	}
}

func TestVerifyWithoutChecksum(t *testing.T) {
	if !parsed(t, eth4(ip4(ProtoUDP, 0, nil, set16(udp(false, 3), 6, 0)))).VerifyTransport(nil) {
		t.Error("ipv4 UDP without checksum refused")
	}
	if parsed(t, eth6(ip6(ProtoUDP, set16(udp(true, 3), 6, 0)))).VerifyTransport(nil) {
		t.Error("ipv6 UDP without checksum taken")
	}
}

func TestDecrementTTL(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for ttl := 2; ttl < 256; ttl++ {
			b := eth(v6, ip(v6, ProtoUDP, udp(v6, ttl)))
			at := 22
			if v6 {
				at = 21
			}
			b[at] = byte(ttl)
			if !v6 {
				seal4(b[14:])
			}
			p := parsed(t, b)
			p.DecrementTTL()
			if r := p.Parse(); r != verdict.None || int(p.TTL) != ttl-1 {
				t.Fatalf("ipv6 %v: ttl %d became %d, %v", v6, ttl, p.TTL, r)
			}
			checkWire(t, p)
		}
	}
}

func TestSetEthernet(t *testing.T) {
	tags := []VLANs{{}, {Outer: 5}, {Outer: 6, Inner: 7}}
	headers := [][]uint16{{0x0800}, {0x8100, 5, 0x0800}, {0x88a8, 6, 0x8100, 7, 0x0800}}
	inner := ip4(ProtoUDP, 0, nil, udp(false, 10))
	for from := range tags {
		for to := range tags {
			p := parsed(t, ethernet(headers[from], inner))
			l3 := p.L3
			if !p.SetEthernet(macA, macB, tags[to]) {
				t.Fatal("no room in", headroom)
			}
			want := cat(macA[:], macB[:], be16(headers[to]...), inner)
			if !bytes.Equal(p.Data(), want) || p.L3 != l3 || p.VLANs != tags[to] || p.DstMAC() != macA || p.SrcMAC() != macB {
				t.Errorf("%v to %v: % x\nwant % x", tags[from], tags[to], p.Data(), want)
			}
		}
	}
	p := &Packet{Frame: eth4(inner), End: 14 + len(inner)}
	p.Parse()
	before := bytes.Clone(p.Frame)
	if p.SetEthernet(macA, macB, VLANs{Outer: 1}) || !bytes.Equal(p.Frame, before) || p.Start != 0 {
		t.Error("wrote a tag without headroom")
	}
}

func FuzzRewrite(f *testing.F) {
	for _, row := range parseRows {
		f.Add(row.frame, uint8(3), uint16(1400))
	}
	f.Fuzz(func(t *testing.T, b []byte, kind uint8, parameter uint16) {
		p := framed(b)
		if p.Parse() != verdict.None || p.L3Len == 0 {
			return
		}
		received := bytes.Clone(p.Frame[p.L3 : p.L3+p.L3Len])
		sound := p.VerifyTransport(nil) && p.Flags&PartialChecksum == 0

		if q := framed(b); q.Parse() == verdict.None && q.TTL > 1 {
			q.DecrementTTL()
			if r := q.Parse(); r != verdict.None || q.TTL != p.TTL-1 {
				t.Fatalf("after the ttl: %v", r)
			}
		}
		if q := framed(b); q.Parse() == verdict.None && q.BuildEchoReply() {
			again := *q
			if r := again.Parse(); r != verdict.None || !same(q, &again) {
				t.Fatalf("echo reply: %v\n%+v\n%+v", r, fields(q), fields(&again))
			}
			if q.Src != p.Dst || q.Dst != p.Src || q.TTL != 64 || q.VerifyTransport(nil) != p.VerifyTransport(nil) {
				t.Fatalf("echo reply %+v to %+v", fields(q), fields(p))
			}
		}
		_, src := ends(p.Flags&IPv6 != 0)
		checkError(t, p, ErrorKind(kind%uint8(numErrorKinds)), src, uint32(parameter), received)
		if q := framed(b); sound && q.Parse() == verdict.None && (q.Proto == ProtoTCP || q.Proto == ProtoUDP) &&
			q.L4 != 0 && q.Flags&Fragment == 0 && q.checksumField() != 0 && q.udpWhole() {
			checkWire(t, q)
		}
	})
}

func (p *Packet) checksumField() uint16 {
	return binary.BigEndian.Uint16(p.Frame[p.L4+p.checksumOffset():])
}

// udpWhole tells whether the UDP length, where there is one, is that of the IP payload.
func (p *Packet) udpWhole() bool {
	return p.Proto != ProtoUDP || int(binary.BigEndian.Uint16(p.Frame[p.L4+4:])) == p.l4Len()
}

func TestRewriteDoesNotAllocate(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		b := eth(v6, ip(v6, ProtoICMPv6, echo(v6, 30)))
		src := ipB6
		if !v6 {
			b, src = eth4(ip4(ProtoICMP, 0, nil, echo(false, 30))), ipB4
		}
		fresh := framed(b)
		p := framed(b)
		n := testing.AllocsPerRun(100, func() {
			copy(p.Frame, fresh.Frame)
			p.Start, p.End = fresh.Start, fresh.End
			p.Parse()
			p.DecrementTTL()
			p.VerifyTransport(nil)
			p.SetEthernet(macA, macB, VLANs{1, 2})
			if !p.BuildEchoReply() || !p.BuildICMPError(TimeExceeded, src, 0) {
				t.Fatal("not built")
			}
		})
		if n != 0 {
			t.Errorf("ipv6 %v: %v allocations", v6, n)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 64, 1500, 65535} {
		data := filled(n)
		b.Run(map[int]string{20: "20", 64: "64", 1500: "1500", 65535: "65535"}[n], func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				Sum(data, 0)
			}
		})
	}
}
