// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// segment makes all segments of p and returns them as whole Ethernet packets.
func segment(t testing.TB, p *Packet, mtu int, tail [][]byte) [][]byte {
	t.Helper()
	s, ok := p.Segments(mtu, tail)
	if !ok {
		t.Fatal("not cut")
	}
	var out [][]byte
	for n := s.Count(); n > 0; n-- {
		if s.Count() != n {
			t.Fatalf("%d segments to come, want %d", s.Count(), n)
		}
		frame := bytes.Repeat([]byte{0xa5}, 40+p.L3-p.Start+mtu) // and not a byte more
		out = append(out, frame[40:s.Next(frame, 40)])
	}
	if s.Count() != 0 || s.left != 0 {
		t.Fatalf("%d bytes left behind %d segments", s.left, len(out))
	}
	return out
}

// superframe is a TCP message with flags, options and a payload of the size given. Its sequence numbers wrap.
func superframe(v6 bool, flags byte, options []byte, payload int) []byte {
	src, dst := ends(v6)
	b := cat(be16(1000, 2000, 0xffff, 0xff00, 7, 9), []byte{byte(5+len(options)/4) << 4, flags}, be16(0x1234, 0, 0),
		options, filled(payload))
	return sealed(b, 16, src, dst, ProtoTCP)
}

// unsealed leaves the sum of the TCP message b to the device.
func unsealed(v6 bool, b []byte) []byte {
	src, dst := ends(v6)
	return set16(b, 16, ^slowChecksum(pseudo(src, dst, ProtoTCP, len(b))))
}

// segmentSlow cuts by taking the packet apart into layers and putting every segment together out of them.
func segmentSlow(t testing.TB, whole []byte, mtu int) (out [][]byte) {
	t.Helper()
	decoded := gopacket.NewPacket(whole, layers.LayerTypeEthernet, gopacket.Default)
	if e := decoded.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	tcp := decoded.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if err := tcp.SetNetworkLayerForChecksum(decoded.NetworkLayer()); err != nil {
		t.Fatal(err)
	}
	var stack []gopacket.SerializableLayer
	link := 0
	for _, l := range decoded.Layers() {
		switch l.LayerType() {
		case gopacket.LayerTypePayload:
			continue
		case layers.LayerTypeEthernet, layers.LayerTypeDot1Q:
			link += len(l.LayerContents())
		}
		stack = append(stack, l.(gopacket.SerializableLayer))
	}
	size := mtu - (len(whole) - link - len(tcp.Payload))
	first := *tcp
	for chunk := range slices.Chunk(tcp.Payload, size) {
		last := len(out) == (len(tcp.Payload)-1)/size
		tcp.Seq = first.Seq + uint32(len(out)*size)
		tcp.FIN, tcp.PSH, tcp.CWR = first.FIN && last, first.PSH && last, first.CWR && len(out) == 0
		buffer := gopacket.NewSerializeBuffer()
		how := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
		if err := gopacket.SerializeLayers(buffer, how, append(stack, gopacket.Payload(chunk))...); err != nil {
			t.Fatal(err)
		}
		out = append(out, buffer.Bytes()[:link+(len(whole)-link-len(tcp.Payload))+len(chunk)]) // without padding
		if ip, ok := decoded.NetworkLayer().(*layers.IPv4); ok {
			ip.Id++
		}
	}
	return out
}

