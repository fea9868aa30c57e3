// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	otherPort = 77 // of the pod at the other end
	otherNear = 1  // number of its egress
	ownEgress = 2  // and of the station's
)

var (
	otherMAC   = [6]byte{2, 0, 0, 0, 0, 7}
	gatewayMAC = [6]byte(routerMAC())
)

// carryLab is a trunk with two ports and a flow table.
type carryLab struct {
	trunk   *Trunk
	flows   *FlowTable
	ifindex int // of the station's device
	control *testControl
	used    int // records
	// stale: the run is not with a complete checksum, or not one that stays right.
	stale bool
}

func newCarryLab(t testing.TB) *carryLab {
	t.Helper()
	l := &carryLab{flows: loadFlows(t, FlowTableOptions{Records: 64})}
	l.control = controlOf(l.flows)
	l.control.carry = 1
	l.trunk = loadTrunk(t, TrunkOptions{MaxPorts: 16, Flows: l.flows})
	attachTrunk(t, l.trunk, newVeth(t, vethOptions{}).ifindex, 1)
	l.ifindex = newVeth(t, vethOptions{}).ifindex
	setPort(t, l.trunk, station(l.ifindex))
	other := newVeth(t, vethOptions{})
	setPort(t, l.trunk, TrunkPort{ID: otherPort, IfIndex: other.ifindex, MAC: otherMAC})
	*egressOf(l.flows, otherNear) = testEgress{ifindex: uint32(other.ifindex), port: otherPort, mac: gatewayMAC,
		kind: egressPod}
	*egressOf(l.flows, ownEgress) = testEgress{ifindex: uint32(l.ifindex), port: portID, mac: gatewayMAC, kind: egressPod}
	return l
}

// enter puts the flow in a record of its own.
func (l *carryLab) enter(t testing.TB, f *testFlow) *testRecord {
	t.Helper()
	l.used++
	return f.put(t, l.flows, l.used-1)
}

// plain is a flow from the station that is not translated.
func plain(src, dst netip.AddrPort, proto uint8) *testFlow {
	return &testFlow{near: [2]netip.AddrPort{src, dst}, far: [2]netip.AddrPort{src, dst}, proto: proto,
		in: [2]uint32{portID, otherPort}, to: [2]uint32{otherNear, ownEgress}, mac: [2][6]byte{otherMAC, stationMAC},
		mtu: 1500}
}

func ap(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// run gives from_port a frame, as one of segments of so many bytes unless that is 0. Its complete checksum, as a device
// sums it, is to stay right.
func (l *carryLab) run(t testing.TB, frame []byte, gso uint32) (action uint32, reason Reason, after []byte) {
	t.Helper()
	before, other := trunkCounts(t, l.trunk), countersOf(t, l.trunk, otherPort)
	context := runContext{IfIndex: uint32(l.ifindex), GSOSize: gso}
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Context: context}
	if gso == 0 && !l.stale {
		options.Flags = testComplete
	}
	action, err := l.trunk.fromPort.Run(&options)
	if err != nil {
		t.Fatal(err)
	}
	reason = endReasons
	for r, n := range trunkCounts(t, l.trunk) {
		if n.Packets != before[r].Packets {
			if reason != endReasons || n.Bytes-before[r].Bytes != uint64(len(frame)) {
				t.Errorf("counted as %s, and as %s with %d bytes", reason, n.Name, n.Bytes-before[r].Bytes)
			}
			reason = n.Reason
		}
	}
	to := CarriedTo - FromPort
	if n := countersOf(t, l.trunk, otherPort)[to].Packets - other[to].Packets; n != 0 && reason != Carried {
		t.Errorf("%d packets left by the other port", n)
	}
	return action, reason, options.DataOut
}

// testComplete is BPF_F_TEST_SKB_CHECKSUM_COMPLETE of linux/bpf.h.
const testComplete = 1 << 2

// runContext is struct __sk_buff as far as a test run reads it.
type runContext struct {
	_       [10]uint32
	IfIndex uint32
	_       [33]uint32
	GSOSize uint32
	_       [3]uint32
}

