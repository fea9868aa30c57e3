// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// outerEnds are those of outer headers.
func outerEnds(v6 bool) (src, dst Addr) {
	if v6 {
		return addr16(bytes.Repeat([]byte{0x20}, 16)), addr16(bytes.Repeat([]byte{0x21}, 16))
	}
	return Addr4(0x0af401fe), Addr4(0x0af40207)
}

// takenOut parses a frame that holds a packet in a packet, and takes that out.
func takenOut(t *testing.T, data []byte, v6 bool) *Packet {
	t.Helper()
	p := &Packet{Frame: data, End: len(data)}
	src, dst := outerEnds(v6)
	if r := p.Parse(); r != verdict.None || !p.HoldsPacket() || p.Src != src || p.Dst != dst || p.TTL != 64 {
		t.Fatalf("%v: %+v", r, p)
	}
	if r := p.Decapsulate(); r != verdict.None || !p.VerifyTransport(nil) || p.Start != 0 {
		t.Fatalf("%v: %+v", r, p)
	}
	return p
}

func TestEncapsulate(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := parsed(t, eth(v6, ip(v6, ProtoUDP, udp(v6, 100))))
		want := bytes.Clone(p.Frame[p.L3:p.End])
		src, dst := outerEnds(v6)
		if !p.Encapsulate(src, dst) || !p.SetEthernet(MAC{2}, MAC{4}, VLANs{Outer: 5}) {
			t.Fatal("no room")
		}
		q := takenOut(t, bytes.Clone(p.Data()), v6)
		if !bytes.Equal(q.Frame[q.L3:q.End], want) || q.VLANs.Outer != 5 || q.Proto != ProtoUDP || q.L3Len != len(want) {
			t.Errorf("%+v", q)
		}
		p.L3 = OuterLen(v6) - 1
		if p.Encapsulate(src, dst) {
			t.Error("written in front of the frame")
		}
	}
}

func TestEncapsulatedSegments(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := parsed(t, eth(v6, ip(v6, ProtoTCP, tcp(v6, 1000))))
		src, dst := outerEnds(v6)
		if !p.Encapsulate(src, dst) || !p.SetEthernet(MAC{2}, MAC{4}, VLANs{}) {
			t.Fatal("no room")
		}
		s, ok := p.Segments(400, nil)
		if !ok {
			t.Fatal("not to be cut")
		}
		payload := 0
		for s.Count() > 0 {
			frame := make([]byte, 600)
			q := takenOut(t, frame[:s.Next(frame, 0)], v6)
			if q.L3Len > 400 {
				t.Errorf("%d bytes", q.L3Len)
			}
			payload += q.l4Len() - tcpLen
		}
		if payload != 1000 {
			t.Errorf("%d bytes in all", payload)
		}
	}
}

// What is said of the outer header's packet is told to who has sent the one inside.
func TestInnerTooBig(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := parsed(t, eth(v6, ip(v6, ProtoUDP, udp(v6, 100))))
		client, frontend := p.Src, p.Dst
		src, dst := outerEnds(v6)
		if !p.Encapsulate(src, dst) || !p.SetEthernet(MAC{2}, MAC{4}, VLANs{}) {
			t.Fatal("no room")
		}
		e := parsed(t, bytes.Clone(p.Data()))
		if e.QuotesOuter() || !e.BuildICMPError(PacketTooBig, dst, 1500) {
			t.Fatal("no error")
		}
		e.SetEthernet(MAC{2}, MAC{4}, VLANs{})
		e = parsed(t, bytes.Clone(e.Data()))
		if !e.QuotesOuter() || !e.BuildInnerTooBig(frontend) || e.Dst != client || e.Src != frontend {
			t.Fatalf("%+v", e)
		}
		mtu := int(e.Frame[e.L4+6])<<8 | int(e.Frame[e.L4+7])
		if mtu != 1500-OuterLen(v6) || !e.VerifyTransport(nil) {
			t.Errorf("MTU %d", mtu)
		}
	}
}
