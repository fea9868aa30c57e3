// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// cut makes all fragments of p and returns them as whole Ethernet packets.
func cut(t testing.TB, p *Packet, mtu int, tail [][]byte) [][]byte {
	t.Helper()
	f, ok := p.Fragments(mtu, tail)
	if !ok {
		t.Fatal("not cut")
	}
	var out [][]byte
	for n := f.Count(); n > 0; n-- {
		if f.Count() != n {
			t.Fatalf("%d fragments to come, want %d", f.Count(), n)
		}
		frame := bytes.Repeat([]byte{0xa5}, 40+p.L3-p.Start+mtu)
		out = append(out, frame[40:f.Next(frame, 40)])
	}
	if f.Count() != 0 || f.left != 0 {
		t.Fatalf("%d bytes left behind %d fragments", f.left, len(out))
	}
	return out
}

// checkFragments reassembles by the letter of RFC 791 and compares with the payload of the whole at its offset.
func checkFragments(t testing.TB, whole *Packet, body []byte, fragments [][]byte, mtu int) {
	t.Helper()
	header := int(body[0]&15) * 4
	field := binary.BigEndian.Uint16(body[6:])
	base, payload := int(field&0x1fff)*8, body[header:]
	got := make([]byte, len(payload))
	covered := 0
	for i, b := range fragments {
		p := framed(b)
		p.Parse() // a fragment of 8 bytes is a tiny one to a receiver, but well formed
		h := p.Frame[p.L3:p.End]
		if p.L3Len > mtu || p.VLANs != whole.VLANs || p.Src != whole.Src || p.Dst != whole.Dst || p.TTL != whole.TTL ||
			p.TOS != whole.TOS || p.Proto != whole.Proto || !bytes.Equal(h[4:6], body[4:6]) {
			t.Fatalf("fragment %d: %+v", i, fields(p))
		}
		size := int(h[0]&15) * 4
		if slowChecksum(h[:size]) != 0 || p.L3Len != len(h) {
			t.Fatalf("fragment %d: header % x of %d bytes", i, h[:size], len(h))
		}
		off, more := int(binary.BigEndian.Uint16(h[6:])&0x1fff)*8-base, h[6]&0x20 != 0
		if wantMore := i < len(fragments)-1 || field&0x2000 != 0; more != wantMore || off != covered {
			t.Fatalf("fragment %d: offset %d, want %d, more %v", i, off, covered, more)
		}
		covered += copy(got[off:], h[size:])
	}
	if covered != len(payload) || !bytes.Equal(got, payload) {
		t.Fatalf("%d bytes reassembled of %d", covered, len(payload))
	}
}

func TestFragments(t *testing.T) {
	options := []byte{148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0} // router alert is copied, record route is not
	for _, opt := range [][]byte{nil, options} {
		for _, field := range []uint16{0, 0x2000, 0x2010, 0x0010} {
			for _, size := range []int{8, 1000, 1480, 1488, 3000, 8192} {
				for _, mtu := range []int{68, 69, 576, 1500, 1501, 9000} {
					body := ip4(200, field, opt, filled(size))
					p := parsed(t, ethernet([]uint16{0x8100, 5, 0x0800}, body))
					out := cut(t, p, mtu, nil)
					checkFragments(t, p, body, out, mtu)
					for i, b := range out {
						want := []byte{148, 4, 0, 0}
						if i == 0 {
							want = opt
						}
						if h := b[18:]; opt != nil && !bytes.Equal(h[20:int(h[0]&15)*4], want) {
							t.Fatalf("options of fragment %d: % x", i, h[20:int(h[0]&15)*4])
						}
					}
				}
			}
		}
	}
}

func TestFragmentsOverFrames(t *testing.T) {
	body := ip4(ProtoUDP, 0, nil, udp(false, 5000))
	whole := eth4(body)
	for _, first := range []int{50, 1500, 3001} {
		p := framed(whole[:first])
		p.Tail = len(whole) - first
		if r := p.Parse(); r != verdict.None {
			t.Fatal(r)
		}
		rest := whole[first:]
		checkFragments(t, p, body, cut(t, p, 1500, [][]byte{rest[:1], {}, rest[1:1700], rest[1700:]}), 1500)
	}
}

func TestFragmentsRefused(t *testing.T) {
	partial := udp(false, 100)
	set16(partial, 6, ^slowChecksum(pseudo(ipA4, ipB4, ProtoUDP, len(partial))))
	for name, b := range map[string][]byte{
		"DF":      eth4(ip4(ProtoUDP, 0x4000, nil, udp(false, 100))),
		"IPv6":    eth6(ip6(ProtoUDP, udp(true, 100))),
		"partial": eth4(ip4(ProtoUDP, 0, nil, partial)),
	} {
		if _, ok := parsed(t, b).Fragments(68, nil); ok {
			t.Errorf("%s: cut", name)
		}
	}
	if _, ok := parsed(t, eth4(ip4(ProtoUDP, 0, nil, udp(false, 100)))).Fragments(27, nil); ok {
		t.Error("cut without room for 8 bytes")
	}
}

func TestFragmentsDoNotAllocate(t *testing.T) {
	p := parsed(t, eth4(ip4(ProtoUDP, 0, nil, udp(false, 5000))))
	frame := make([]byte, 2048)
	n := testing.AllocsPerRun(10, func() {
		for f, _ := p.Fragments(1500, nil); f.Count() > 0; {
			f.Next(frame, 100)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzFragment(f *testing.F) {
	f.Add(ip4(ProtoUDP, 0, []byte{148, 4, 0, 0}, udp(false, 500)), uint16(100), uint16(60))
	f.Add(ip4(ProtoTCP, 0x2010, []byte{7, 3, 4, 0}, filled(800)), uint16(68), uint16(0))
	f.Add(ip4(ProtoUDP, 0, []byte{0x9e, 2, 0x1e, 2}, udp(false, 90)), uint16(48), uint16(9))
	f.Fuzz(func(t *testing.T, body []byte, mtu, back uint16) {
		if len(body) < 20 || len(body) > 0xffff {
			return
		}
		body[0] = 0x40 | max(body[0]&15, 5)
		set16(body, 2, uint16(len(body)))
		seal4(body)
		whole := eth4(body)
		p := framed(whole[:len(whole)-min(int(back), len(body))])
		p.Tail = len(whole) - (p.End - p.Start)
		if p.Parse() != verdict.None {
			return
		}
		tail := [][]byte{whole[len(whole)-p.Tail:]}
		p.CompleteChecksum(tail)
		copy(body, p.Frame[p.L3:p.End])
		if _, ok := p.Fragments(int(mtu), tail); !ok {
			return
		}
		checkFragments(t, p, body, cut(t, p, int(mtu), tail), int(mtu))
	})
}