// checkSegments puts the stream together again by the sequence numbers, and compares everything that must not change.
func checkSegments(t testing.TB, whole []byte, segments [][]byte, mtu int) {
	t.Helper()
	w := framed(whole)
	w.Parse()
	head := w.Frame[w.L4:w.End]
	header := int(head[12]>>4) * 4
	stream := make([]byte, 0, len(head)-header)
	for i, b := range segments {
		p := framed(b)
		if r := p.Parse(); r != verdict.None || p.End != headroom+len(b) || p.L3Len > mtu {
			t.Fatalf("segment %d of %d bytes: %v, %d bytes of IP", i, len(b), r, p.L3Len)
		}
		checkWire(t, p)
		h := p.Frame[p.L4:p.End]
		if seq := binary.BigEndian.Uint32(h[4:]) - binary.BigEndian.Uint32(head[4:]); int(seq) != len(stream) {
			t.Fatalf("segment %d: %d bytes on, want %d", i, seq, len(stream))
		}
		want := bytes.Clone(head[:header])
		copy(want[4:], h[4:8])
		copy(want[16:], h[16:18])
		if i > 0 {
			want[13] &^= tcpCWR
		}
		if i < len(segments)-1 {
			want[13] &^= tcpFIN | tcpPSH
			if p.L3Len != mtu {
				t.Fatalf("segment %d has %d bytes", i, p.L3Len)
			}
		}
		front := bytes.Clone(w.Frame[w.Start:w.L4])
		ip, got := front[w.L3-w.Start:], b[w.L3-w.Start:]
		if p.Flags&IPv6 != 0 {
			copy(ip[4:], be16(uint16(p.L3Len-40)))
		} else {
			copy(ip[2:], be16(uint16(p.L3Len), binary.BigEndian.Uint16(ip[4:])+uint16(i)))
			copy(ip[10:], got[10:12])
		}
		if !bytes.Equal(b[:len(front)], front) || !bytes.Equal(h[:header], want) {
			t.Fatalf("segment %d: headers\n% x\n% x, want\n% x\n% x", i, b[:len(front)], h[:header], front, want)
		}
		stream = append(stream, h[header:]...)
	}
	if !bytes.Equal(stream, head[header:]) {
		t.Fatalf("%d bytes of stream, want %d", len(stream), len(head)-header)
	}
}

var timestamps = []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}

// segmentRows are what stands around a TCP message.
var segmentRows = []struct {
	name string
	v6   bool
	wrap func(tcp []byte) []byte
}{
	{"ipv4", false, func(b []byte) []byte { return eth4(ip4(ProtoTCP, 0x4000, nil, b)) }},
	{"ipv4 identification wraps", false, func(b []byte) []byte {
		return eth4(seal4(set16(ip4(ProtoTCP, 0, nil, b), 4, 0xfffe)))
	}},
	{"ipv4 options, VLAN", false, func(b []byte) []byte {
		return ethernet([]uint16{0x8100, 0x2005, 0x0800}, ip4(ProtoTCP, 0, []byte{148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0}, b))
	}},
	{"ipv6", true, func(b []byte) []byte { return eth6(ip6(ProtoTCP, b)) }},
	{"ipv6 extension, QinQ", true, func(b []byte) []byte {
		return ethernet([]uint16{0x88a8, 6, 0x8100, 7, 0x86dd}, ip6(protoDestOptions, ext(ProtoTCP, 1, 4), b))
	}},
}

func TestSegments(t *testing.T) {
	const overhead = 40 + 8 + 20 + 12
	for _, row := range segmentRows {
		for _, options := range [][]byte{nil, timestamps} {
			for _, size := range []int{1, 2, 536, 1447, 1448, 1449, 2896, 9001, 0xffff - overhead} {
				for _, mtu := range []int{overhead + 1, 576, 1500, 1501, 9000, 0xffff} {
					if size/(mtu-overhead+1) > 100 {
						continue
					}
					for _, flags := range []byte{0x10, 0x10 | tcpFIN | tcpPSH | tcpCWR | 0x40} {
						b := superframe(row.v6, flags, options, size)
						whole := row.wrap(b)
						want := segmentSlow(t, whole, mtu)
						checkSame(t, row.name, segment(t, parsed(t, whole), mtu, nil), want)
						partial := parsed(t, row.wrap(unsealed(row.v6, b)))
						if partial.Flags&PartialChecksum == 0 {
							t.Fatal("not partial")
						}
						got := segment(t, partial, mtu, nil)
						checkSame(t, row.name+", partial", got, want)
						checkSegments(t, whole, got, mtu)
					}
				}
			}
		}
	}
}

func checkSame(t *testing.T, name string, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d segments, want %d", name, len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			n := min(len(got[i]), len(want[i]), 110)
			t.Fatalf("%s: segment %d\n% x of %d bytes, want\n% x of %d", name, i, got[i][:n], len(got[i]), want[i][:n],
				len(want[i]))
		}
	}
}