func (l *carryLab) expectUserspace(t *testing.T, frame []byte, gso uint32) {
	t.Helper()
	action, reason, after := l.run(t, frame, gso)
	want := join(frame[:6], portMAC, frame[12:])
	if action != tcRedirect || reason != FromPort || !bytes.Equal(after, want) {
		t.Errorf("action %d, %s, and the frame\n%x, want\n%x", action, reason, after, want)
	}
}

func (l *carryLab) expectCarried(t *testing.T, frame, want []byte, gso uint32) {
	t.Helper()
	to := CarriedTo - FromPort
	before := countersOf(t, l.trunk, otherPort)[to]
	action, reason, after := l.run(t, frame, gso)
	if action != tcRedirect || reason != Carried || !bytes.Equal(after, want) {
		t.Errorf("action %d, %s, and the frame\n%x, want\n%x", action, reason, after, want)
	}
	n := countersOf(t, l.trunk, otherPort)[to]
	if n.Packets-before.Packets != 1 || n.Bytes-before.Bytes != uint64(len(want)) {
		t.Errorf("%d packets, %d bytes left by the other port", n.Packets-before.Packets, n.Bytes-before.Bytes)
	}
}

// translations are ends that differ from the station's own, in each way that services have them differ.
func translations(six bool) map[string][4]netip.AddrPort {
	src, dst := ap(peer4, 40000), ap(ours4, 80)
	backend, masquerade := ap(inOurs4, 8080), ap(kernels4, 40001)
	if six {
		src, dst, backend, masquerade = ap(peer6, 40000), ap(ours6, 80), ap(inOurs6, 8080), ap(kernels6, 40001)
	}
	return map[string][4]netip.AddrPort{
		"not translated":      {src, dst, src, dst},
		"to a backend":        {src, dst, src, backend},
		"to another port":     {src, dst, src, ap(dst.Addr(), 8080)},
		"to another address":  {src, dst, src, ap(backend.Addr(), 80)},
		"with another source": {src, dst, masquerade, dst},
		"with both":           {src, dst, masquerade, backend},
		"ports exchanged":     {src, dst, ap(src.Addr(), 80), ap(dst.Addr(), 40000)},
	}
}

// Each rewriting, in both families and directions, is what computing the packet anew gives.
func TestCarry(t *testing.T) {
	for _, six := range []bool{false, true} {
		for name, ends := range translations(six) {
			for proto, protoName := range map[uint8]string{tcpProto: "tcp", udpProto: "udp"} {
				t.Run(fmt.Sprintf("%s/%s/six %v", name, protoName, six), func(t *testing.T) {
					l := newCarryLab(t)
					f := plain(ends[0], ends[1], proto)
					f.far = [2]netip.AddrPort{ends[2], ends[3]}
					if f.near != f.far {
						f.flags = testTranslated
					}
					r := l.enter(t, f)
					l.carryBoth(t, f, r)
				})
			}
		}
	}
}

// carryBoth has both directions carried, of payloads whose checksums are many different ones.
func (l *carryLab) carryBoth(t *testing.T, f *testFlow, r *testRecord) {
	packets, size := uint64(0), uint64(0)
	for i := range 40 {
		frame := segment(f.near[0], f.near[1], f.proto, bytes.Repeat([]byte{byte(i), byte(7 * i)}, i))
		l.expectCarried(t, frame, leaving(frame, f.far[0], f.far[1], otherMAC, gatewayMAC), 0)
		packets, size = packets+1, size+uint64(len(frame)-14)
	}
	w := &r.way[0]
	if w.packets != packets || w.bytes != size || w.used == 0 || (f.proto == tcpProto) != (w.ack == [4]byte{9, 8, 7, 6}) {
		t.Errorf("%d packets, %d bytes, used %d, ack %x; want %d, %d", w.packets, w.bytes, w.used, w.ack, packets, size)
	}
	// The other way is that of a station with the other end's addresses.
	answer := *f
	answer.in = [2]uint32{otherPort, portID}
	answer.to = [2]uint32{ownEgress, otherNear}
	answer.mac = [2][6]byte{stationMAC, otherMAC}
	l.enter(t, &answer)
	p := station(l.ifindex)
	p.Router = true
	setPort(t, l.trunk, p)
	for i := range 40 {
		frame := segment(f.far[1], f.far[0], f.proto, bytes.Repeat([]byte{byte(i), byte(9 * i)}, i))
		l.expectCarried(t, frame, leaving(frame, f.near[1], f.near[0], otherMAC, gatewayMAC), 0)
	}
}

