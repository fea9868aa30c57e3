// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// The ports of these tests: those of the hook's device, and those that packets leave by.
const (
	fromLeft packet.PortID = 1 + iota
	fromLeftTagged
	fromLeftDouble
	toRight
	toRightTagged
	toRightDouble
	toPod
	toHost
)

var (
	leftMAC  = packet.MAC{2, 0, 0, 0, 0, 1}
	rightMAC = packet.MAC{2, 0, 0, 0, 0, 3}
	nextMAC  = packet.MAC{2, 0, 0, 0, 0, 4}
	senders  = packet.MAC{2, 0, 0, 0, 0, 2}

	egresses = map[packet.PortID]offload.Egress{
		toRight:       {Kind: offload.Wire, IfIndex: 1, MAC: rightMAC},
		toRightTagged: {Kind: offload.Wire, IfIndex: 1, MAC: rightMAC, VLANs: packet.VLANs{Outer: 7}},
		toRightDouble: {Kind: offload.Wire, IfIndex: 1, MAC: rightMAC, VLANs: packet.VLANs{Outer: 7, Inner: 8}},
		toPod:         {Kind: offload.Pod, IfIndex: 77, MAC: packet.GatewayMAC},
		toHost:        {Kind: offload.Host, IfIndex: 78, MAC: packet.GatewayMAC},
	}
	tagsOf = map[packet.PortID]packet.VLANs{fromLeftTagged: {Outer: 5}, fromLeftDouble: {Outer: 5, Inner: 6}}
)

// carriedLab is a hook with a flow table.
type carriedLab struct {
	port  *Port
	table *offload.Table
	clock int64 // CLOCK_MONOTONIC, moved by this much
	maps  *FlowTable
}

func newCarriedLab(t testing.TB, mode Mode) *carriedLab {
	t.Helper()
	l := &carriedLab{maps: loadFlows(t, FlowTableOptions{Records: 1024})}
	m := l.maps.Memory()
	now := func() int64 { return int64(monotonic(t)) + l.clock }
	var err error
	l.table, err = offload.New(offload.Config{Memory: offload.Memory(m), Clock: now, Kernel: now})
	if err != nil {
		t.Fatal(err)
	}
	for port, e := range egresses {
		if err := l.table.SetEgress(port, e); err != nil {
			t.Fatal(err)
		}
	}
	l.table.SetCarry(true)
	l.port = loaded(t, Options{Mode: mode, Flows: l.maps}, true)
	l.setCarried(t, []int{1}, true)
	return l
}

// setCarried says what the hook carries, and whether from_wire_tc is taken to be there.
func (l *carriedLab) setCarried(t testing.TB, wires []int, tc bool) {
	t.Helper()
	ports := map[VLANs]uint32{{}: uint32(fromLeft)}
	for id, tags := range tagsOf {
		ports[VLANs(tags)] = uint32(id)
	}
	err := l.port.SetCarried(CarriedFrom{MAC: leftMAC, Ports: ports, Wires: wires})
	c := l.port.config
	c.TC = 0
	if tc {
		c.TC = 1
	}
	if err = errors.Join(err, l.port.configure(c)); err != nil {
		t.Fatal(err)
	}
}

// carriedFlow is a flow whose packets come by a port, and go by another.
type carriedFlow struct {
	near, far packet.Ends
	proto     packet.IPProto
	in, out   packet.PortID
	reply     bool // its packets are the answers: they come with far ends
	mtu       int
	ref       offload.Ref
}

func (f *carriedFlow) direction() uint8 {
	if f.reply {
		return 1
	}
	return 0
}

// before and after are the ends that packets come and leave with.
func (f *carriedFlow) before() packet.Ends {
	if f.reply {
		return f.far.Reverse()
	}
	return f.near
}

func (f *carriedFlow) after() packet.Ends {
	if f.reply {
		return f.near.Reverse()
	}
	return f.far
}