// The payload may lie in any number of frames of any length, the first one with nothing of it among them.
func TestSegmentsOverFrames(t *testing.T) {
	for _, row := range segmentRows {
		b := superframe(row.v6, 0x18, timestamps, 60000)
		whole := row.wrap(b)
		want := segmentSlow(t, whole, 1500)
		for _, partial := range []bool{false, true} {
			if partial {
				whole = row.wrap(unsealed(row.v6, b))
			}
			for _, first := range []int{len(whole) - 60000, len(whole) - 59999, 3800, len(whole)} {
				for _, size := range []int{499, 1448, 3840, 4096} {
					p := framed(whole[:first])
					p.Tail = len(whole) - first
					if r := p.Parse(); r != verdict.None {
						t.Fatal(r)
					}
					tail := append([][]byte{{}}, slices.Collect(slices.Chunk(whole[first:], size))...)
					checkSame(t, fmt.Sprintf("%s, %d and frames of %d", row.name, first, size),
						segment(t, p, 1500, tail), want)
				}
			}
		}
	}
}

// What the pipeline rewrote is in every segment.
func TestSegmentsAfterRewrite(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := parsed(t, eth(v6, ip(v6, ProtoTCP, unsealed(v6, superframe(v6, 0x18, nil, 5000)))))
		p.DecrementTTL()
		if !p.SetEthernet(macA, macB, VLANs{Outer: 5}) {
			t.Fatal("no room")
		}
		complete := *p
		complete.Frame = bytes.Clone(p.Frame)
		complete.CompleteChecksum(nil)
		checkSame(t, "rewritten", segment(t, p, 1500, nil), segmentSlow(t, complete.Data(), 1500))
	}
}

func TestSegmentsRefused(t *testing.T) {
	plain := superframe(false, 0x10, nil, 100)
	authenticated := cat([]byte{byte(ProtoTCP), 1}, make([]byte, 10))
	options := cat([]byte{byte(protoDestOptions), 1, 1, 12}, bytes.Repeat([]byte{byte(ProtoTCP)}, 12)) // 16 bytes long
	for name, b := range map[string][]byte{
		"UDP":        eth4(ip4(ProtoUDP, 0, nil, udp(false, 100))),
		"ARP":        ethernet([]uint16{0x0806}, make([]byte, 46)),
		"ESP":        eth4(ip4(ProtoESP, 0, nil, filled(100))),
		"first":      eth4(ip4(ProtoTCP, 0x2000, nil, plain)),
		"later":      eth4(ip4(ProtoTCP, 0x2010, nil, plain)),
		"IPv6 first": eth6(ip6(protoFragment, frag6(ProtoTCP, 1), superframe(true, 0x10, nil, 100))),
		"no payload": eth4(ip4(ProtoTCP, 0, nil, superframe(false, 0x11, timestamps, 0))),
		"SYN":        eth4(ip4(ProtoTCP, 0, nil, superframe(false, 0x02, nil, 100))),
		"RST":        eth4(ip4(ProtoTCP, 0, nil, superframe(false, 0x14, nil, 100))),
		"URG":        eth4(ip4(ProtoTCP, 0, nil, superframe(false, 0x30, nil, 100))),
		"MD5":        eth4(ip4(ProtoTCP, 0, nil, superframe(false, 0x10, cat([]byte{1, 1, 19, 18}, make([]byte, 16)), 100))),
		"AO":         eth4(ip4(ProtoTCP, 0, nil, superframe(false, 0x10, []byte{29, 4, 0, 0}, 100))),
		"AH":         eth6(ip6(protoAH, authenticated, superframe(true, 0x10, nil, 100))),
		"third AH": eth6(ip6(protoHopByHop, options, ext(protoAH, 1, 4), authenticated,
			superframe(true, 0x10, nil, 100))),
		"wrong checksum": eth4(ip4(ProtoTCP, 0, nil, edit(bytes.Clone(plain), func(b []byte) { b[80]++ }))),
	} {
		p := framed(b)
		if r := p.Parse(); r != verdict.None {
			t.Fatalf("%s: %v", name, r)
		}
		if _, ok := p.Segments(500, nil); ok {
			t.Errorf("%s: cut", name)
		}
	}
	p := parsed(t, eth4(ip4(ProtoTCP, 0, nil, plain)))
	for _, mtu := range []int{-1, 0, 39, 40} {
		if _, ok := p.Segments(mtu, nil); ok {
			t.Errorf("cut to %d bytes", mtu)
		}
	}
	if _, ok := p.Segments(41, nil); !ok {
		t.Error("not cut to one byte")
	}
	// Options that end early or are broken have no signature behind them.
	for _, options := range [][]byte{{0, 29, 4, 0}, {1, 1, 1, 8}, {8, 1, 29, 4}, {8, 5, 29, 4}, {3, 3, 7, 1}} {
		p := parsed(t, eth4(ip4(ProtoTCP, 0, nil, superframe(false, 0x10, options, 100))))
		if _, ok := p.Segments(100, nil); !ok {
			t.Errorf("not cut with options % x", options)
		}
	}
}