// A UDP packet without a checksum keeps none, and no sum becomes none.
func TestCarryUDPChecksums(t *testing.T) {
	for _, six := range []bool{false, true} {
		ends := translations(six)["with both"]
		l := newCarryLab(t)
		f := plain(ends[0], ends[1], udpProto)
		f.far, f.flags = [2]netip.AddrPort{ends[2], ends[3]}, testTranslated
		l.enter(t, f)
		zero := segment(f.near[0], f.near[1], udpProto, []byte{0, 0})
		at := len(zero) - 4
		if !six {
			without := bytes.Clone(zero)
			without[at], without[at+1] = 0, 0
			l.stale = true // bpf_l4_csum_replace lets it be; who receives the packet has nothing to compare it with
			l.expectCarried(t, without, leaving(without, f.far[0], f.far[1], otherMAC, gatewayMAC), 0)
			l.stale = false
		}
		// The payload that has the sum of what leaves be zero, which is sent as its complement.
		left := leaving(zero, f.far[0], f.far[1], otherMAC, gatewayMAC)
		copy(zero[len(zero)-2:], left[at:at+2])
		complete(zero)
		want := leaving(zero, f.far[0], f.far[1], otherMAC, gatewayMAC)
		if want[at] != 0xff || want[at+1] != 0xff {
			t.Fatalf("the checksum of what leaves is %x", want[at:at+2])
		}
		l.expectCarried(t, zero, want, 0)
	}
}

// bailOut is a packet of a flow that is carried, changed so that userspace has to see it.
type bailOut struct {
	name   string
	change func(frame []byte) []byte
	gso    uint32
	proto  uint8 // 0: both
	six    int   // 4 or 6, 0: both
}

// at sets a byte behind the Ethernet header, or the transport header's where it is negative: -1 is the first.
func at(offset int, value byte) func([]byte) []byte {
	return func(frame []byte) []byte {
		size, _ := headerOf(frame)
		if offset < 0 {
			offset = size - offset - 1
		}
		b := with(frame, 14+offset, value)
		completeIP(b)
		return b
	}
}

// completeIP computes the checksum of the IPv4 header anew.
func completeIP(b []byte) {
	if size, _ := headerOf(b); size == 20 {
		b[14+10], b[14+11] = 0, 0
		binary.BigEndian.PutUint16(b[14+10:], sum16(b[14:14+20]))
	}
}