func (l *carriedLab) enter(t testing.TB, f *carriedFlow) {
	t.Helper()
	if f.mtu == 0 {
		f.mtu = 1500
	}
	f.ref, _ = l.table.Enter(0, &offload.Flow{Near: f.near, Far: f.far, Proto: f.proto, Generation: 9}, f.direction(),
		&offload.Way{In: f.in, Out: f.out, MAC: nextMAC, MTU: f.mtu})
	if f.ref == 0 {
		t.Fatal("there is no room for a flow")
	}
}

// carriedPacket is what is crafted.
type carriedPacket struct {
	tags    packet.VLANs
	ends    packet.Ends
	proto   packet.IPProto
	flags   byte // of TCP
	ttl     byte
	payload int
	partial bool
	noSum   bool // UDP without a checksum
}

// craft is the frame of a packet, with right checksums.
func (c carriedPacket) craft() []byte {
	l4 := c.transport()
	var ip []byte
	kind := packet.EtherTypeIPv4
	if c.ends.Src.Is4() {
		ip = []byte{0x45, 0x10, 0, 0, 0x12, 0x34, 0x40, 0, c.ttl, byte(c.proto), 0, 0}
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)))
		ip = join(ip, c.ends.Src.Netip().AsSlice(), c.ends.Dst.Netip().AsSlice())
		binary.BigEndian.PutUint16(ip[10:], ^packet.Fold(packet.Sum(ip, 0)))
	} else {
		kind = packet.EtherTypeIPv6
		ip = []byte{0x61, 0x20, 0x0a, 0x0b, 0, 0, byte(c.proto), c.ttl}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
		ip = join(ip, c.ends.Src.Netip().AsSlice(), c.ends.Dst.Netip().AsSlice())
	}
	return join(linkHeader(leftMAC, senders, c.tags, kind), ip, l4)
}

// linkHeader is an Ethernet header as packet.SetEthernet writes it.
func linkHeader(dst, src packet.MAC, tags packet.VLANs, kind packet.EtherType) []byte {
	p := packet.Packet{Frame: make([]byte, 64), L3: 64, EtherType: kind}
	p.SetEthernet(dst, src, tags)
	return p.Frame[p.Start:]
}

func (c carriedPacket) transport() []byte {
	size, at := 8, 6
	if c.proto == packet.ProtoTCP {
		size, at = 20, 16
	}
	b := make([]byte, size+c.payload)
	for i := range c.payload {
		b[size+i] = byte(i*7 + 1)
	}
	binary.BigEndian.PutUint16(b, c.ends.SrcPort)
	binary.BigEndian.PutUint16(b[2:], c.ends.DstPort)
	if c.proto == packet.ProtoTCP {
		binary.BigEndian.PutUint32(b[4:], 0x01020304)
		binary.BigEndian.PutUint32(b[8:], 0xa1b2c3d4)
		b[12], b[13] = 5<<4, c.flags
		binary.BigEndian.PutUint16(b[14:], 512)
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	}
	pseudo := packet.PseudoSum(c.ends.Src, c.ends.Dst, c.proto, len(b))
	sum := packet.Fold(pseudo)
	switch {
	case c.noSum:
		sum = 0
	case !c.partial:
		if sum = ^packet.Fold(packet.Sum(b, pseudo)); sum == 0 {
			sum = 0xffff
		}
	}
	binary.BigEndian.PutUint16(b[at:], sum)
	return b
}