func TestSegmentsDoNotAllocate(t *testing.T) {
	for _, row := range segmentRows {
		p, tail := received(t, row.wrap(unsealed(row.v6, superframe(row.v6, 0x18, timestamps, 64000))))
		frame := make([]byte, 2048)
		n := testing.AllocsPerRun(10, func() {
			for s, _ := p.Segments(1500, tail); s.Count() > 0; {
				s.Next(frame, 100)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", row.name, n)
		}
	}
}

// received is a superframe as it lies in UMEM frames of 4 KiB.
func received(t testing.TB, whole []byte) (*Packet, [][]byte) {
	t.Helper()
	first := min(len(whole), 4096-headroom)
	p := framed(whole[:first])
	p.Tail = len(whole) - first
	if r := p.Parse(); r != verdict.None {
		t.Fatal(r)
	}
	return p, slices.Collect(slices.Chunk(whole[first:], 4096))
}

func FuzzSegments(f *testing.F) {
	for i, row := range segmentRows {
		whole := row.wrap(superframe(row.v6, 0x18|byte(i&1)*tcpCWR, timestamps, 3000))
		f.Add(whole[12:], uint16(1500), uint16(2000), uint16(700), i&1 == 0)
	}
	ah := cat([]byte{byte(ProtoTCP), 1}, make([]byte, 10))
	f.Add(eth6(ip6(protoAH, ah, superframe(true, 0x10, nil, 99)))[12:], uint16(100), uint16(0), uint16(0), true)
	f.Fuzz(func(t *testing.T, b []byte, mtu, back, size uint16, partial bool) {
		if len(b) > 0x10020 {
			return
		}
		whole := cat(macB[:], macA[:], b)
		p := framed(whole)
		p.Parse()
		if p.Flags&IPv6 == 0 && p.L3 > 0 && p.End-p.L3 > ipv4Len { // let the fuzzer past the checksums
			seal4(p.Frame[p.L3:p.End])
			p.Parse()
		}
		if p.Proto == ProtoTCP && p.L4 > 0 && p.End-p.L4 >= tcpLen {
			sealed(p.Frame[p.L4:p.L3+p.L3Len], 16, p.Src, p.Dst, ProtoTCP)
		}
		whole = bytes.Clone(p.Data())
		if partial && p.Proto == ProtoTCP && p.L4 > 0 && p.End-p.L4 >= tcpLen {
			set16(p.Frame, p.L4+16, ^slowChecksum(pseudo(p.Src, p.Dst, ProtoTCP, p.l4Len())))
		}
		received := bytes.Clone(p.Data())
		first := len(received) - min(int(back), len(received))
		p = framed(received[:first])
		p.Tail = len(received) - first
		if p.Parse() != verdict.None {
			return
		}
		tail := slices.Collect(slices.Chunk(received[first:], int(size)+1))
		s, ok := p.Segments(int(mtu), tail)
		if !ok || s.Count() > 1000 {
			return
		}
		checkSegments(t, whole, segment(t, p, int(mtu), tail), int(mtu))
	})
}

func BenchmarkSegments(b *testing.B) {
	const payload = 45 * 1448 // 64 KiB, nearly, in full segments
	for _, row := range []struct {
		name    string
		v6      bool
		mtu     int
		partial bool
	}{
		{"ipv4", false, 1500, true},
		{"ipv6", true, 1520, true},
		{"ipv4-complete", false, 1500, false},
	} {
		b.Run(row.name, func(b *testing.B) {
			message := superframe(row.v6, 0x18, timestamps, payload)
			if row.partial {
				unsealed(row.v6, message)
			}
			p, tail := received(b, eth(row.v6, ip(row.v6, ProtoTCP, message)))
			frames := make([]byte, 64*2048) // segments go to different frames, as they do in a UMEM
			made := 0
			b.ReportAllocs()
			b.SetBytes(payload)
			for b.Loop() {
				s, ok := p.Segments(row.mtu, tail)
				if !ok {
					b.Fatal("not cut")
				}
				for n := 0; s.Count() > 0; n++ {
					s.Next(frames[n*2048:][:2048], 256)
					made++
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(made), "ns/segment")
		})
	}
}