func bailOuts() []bailOut {
	list := []bailOut{
		{name: "ttl 1", six: 4, change: at(8, 1)},
		{name: "ttl 0", six: 4, change: at(8, 0)},
		{name: "hop limit 1", six: 6, change: at(7, 1)},
		{name: "hop limit 0", six: 6, change: at(7, 0)},
		{name: "more fragments", six: 4, change: at(6, 0x20)},
		{name: "a later fragment", six: 4, change: at(7, 1)},
		{name: "the reserved flag", six: 4, change: at(6, 0x80)},
		{name: "wrong header checksum", six: 4, change: func(b []byte) []byte { return with(b, 14+10, b[14+10]+1) }},
		{name: "options", six: 4, change: func(b []byte) []byte {
			b = join(b[:34], []byte{1, 1, 1, 0}, b[34:])
			b[14] = 0x46
			binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
			b[24], b[25] = 0, 0
			binary.BigEndian.PutUint16(b[24:], sum16(b[14:38]))
			return b
		}},
		{name: "longer than the frame", six: 4, change: at(3, 200)},
		{name: "longer than the frame", six: 6, change: at(5, 200)},
		{name: "an extension header", six: 6, change: func(b []byte) []byte {
			next := b[14+6]
			b = join(b[:54], extension(next, 0), b[54:])
			b[14+6] = 60
			binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
			return b
		}},
		{name: "another protocol", six: 4, change: at(9, 132)},
		{name: "another protocol", six: 6, change: at(6, 132)},
		{name: "another port", change: func(b []byte) []byte { return at(-4, 81)(b) }},
		{name: "larger than the way", change: func(b []byte) []byte {
			size, _ := headerOf(b)
			b = join(b, make([]byte, 1501-(len(b)-14)))
			binary.BigEndian.PutUint16(b[14+size+4:], uint16(1501-size)) // of UDP; TCP has a sequence number there
			if size == 20 {
				binary.BigEndian.PutUint16(b[16:], 1501)
			} else {
				binary.BigEndian.PutUint16(b[18:], 1461)
			}
			complete(b)
			return b
		}},
		{name: "segments larger than the way", gso: 1500, change: bytes.Clone},
		{name: "a trailer behind segments", gso: 8, change: func(b []byte) []byte { return join(b, []byte{0}) }},
		{name: "udp length 7", proto: udpProto, change: at(-6, 7)},
		{name: "udp length beyond the packet", proto: udpProto, change: at(-6, 200)},
		{name: "tcp header of 16 bytes", proto: tcpProto, change: at(-13, 0x40)},
		{name: "tcp header beyond the packet", proto: tcpProto, change: at(-13, 0xf0)},
		{name: "to all", change: func(b []byte) []byte { return with(b, 0, 0xff) }},
		{name: "to another mac", change: func(b []byte) []byte { return with(b, 5, 1) }},
	}
	for flags, name := range map[byte]string{
		0x02: "syn", 0x12: "syn, ack", 0x11: "fin, ack", 0x04: "rst", 0x14: "rst, ack", 0x00: "no flags", 0x08: "psh",
		0x13: "syn, fin", 0x16: "syn, rst", 0x34: "rst, urg",
	} {
		list = append(list, bailOut{name: name, proto: tcpProto, change: at(-14, flags)})
	}
	return list
}

func TestCarryBailsOut(t *testing.T) {
	for _, six := range []bool{false, true} {
		for _, proto := range []uint8{tcpProto, udpProto} {
			l := newCarryLab(t)
			ends := translations(six)["with both"]
			f := plain(ends[0], ends[1], proto)
			f.far, f.flags = [2]netip.AddrPort{ends[2], ends[3]}, testTranslated
			r := l.enter(t, f)
			frame := segment(f.near[0], f.near[1], proto, make([]byte, 20))
			for _, b := range bailOuts() {
				if b.proto != 0 && b.proto != proto || b.six != 0 && (b.six == 6) != six {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d/six %v", b.name, proto, six), func(t *testing.T) {
					l.expectUserspace(t, b.change(frame), b.gso)
				})
			}
			if r.way[0].packets != 0 || r.way[0].bytes != 0 || r.way[0].used != 0 {
				t.Errorf("%d packets, %d bytes, used %d", r.way[0].packets, r.way[0].bytes, r.way[0].used)
			}
			l.expectCarried(t, frame, leaving(frame, f.far[0], f.far[1], otherMAC, gatewayMAC), 0)
		}
	}
}

// What userspace says of a record holds for the next packet.
func TestCarryRecords(t *testing.T) {
	l := newCarryLab(t)
	f := plain(ap(peer4, 1), ap(ours4, 2), udpProto)
	r := l.enter(t, f)
	frame := segment(f.near[0], f.near[1], udpProto, []byte("something"))
	want := leaving(frame, f.near[0], f.near[1], otherMAC, gatewayMAC)
	egress := *egressOf(l.flows, otherNear)
	l.expectCarried(t, frame, want, 0)
	for name, c := range map[string]struct{ spoil, mend func() }{
		"switched off":   {func() { l.control.carry = 0 }, func() { l.control.carry = 1 }},
		"to userspace":   {func() { r.way[0].to = 0 }, func() { r.way[0].to = otherNear }},
		"no such egress": {func() { r.way[0].to = 65536 }, func() { r.way[0].to = otherNear }},
		"an empty egress": {func() { egressOf(l.flows, otherNear).kind = 0 },
			func() { *egressOf(l.flows, otherNear) = egress }},
		"being written":       {func() { r.version++ }, func() { r.version++ }},
		"of an older policy":  {func() { l.control.generation = 1 }, func() { r.generation = 1 }},
		"by another port":     {func() { r.way[0].from = 9 }, func() { r.way[0].from = portID }},
		"of another flow":     {func() { r.nearSrcPort[0]++ }, func() { r.nearSrcPort[0]-- }},
		"of another end":      {func() { r.nearDst[0]++ }, func() { r.nearDst[0]-- }},
		"of another protocol": {func() { r.proto = tcpProto }, func() { r.proto = udpProto }},
		"smaller":             {func() { r.way[0].mtu = 20 + 8 + 8 }, func() { r.way[0].mtu++ }},
	} {
		t.Run(name, func(t *testing.T) {
			packets, size := r.way[0].packets, r.way[0].bytes
			c.spoil()
			l.expectUserspace(t, frame, 0)
			if r.way[0].packets != packets || r.way[0].bytes != size {
				t.Error("a packet that was not carried is counted")
			}
			c.mend()
			l.expectCarried(t, frame, want, 0)
		})
	}
	// Generations wrap.
	r.generation, l.control.generation = 5, 0xfffffff0
	l.expectCarried(t, frame, want, 0)
	r.generation, l.control.generation = 0xfffffff0, 5
	l.expectUserspace(t, frame, 0)
}