// pipelined is what the pipeline makes of a frame of a flow: packet's own functions, in its order. nil: it would not be
// carried, whatever the flow.
func (f *carriedFlow) pipelined(frame []byte) []byte {
	const headroom = 64
	p := packet.Packet{Frame: join(make([]byte, headroom), frame), Start: headroom, End: headroom + len(frame)}
	if p.Parse() != verdict.None || p.Flags&(packet.Fragment|packet.Options) != 0 || p.TTL <= 1 || p.L3Len > f.mtu {
		return nil
	}
	switch {
	case p.VLANs != tagsOf[f.in], p.L3 != headroom+14+4*tagsIn(p.VLANs), p.Ends() != f.before(), p.Proto != f.proto:
		return nil
	case p.Flags&packet.IPv6 != 0 && p.L4 != p.L3+40: // behind the header of a fragment that is all of the packet
		return nil
	case p.DstMAC() != leftMAC || p.SrcMAC() == leftMAC || p.SrcMAC().IsMulticast() || p.SrcMAC().IsZero():
		return nil
	case f.proto == packet.ProtoTCP && p.Frame[p.L4+13]&0x17 != 0x10:
		return nil
	case p.Flags&packet.PartialChecksum != 0 && egresses[f.out].Kind == offload.Wire:
		return nil
	}
	for i := 12; i < p.L3-p.Start-2; i += 4 {
		if kind := binary.BigEndian.Uint16(frame[i:]); kind != 0x8100 && kind != 0x88a8 {
			return nil // the tag of old switches
		}
	}
	p.Translate(f.after())
	p.DecrementTTL()
	e := egresses[f.out]
	p.SetEthernet(nextMAC, e.MAC, e.VLANs)
	if e.Kind == offload.Wire {
		return p.Data()
	}
	return p.Frame[p.Start : headroom+len(frame)] // the stack cuts the padding off
}

func tagsIn(v packet.VLANs) (n int) {
	if v.Outer != 0 {
		n++
	}
	if v.Inner != 0 {
		n++
	}
	return n
}

// carriedRun gives the hook a frame and returns its action, what it left of the frame with what stands before it, and
// the reason that it counted.
func (l *carriedLab) run(t testing.TB, frame []byte) (action uint32, out []byte, reason Reason) {
	t.Helper()
	before := read(t, l.port)
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512)}
	action, err := l.port.program.Run(&options)
	if err != nil {
		t.Fatal(err)
	}
	return action, options.DataOut, counted(t, before, read(t, l.port), uint64(len(frame)))
}

// expect fails unless the hook carries a frame of a flow just as the pipeline would, or leaves it whole to userspace
// where want is nil.
func (l *carriedLab) expect(t testing.TB, f *carriedFlow, frame, want []byte) {
	t.Helper()
	before, _ := l.table.Read(f.ref)
	action, out, reason := l.run(t, frame)
	after, _ := l.table.Read(f.ref)
	d := f.direction()
	packets := after.Traffic[d].Packets - before.Traffic[d].Packets
	if want == nil {
		if reason == WireCarried || packets != 0 || !bytes.Equal(out, frame) {
			t.Fatalf("action %d for %s, %d counted, of\n%x\n%x", action, reason, packets, frame, out)
		}
		return
	}
	wantAction := uint32(xdpRedirect)
	if e := egresses[f.out]; e.Kind != offload.Wire {
		wantAction = xdpPass
		if len(out) < onwardSize || !bytes.Equal(out[:onwardSize], l.onward(&e)) {
			t.Fatalf("before the packet stands %x", out)
		}
		out = out[onwardSize:]
	}
	if action != wantAction || reason != WireCarried || packets != 1 {
		t.Fatalf("action %d for %s, %d counted; want %d, of\n%x", action, reason, packets, wantAction, frame)
	}
	if !bytes.Equal(out, want) {
		t.Fatalf("of\n%x it made\n%x, not\n%x", frame, out, want)
	}
}

const onwardSize = 32 // ONWARD_SIZE

// onward is what from_wire_tc reads.
func (l *carriedLab) onward(e *offload.Egress) []byte {
	c := l.maps.Memory().Control
	seal := (binary.LittleEndian.Uint64(c) ^ 0x9e3779b97f4a7c15) * (binary.LittleEndian.Uint64(c[8:]) | 1)
	b := binary.LittleEndian.AppendUint64(make([]byte, 16), seal^seal>>32)
	b = binary.LittleEndian.AppendUint32(b, uint32(e.IfIndex))
	return binary.LittleEndian.AppendUint32(b, uint32(e.Kind))
}
