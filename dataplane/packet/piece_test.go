// SPDX-License-Identifier: Apache-2.0

package packet

import "testing"

func TestPiece(t *testing.T) {
	long := cat([]byte{byte(protoFragment), 1, 1, 12}, make([]byte, 12)) // a header of destination options, 16 bytes
	for _, row := range []struct {
		name string
		data []byte
		want Piece
	}{
		{"IPv4, whole", ip4(ProtoUDP, 0, nil, udp(false, 8)), Piece{}},
		{"IPv4, DF", ip4(ProtoUDP, 0x4000, nil, udp(false, 8)), Piece{}},
		{"IPv4, first", ip4(ProtoUDP, 0x2000, nil, udp(false, 16)), Piece{77, 0, 24, true}},
		{"IPv4, options", ip4(ProtoUDP, 0x2000, []byte{1, 1, 1, 0}, udp(false, 16)), Piece{77, 0, 24, true}},
		{"IPv4, later, DF", ip4(ProtoUDP, 0x6003, nil, filled(8)), Piece{77, 24, 8, true}},
		{"IPv4, last", ip4(ProtoUDP, 0x1ffb, nil, filled(3)), Piece{77, 0xffd8, 3, false}},
		{"IPv4, empty last", ip4(ProtoUDP, 3, nil, nil), Piece{77, 24, 0, false}},

		{"IPv6, whole", ip6(ProtoUDP, udp(true, 8)), Piece{}},
		{"IPv6, atomic", ip6(protoFragment, frag6(ProtoUDP, 0), udp(true, 8)), Piece{}},
		{"IPv6, first", ip6(protoFragment, frag6(ProtoUDP, 1), udp(true, 8)), Piece{9, 0, 16, true}},
		{"IPv6, reserved bits", ip6(protoFragment, frag6(ProtoUDP, 7), udp(true, 8)), Piece{9, 0, 16, true}},
		{"IPv6, later", ip6(protoFragment, frag6(ProtoUDP, 0x19), filled(8)), Piece{9, 24, 8, true}},
		{"IPv6, last", ip6(protoFragment, frag6(ProtoUDP, 0x18), filled(3)), Piece{9, 24, 3, false}},
		{"IPv6, headers in front", ip6(protoHopByHop, ext(protoDestOptions, 1, 4), long, frag6(ProtoUDP, 0x19), filled(8)),
			Piece{9, 24, 8, true}},
		{"IPv6, header behind", ip6(protoFragment, frag6(protoDestOptions, 1), ext(ProtoUDP, 1, 4), udp(true, 8)),
			Piece{9, 0, 24, true}},
	} {
		b := eth4(row.data)
		if row.data[0]>>4 == 6 {
			b = eth6(row.data)
		}
		if got := parsed(t, b).Piece(); got != row.want {
			t.Errorf("%s: %+v, want %+v", row.name, got, row.want)
		}
	}
}

// A fragment may go on in further frames, and may have link padding behind it.
func TestPieceOfManyFrames(t *testing.T) {
	b := eth4(ip4(ProtoUDP, 0x2003, nil, filled(800)))
	p := framed(b[:200])
	p.Tail = len(b) - 200
	if reason := p.Parse(); reason != 0 {
		t.Fatal(reason)
	}
	if got, want := p.Piece(), (Piece{77, 24, 800, true}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	padded := parsed(t, cat(eth4(ip4(ProtoUDP, 3, nil, filled(3))), make([]byte, 23)))
	if got, want := padded.Piece(), (Piece{77, 24, 3, false}); got != want {
		t.Errorf("padded: %+v, want %+v", got, want)
	}
}

// The pieces that Fragments makes of a packet cover it without gap or overlap.
func TestPiecesOfFragments(t *testing.T) {
	whole := eth4(ip4(ProtoUDP, 0, nil, udp(false, 3000)))
	at := 0
	for _, data := range cut(t, parsed(t, whole), 576, nil) {
		piece := parsed(t, data).Piece()
		if piece.ID != 77 || piece.Offset != at || piece.More != (at+piece.Len < 3008) {
			t.Errorf("%+v at %d", piece, at)
		}
		at += piece.Len
	}
	if at != 3008 {
		t.Errorf("%d bytes are covered", at)
	}
}