// A packet of IPv6 with mapped addresses is not of the flow that IPv4 has with them.
func TestCarryMappedAddresses(t *testing.T) {
	l := newCarryLab(t)
	p := station(l.ifindex)
	p.Router = true
	setPort(t, l.trunk, p)
	mapped := func(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }
	f := plain(ap(peer4, 1), ap(ours4, 2), udpProto)
	l.enter(t, f)
	frame := segment(ap(peer6, 1), ap(ours6, 2), udpProto, nil)
	for _, ends := range [][2]netip.Addr{{mapped(peer4), mapped(ours4)}, {peer6, mapped(ours4)}, {mapped(peer4), ours6}} {
		l.enter(t, plain(ap(ends[0], 1), ap(ends[1], 2), udpProto))
		a, b := ends[0].As16(), ends[1].As16()
		copy(frame[14+8:], join(a[:], b[:]))
		complete(frame)
		l.expectUserspace(t, frame, 0)
	}
}

// Segments that the kernel is to cut are measured by what they become, and counted as one.
func TestCarrySegments(t *testing.T) {
	for _, proto := range []uint8{tcpProto, udpProto} {
		l := newCarryLab(t)
		f := plain(ap(peer4, 1), ap(ours4, 2), proto)
		r := l.enter(t, f)
		frame := segment(f.near[0], f.near[1], proto, make([]byte, 3000))
		header := uint32(len(frame) - 14 - 3000)
		l.expectUserspace(t, frame, 0)
		l.expectUserspace(t, frame, 1501-header)
		l.expectCarried(t, frame, leaving(frame, f.near[0], f.near[1], otherMAC, gatewayMAC), 1500-header)
		if r.way[0].packets != 1 || r.way[0].bytes != uint64(len(frame)-14) {
			t.Errorf("%d packets, %d bytes", r.way[0].packets, r.way[0].bytes)
		}
	}
}

// Padding ends with the link.
func TestCarryTrims(t *testing.T) {
	l := newCarryLab(t)
	f := plain(ap(peer4, 1), ap(ours4, 2), udpProto)
	l.enter(t, f)
	frame := segment(f.near[0], f.near[1], udpProto, []byte("short"))
	l.expectCarried(t, join(frame, make([]byte, 13)), leaving(frame, f.near[0], f.near[1], otherMAC, gatewayMAC), 0)
}

