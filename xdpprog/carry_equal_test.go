// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// equalLab is a hook and the table that userspace writes its records by.
type equalLab struct {
	*carryLab
	table  *offload.Table
	random *rand.Rand
	flows  []offload.Flow
}

func newEqualLab(t *testing.T, seed uint64) *equalLab {
	t.Helper()
	l := &equalLab{carryLab: newCarryLab(t), random: rand.New(rand.NewPCG(seed, 0))}
	l.stale = true // wrong checksums are among the packets
	clock := func() int64 { return time.Now().UnixNano() }
	var err error
	l.table, err = offload.New(offload.Config{Memory: offload.Memory(l.carryLab.flows.Memory()), Clock: clock,
		Kernel: func() int64 { return int64(monotonic(t)) }})
	must(t, err)
	l.table.SetCarry(true)
	e := egressOf(l.carryLab.flows, otherNear)
	must(t, l.table.SetEgress(otherPort, offload.Egress{Kind: offload.Pod, IfIndex: int(e.ifindex), MAC: gatewayMAC}))
	p := station(l.ifindex)
	p.Router = true
	setPort(t, l.trunk, p)
	for range 24 {
		l.enterRandom(t)
	}
	return l
}

func (l *equalLab) address(six bool) netip.Addr {
	if six {
		b := peer6.As16()
		b[8], b[15] = byte(l.random.Uint32()), byte(l.random.Uint32())
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte{10, byte(l.random.Uint32()), byte(l.random.Uint32()), byte(l.random.Uint32())})
}

func (l *equalLab) ends(six bool) packet.Ends {
	return packet.Ends{Src: packet.AddrFrom(l.address(six)), Dst: packet.AddrFrom(l.address(six)),
		SrcPort: uint16(l.random.Uint32()), DstPort: uint16(l.random.Uint32())}
}

// enterRandom enters a flow's way from the station: as what is sent, or as the answer to that.
func (l *equalLab) enterRandom(t *testing.T) {
	t.Helper()
	six := l.random.IntN(2) == 0
	f := offload.Flow{Near: l.ends(six), Proto: []packet.IPProto{packet.ProtoTCP, packet.ProtoUDP}[l.random.IntN(2)]}
	f.Far = f.Near
	if l.random.IntN(4) > 0 {
		f.Far = l.ends(six)
	}
	d := uint8(l.random.IntN(2))
	w := offload.Way{In: portID, Out: otherPort, MAC: otherMAC, MTU: 100 + l.random.IntN(100)}
	if _, ok := l.table.Enter(0, &f, d, &w); !ok {
		t.Fatal("no room")
	}
	if d == 1 { // as those who send see it
		f.Near, f.Far = f.Far.Reverse(), f.Near.Reverse()
	}
	l.flows = append(l.flows, f)
}

// frame is one of a flow of the table, or nearly: some are changed in one or two bytes.
func (l *equalLab) frame() []byte {
	f := &l.flows[l.random.IntN(len(l.flows))]
	src := netip.AddrPortFrom(f.Near.Src.Netip(), f.Near.SrcPort)
	dst := netip.AddrPortFrom(f.Near.Dst.Netip(), f.Near.DstPort)
	payload := make([]byte, l.random.IntN(160))
	for i := range payload {
		payload[i] = byte(l.random.Uint32())
	}
	b := segment(src, dst, uint8(f.Proto), payload)
	for range l.random.IntN(3) {
		headers := 14 + 60
		at := 12 + l.random.IntN(min(headers, len(b))-12)
		b[at] ^= 1 << l.random.IntN(8)
		if l.random.IntN(2) == 0 && b[12] == 8 && b[13] == 0 {
			completeIP(b)
		}
	}
	if l.random.IntN(8) == 0 {
		b = append(b, make([]byte, l.random.IntN(20))...)
	}
	return b
}

// pipelines is what becomes of a frame by the parser, the flows, and the rewriting of the dataplane; nil: it is for
// userspace, or dropped, and in any case not carried.
func (l *equalLab) pipelines(frame []byte) []byte {
	const tcpFlags, others, ack = 13, 0x07, 0x10 // of FIN, SYN and RST none
	p := packet.Packet{Frame: join(make([]byte, 64), frame), Start: 64, End: 64 + len(frame)}
	if p.Parse() != verdict.None || p.Flags&(packet.Fragment|packet.Options) != 0 || p.TTL <= 1 || p.L4 == 0 ||
		p.VLANs != (packet.VLANs{}) {
		return nil
	}
	if flags := p.Frame[min(p.L4+tcpFlags, p.End-1)]; p.Proto == packet.ProtoTCP && flags&(others|ack) != ack {
		return nil
	}
	ref, d := l.table.Find(p.Ends(), p.Proto, portID)
	if ref == 0 {
		return nil
	}
	f, ways, ok := l.table.Flow(ref)
	if !ok || p.L3Len > ways[d].MTU {
		return nil
	}
	to := f.Far
	if d == 1 {
		to = f.Near.Reverse()
	}
	p.Flags &^= packet.PartialChecksum // which a run's are not, whatever they look like
	if !p.Translate(to) {
		return nil
	}
	p.DecrementTTL()
	if !p.SetEthernet(ways[d].MAC, gatewayMAC, packet.VLANs{}) {
		return nil
	}
	return p.Data()
}

// Random packets get the same bytes by the hook as by the pipeline's own rewriting, with the records that userspace
// wrote, or are left alone by both.
func TestCarryEqualsPipeline(t *testing.T) {
	l := newEqualLab(t, rand.Uint64())
	carried := 0
	for range 20000 {
		frame := l.frame()
		if !runs(frame) {
			continue
		}
		want := l.pipelines(frame)
		_, reason, after := l.run(t, frame, 0)
		if (reason == Carried) != (want != nil) {
			t.Fatalf("%s, by the pipeline carried %v: %x", reason, want != nil, frame)
		}
		if want == nil {
			continue
		}
		carried++
		if !bytes.Equal(after, want) {
			t.Fatalf("the frame\n%x became\n%x, by the pipeline\n%x", frame, after, want)
		}
	}
	if carried < 5000 {
		t.Errorf("%d packets were carried", carried)
	}
}