// A pair carries all TCP between two addresses, of which connections that have a record are none, and tells of those
// that begin.
func TestCarryPair(t *testing.T) {
	l := newCarryLab(t)
	f := plain(ap(peer4, 0), ap(ours4, 0), tcpProto)
	f.flags = testPair
	r := l.enter(t, f)
	src, dst := ap(peer4, 1234), ap(ours4, 80)
	frame := segment(src, dst, tcpProto, nil)
	opened := PairOpening{Src: src.Addr(), Dst: dst.Addr(), SrcPort: src.Port(), DstPort: dst.Port(), Port: portID}
	for _, flags := range []byte{0x02, 0xc2, 0x12, 0x10, 0x18} {
		b := with(frame, 14+20+13, flags)
		complete(b)
		l.expectCarried(t, b, leaving(b, src, dst, otherMAC, gatewayMAC), 0)
		l.expectOpenings(t, opened)
	}
	for _, flags := range []byte{0x00, 0x03, 0x06, 0x34} {
		b := with(frame, 14+20+13, flags)
		complete(b)
		l.expectUserspace(t, b, 0)
	}
	l.expectUserspace(t, segment(src, dst, udpProto, nil), 0)
	if r.way[0].packets != 5 {
		t.Errorf("%d packets", r.way[0].packets)
	}
	// A connection of its own, which userspace keeps to itself or not.
	own := plain(src, dst, tcpProto)
	own.mac[0] = [6]byte{2, 0, 0, 0, 0, 8}
	record := l.enter(t, own)
	l.expectCarried(t, frame, leaving(frame, src, dst, own.mac[0], gatewayMAC), 0)
	record.way[0].to = 0
	l.expectUserspace(t, frame, 0)
	fin := with(frame, 14+20+13, 0x11)
	complete(fin)
	l.expectUserspace(t, fin, 0)
}

// expectOpenings compares what is noted, but for when.
func (l *carryLab) expectOpenings(t *testing.T, want ...PairOpening) {
	t.Helper()
	got, err := l.flows.PairOpenings()
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].Used == 0 {
			t.Errorf("%v was opened at no time", got[i])
		}
		got[i].Used = 0
	}
	order := func(a, b PairOpening) int { return int(a.Port) - int(b.Port) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Errorf("openings %v, want %v", got, want)
	}
}

// However many connections are opened from one port, those of others are remembered, and of its own the latest.
func TestCarryPairFlood(t *testing.T) {
	l := newCarryLab(t)
	f := plain(ap(peer4, 0), ap(ours4, 0), tcpProto)
	f.flags = testPair
	l.enter(t, f)
	var others []PairOpening
	for i := range 200 {
		others = append(others, PairOpening{Src: peer4, Dst: ours4, SrcPort: uint16(i + 1), DstPort: 80,
			Port: otherPort + uint32(i%2), Used: 1})
	}
	if err := l.flows.NotePairOpenings(others); err != nil {
		t.Fatal(err)
	}
	const flood = 80000 // more than there is room for in all
	syn := func(i int) PairOpening {
		return PairOpening{Src: peer4, Dst: ours4, SrcPort: uint16(i), DstPort: uint16(i>>16 + 1), Port: portID}
	}
	for i := range flood {
		o := syn(i)
		b := with(segment(ap(o.Src, o.SrcPort), ap(o.Dst, o.DstPort), tcpProto, nil), 14+20+13, 0x02)
		if action, reason, _ := l.run(t, b, 0); reason != Carried {
			t.Fatalf("SYN %d: action %d, %s", i, action, reason)
		}
	}
	list, err := l.flows.PairOpenings()
	if err != nil {
		t.Fatal(err)
	}
	got := map[PairOpening]bool{}
	for _, o := range list {
		if o.Port == portID {
			o.Used = 0
		}
		got[o] = true
	}
	for _, o := range others {
		if !got[o] {
			t.Errorf("%v is forgotten", o)
		}
	}
	if n := len(got) - len(others); n > maxOpenings || n < maxOpenings/2 || !got[syn(flood-1)] {
		t.Errorf("of the flood %d are remembered, the last one: %t", n, got[syn(flood-1)])
	}
}

// Connections of a pair are remembered until both ends have sent a FIN, or one a RST, whoever has opened them.
func TestCarryPairEnds(t *testing.T) {
	const opener, other = 1, 2
	for _, c := range []struct {
		name   string
		ours   uint32 // ends that have sent a FIN before, of the connection that the sender has opened
		theirs uint32 // and of the one that it was asked for
		flags  byte
		stay   bool // both of them
	}{
		{"the first FIN", 0, 0, 0x11, true},
		{"a FIN again", opener, other, 0x11, true},
		{"the second FIN", other, opener, 0x11, false},
		{"RST", 0, 0, 0x04, false},
		{"RST and ACK", 0, 0, 0x14, false},
		{"no more than ACK", other, opener, 0x10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newCarryLab(t)
			f := plain(ap(peer4, 0), ap(ours4, 0), tcpProto)
			f.flags = testPair
			l.enter(t, f)
			src, dst := ap(peer4, 1234), ap(ours4, 80)
			ours := PairOpening{Src: src.Addr(), Dst: dst.Addr(), SrcPort: 1234, DstPort: 80, Port: portID, Used: 1}
			theirs := PairOpening{Src: dst.Addr(), Dst: src.Addr(), SrcPort: 80, DstPort: 1234, Port: otherPort, Used: 1}
			another := PairOpening{Src: src.Addr(), Dst: dst.Addr(), SrcPort: 1235, DstPort: 80, Port: 1 << 20, Used: 1}
			for o, ended := range map[*PairOpening]uint32{&ours: c.ours, &theirs: c.theirs, &another: 0} {
				if err := l.flows.openings[o.Port%openers].Put(keyOfOpening(o), [2]uint32{o.Used, ended}); err != nil {
					t.Fatal(err)
				}
				o.Used = 0
			}
			b := with(segment(src, dst, tcpProto, nil), 14+20+13, c.flags)
			complete(b)
			l.expectCarried(t, b, leaving(b, src, dst, otherMAC, gatewayMAC), 0)
			if c.stay {
				l.expectOpenings(t, ours, theirs, another)
			} else {
				l.expectOpenings(t, another)
			}
		})
	}
}

// Userspace that has said that it is alive, and says so no longer, gets nothing; what is carried goes on.
func TestAbsence(t *testing.T) {
	l := newCarryLab(t)
	f := plain(ap(peer4, 1), ap(ours4, 2), udpProto)
	l.enter(t, f)
	carried := segment(f.near[0], f.near[1], udpProto, nil)
	other := segment(f.near[0], ap(ours4, 3), udpProto, nil)
	expect := func(action uint32, reason Reason, want []byte) {
		t.Helper()
		a, r, after := l.run(t, other, 0)
		if a != action || r != reason || !bytes.Equal(after, want) {
			t.Errorf("action %d, %s, and the frame\n%x, want %d, %s,\n%x", a, r, after, action, reason, want)
		}
		l.expectCarried(t, carried, leaving(carried, f.near[0], f.near[1], otherMAC, gatewayMAC), 0)
	}
	marked := join(other[:6], portMAC, other[12:])
	expect(tcRedirect, FromPort, marked) // it has not begun
	l.control.heart = monotonic(t)
	expect(tcRedirect, FromPort, marked)
	l.control.heart = monotonic(t) + 60e9
	expect(tcRedirect, FromPort, marked)
	l.control.hung = 1 << 1
	expect(tcRedirect, FromPort, marked) // it is not of that queue
	l.control.hung = 1 << 0
	expect(tcShot, AbsentDropped, other)
	l.control.hung, l.control.heart = 0, monotonic(t)-900e6
	expect(tcShot, AbsentDropped, other)
}

func monotonic(t testing.TB) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(now.Nano())
}

// The MAC addresses are such that each repetition meets the same frame but for its TTL, which ends one run of them.
func BenchmarkCarry(b *testing.B) {
	l := newCarryLab(b)
	egressOf(l.flows, otherNear).mac = stationMAC
	for _, six := range []bool{false, true} {
		for _, proto := range []uint8{tcpProto, udpProto} {
			ends := translations(six)["not translated"]
			f := plain(ends[0], ends[1], proto)
			f.mac[0] = gatewayMAC
			l.enter(b, f)
			frame := segment(ends[0], ends[1], proto, nil)
			frame[14+7], frame[14+8] = 255, 255
			if six {
				frame[14+8] = peer6.AsSlice()[0]
			} else {
				frame[14+7] = 0
			}
			complete(frame)
			b.Run(fmt.Sprintf("%d/six %v", proto, six), func(b *testing.B) {
				for n := 0; n < b.N; n += 250 {
					options := ebpf.RunOptions{Data: frame, Repeat: 250, Context: runContext{IfIndex: uint32(l.ifindex)}}
					action, err := l.trunk.fromPort.Run(&options)
					if err != nil || action != tcRedirect {
						b.Fatal(action, err)
					}
				}
			})
		}
	}
}
