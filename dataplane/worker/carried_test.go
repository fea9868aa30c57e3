// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/internal/netlab"
	"github.com/viaduct-net/viaduct/internal/testenv"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// twins are two worlds with the same tables. One has the kernel carry what it may: a packet of a port goes through the
// hook's program first, and to the worker only if that says so. The other one's worker sees every packet. What leaves
// has to be the same, byte for byte, and so has the reason for what does not.
type twins struct {
	*world                    // whose flows the kernel carries
	whole   *world            // whose are not
	host    *netlab.Namespace // in which the ports' devices are
	program *ebpf.Program
	ifindex map[packet.PortID]uint32
	table   *offload.Table
	carried int // packets
	begun   int // of them SYN-ACKs
	ended   int // and FINs
	strayed int // number of the talk of which the last packet was outside of the window, or -1
	strays  int
	genuine bool // connections do nothing that ends of TCP do not: nothing strays
	endless bool // connections begin once and do not end
}

// the ports that packets of a twin come by.
var twinPorts = []string{"a", "b", "c", "host"}

func newTwins(t testing.TB, v6 bool) *twins {
	t.Helper()
	w := &twins{world: newWorld(t, v6), whole: newWorld(t, v6), ifindex: map[packet.PortID]uint32{}}
	lab := netlab.New()
	t.Cleanup(func() { _ = lab.Close() })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	host, err := lab.Namespace("host")
	must(err)
	pods, err := lab.Namespace("pods")
	must(err)
	for _, name := range append([]string{"trunk"}, twinPorts...) {
		must(lab.Veth(netlab.End{In: host, Device: "v" + name}, netlab.End{In: pods, Device: "p" + name}))
	}
	w.host = host
	must(host.Do(func() error { return w.load(host) }))
	for _, x := range []*world{w.world, w.whole} {
		x.node.Offload = true
		for _, line := range []string{"service s tcp", "frontend s cluster vip:80", "backend s c:8080",
			"service u udp", "frontend u cluster vip:53", "backend u c:5353"} {
			x.do(line)
		}
		x.renew()
	}
	w.begin(t)
	return w
}

// begin forgets all flows.
func (w *twins) begin(t testing.TB) {
	for _, x := range []*world{w.world, w.whole} {
		x.t = t
	}
	for ref := range w.table.All() {
		w.table.Remove(ref)
	}
	w.carried, w.begun, w.ended, w.strayed, w.strays = 0, 0, 0, -1, 0
	seed := conntrack.Seed{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	w.worker.flows = conntrack.New(conntrack.Config{Flows: 4096, PerPort: 4096, Seed: &seed, Offload: w.table,
		Left: func(backend uint32, answered bool) { w.tables.Load().Backends.Left(backend, answered) }})
	w.worker.pipeline.Init(w.worker.flows, nil)
	w.whole.worker.flows = conntrack.New(conntrack.Config{Flows: 4096, PerPort: 4096, Seed: &seed,
		Left: func(backend uint32, answered bool) { w.whole.tables.Load().Backends.Left(backend, answered) }})
	w.whole.worker.pipeline.Init(w.whole.worker.flows, nil)
}

func (w *twins) load(host *netlab.Namespace) error {
	flows, err := xdpprog.LoadFlowTable(xdpprog.FlowTableOptions{Records: 1024})
	if err != nil {
		return err
	}
	w.t.Cleanup(func() { _ = flows.Close() })
	trunk, err := xdpprog.LoadTrunk(xdpprog.TrunkOptions{MaxPorts: 16, Flows: flows})
	if err != nil {
		return err
	}
	w.t.Cleanup(func() { _ = trunk.Close() })
	inner, err := host.Links().LinkByName("vtrunk")
	if err != nil {
		return err
	}
	if err := trunk.Attach(inner.Attrs().Index, 1); err != nil {
		return err
	}
	if w.table, err = offload.New(offload.Config{Memory: offload.Memory(flows.Memory()),
		Clock: func() int64 { return w.now }, Kernel: monotonic}); err != nil {
		return err
	}
	w.table.SetCarry(true)
	w.table.Beat()
	for _, name := range twinPorts {
		link, err := host.Links().LinkByName("v" + name)
		if err != nil {
			return err
		}
		at := link.Attrs().Index
		port := xdpprog.TrunkPort{ID: uint32(worldPorts[name]), IfIndex: at, MAC: hostMACs[0]}
		e := offload.Egress{Kind: offload.Pod, IfIndex: at, MAC: packet.GatewayMAC}
		if name == "host" {
			port.Router, port.Host, port.HostIfIndex = true, true, at
			e.Kind = offload.Host
		} else {
			port.Addresses = append(port.Addresses, w.addr(name).Netip())
		}
		if err := trunk.SetPort(port); err != nil {
			return err
		}
		if err := w.table.SetEgress(worldPorts[name], e); err != nil {
			return err
		}
		w.ifindex[worldPorts[name]] = uint32(at)
	}
	return w.find(int(w.ifindex[worldPorts["a"]]))
}

func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // of the kernel's own clocks none fails
	return now.Nano()
}

// find takes the program from the device that it is attached to.
func (w *twins) find(ifindex int) error {
	at := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	filters, err := netlink.FilterList(at, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return err
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok {
			if w.program, err = ebpf.NewProgramFromID(ebpf.ProgramID(b.Id)); err != nil {
				return err
			}
			w.t.Cleanup(func() { _ = w.program.Close() })
			return nil
		}
	}
	return fmt.Errorf("device %d has no hook", ifindex)
}

// hook runs the program, and returns what it makes of a port's frame; nil: it drops it.
func (w *twins) hook(port packet.PortID, frame []byte) []byte {
	w.t.Helper()
	const redirect = 7 // linux/pkt_cls.h
	// It begins as struct __sk_buff does.
	context := struct {
		_       [10]uint32
		IfIndex uint32
	}{IfIndex: w.ifindex[port]}
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Context: context}
	var action uint32
	err := w.host.Do(func() (err error) { action, err = w.program.Run(&options); return err })
	if err != nil {
		w.t.Fatal(err)
	}
	if action != redirect {
		return nil
	}
	return options.DataOut
}

// left is what leaves a world, each with the reason of what was decided last in front.
func (w *world) left(port packet.PortID, frame []byte) (all [][]byte, reason verdict.Reason) {
	w.t.Helper()
	w.inject(1, onTrunk(port, slices.Clone(frame)))
	w.poll()
	return append(w.sent(0), w.sent(1)...), w.decided.Reason
}

// send has a frame of a port go through both worlds, and returns what the one says whose worker sees every packet.
func (w *twins) send(port packet.PortID, frame []byte) verdict.Reason {
	w.t.Helper()
	w.table.Beat()
	copy(frame, packet.GatewayMAC[:])
	made := w.hook(port, slices.Clone(frame))
	want, why := w.whole.left(port, frame)
	if made == nil {
		w.t.Fatalf("the hook drops %x", frame)
	}
	marked := packet.TrunkMAC(port)
	if bytes.Equal(made[6:12], marked[:]) { // to userspace
		if !bytes.Equal(made[12:], frame[12:]) {
			w.t.Fatalf("the hook changes what is for userspace: %x to %x", frame, made)
		}
		got, reason := w.world.left(port, frame)
		if !w.genuine && (why == verdict.TCPOutOfWindow || reason == verdict.TCPOutOfWindow) {
			return verdict.TCPOutOfWindow
		}
		if reason != why || !slices.EqualFunc(got, want, bytes.Equal) {
			w.t.Fatalf("%x:\n%v %x leaves the worker whose flows the kernel carries,\n%v %x the other one", frame,
				reason, got, why, want)
		}
		return why
	}
	w.count(frame)
	w.now += 1e6 // of the pass that there was not
	if !w.genuine && why == verdict.TCPOutOfWindow {
		return why
	}
	if why != verdict.Routed || len(want) != 1 {
		w.t.Fatalf("the kernel carries %x, of which the pipeline says %v", frame, why)
	}
	to := packet.TrunkPort(packet.MAC(want[0][:6])) // to_port gives it the station's MAC
	copy(want[0], w.tables.Load().Port(to).Station.Own[:])
	if !bytes.Equal(made, want[0]) {
		w.t.Fatalf("%x to port %d:\nthe kernel makes %x,\nthe pipeline %x", frame, to, made, want[0])
	}
	return why
}

// count counts what the kernel has carried.
func (w *twins) count(frame []byte) {
	w.carried++
	p := packet.Packet{Frame: frame, End: len(frame)}
	if p.Parse() != verdict.None || p.Proto != packet.ProtoTCP {
		return
	}
	switch flags := frame[p.L4+13]; {
	case flags&tcpSYN != 0:
		w.begun++
	case flags&tcpFIN != 0:
		w.ended++
	}
}

// same compares the connections of both worlds: their states, and what each has counted.
func (w *twins) same() {
	w.t.Helper()
	w.worker.flows.TakeNews()
	whole := map[conntrack.Tuple]string{}
	say := func(f *conntrack.Flow) string {
		return fmt.Sprint(f.State, f.Sent, f.Replied, f.In, f.Out, f.Translated)
	}
	for f := range w.whole.worker.flows.All(w.whole.now) {
		if f.Tuple.Proto != packet.ProtoTCP { // how long ago a packet was carried is known to 17 ms
			continue
		}
		whole[f.Tuple] = say(&f)
	}
	for f := range w.worker.flows.All(w.now) {
		if f.Tuple.Proto != packet.ProtoTCP {
			continue
		}
		if got, want := say(&f), whole[f.Tuple]; got != want {
			w.t.Fatalf("flow %v:\n%s where the kernel carries,\n%s where all is seen", f.Tuple, got, want)
		}
		delete(whole, f.Tuple)
	}
	if len(whole) > 0 {
		w.t.Fatalf("flows that are unknown where the kernel carries: %v", whole)
	}
	is, was := w.worker.flows.Stats(), w.whole.worker.flows.Stats()
	if is.HalfOpen != was.HalfOpen || is.Opened != was.Opened || is.Reopened != was.Reopened {
		w.t.Fatalf("%+v where the kernel carries,\n%+v where all is seen", is, was)
	}
}

// talk is a connection, and where its ends are in it.
type talk struct {
	proto    packet.IPProto
	near     string // port of the opener
	src, dst string // as the opener sends
	far      string // port of the other end
	from, to string // as the other end sends
	seq      [2]uint32
	first    [2]uint32
	acked    [2]uint32 // of seq, by what the other end sent last
}

// window is what an end may send that is not acknowledged yet, bytes: less than both ends offer.
const window = 60000

// talks are all of them. More are between other ports, so that none has a flow yet.
func talks(more int) []*talk {
	a, b := 1000+more, 1001+more
	none := [2]uint32{}
	all := []*talk{
		{packet.ProtoTCP, "a", at("a", a), "b:5000", "b", "b:5000", at("a", a), [2]uint32{100, 5000}, none, none},
		{packet.ProtoTCP, "a", at("a", b), "vip:80", "c", "c:8080", at("a", b), [2]uint32{1 << 31, 1<<32 - 50}, none, none},
		{packet.ProtoTCP, "host", at("client", a), "vip:80", "c", "c:8080", at("client", a), [2]uint32{7, 8}, none, none},
		{packet.ProtoTCP, "b", at("b", a), "remote:443", "host", "remote:443", at("b", a), [2]uint32{1, 1 << 30}, none, none},
		{packet.ProtoUDP, "a", at("a", a), "b:5000", "b", "b:5000", at("a", a), none, none, none},
		{packet.ProtoUDP, "b", at("b", b), "vip:53", "c", "c:5353", at("b", b), none, none, none},
		{packet.ProtoUDP, "host", at("remote", a), "a:9", "a", "a:9", at("remote", a), none, none, none},
	}
	for _, c := range all {
		c.first, c.acked = c.seq, c.seq
	}
	return all
}

func at(name string, port int) string { return fmt.Sprint(name, ":", port) }

const tcpSYN, tcpFIN, tcpRST, tcpPSH, tcpACK = 0x02, 0x01, 0x04, 0x08, 0x10

// step is one packet of a talk: which, in which direction, and how it is odd.
type step struct{ talk, back, kind, size byte }

const steps = 24 // kinds of packets

// play has a step's packet go through the worlds.
func (w *twins) play(all []*talk, s step) {
	w.t.Helper()
	c, d := all[int(s.talk)%len(all)], int(s.back&1)
	if c.seq[d]-c.acked[d] > window {
		d = 1 - d
	}
	src, dst, port := c.src, c.dst, c.near
	if d == 1 {
		src, dst, port = c.from, c.to, c.far
	}
	size := int(s.size) * 5
	flags, ack := byte(tcpACK), c.seq[1-d]
	ttl, options, tos := byte(64), 0, byte(0)
	fragment, zero := uint16(0x4000), false
	take := size
	if kind := s.kind % steps; w.endless && (kind <= 3 || kind == 12) &&
		c.seq[0] != c.first[0] && c.seq[1] != c.first[1] {
		s.kind = 14
	}
	switch s.kind % steps {
	case 0, 1:
		flags, size, take = tcpSYN, 0, 0
		if c.seq[d] == c.first[d] {
			take = 1
		}
		if d == 1 {
			flags |= tcpACK
		} else {
			ack = 0
		}
	case 2:
		flags, size, take = tcpFIN|tcpACK, 0, 1
	case 3:
		if s.size%8 == 0 {
			flags, size, take = tcpRST, 0, 0
		}
	case 4:
		ttl = s.size % 3
	case 5:
		options = 4 * int(s.size%3)
	case 6:
		fragment = 0x2000
		take = 0
	case 7:
		fragment = 0
	case 8:
		tos = s.size
	case 9:
		size = 1440 + int(s.size%32) // about the MTU
	case 10:
		flags |= tcpPSH
	case 11:
		zero = c.proto == packet.ProtoUDP && !w.v6
	case 12:
		flags, size, take = []byte{0, tcpSYN | tcpFIN, tcpSYN | tcpRST, tcpFIN, 0x3f, 0xd0}[s.size%6], 0, 0
	case 13:
		if uint32(s.size) < ack-c.first[1-d] {
			ack -= uint32(s.size)
		}
	}
	from, fromPort := w.end(src)
	to, toPort := w.end(dst)
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, fromPort), toPort)
	sum := 6
	if c.proto == packet.ProtoTCP {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, c.seq[d]), ack)
		b = append(b, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
		sum = 16
	} else {
		b = append(binary.BigEndian.AppendUint16(b, uint16(wireUDP+size)), 0, 0)
	}
	for i := range size {
		b = append(b, byte(i)^s.size)
	}
	if !zero {
		v := ^packet.Fold(packet.Sum(b, packet.PseudoSum(from, to, c.proto, len(b))))
		if v == 0 && c.proto == packet.ProtoUDP {
			v = 0xffff
		}
		binary.BigEndian.PutUint16(b[sum:], v)
	}
	switch w.send(worldPorts[port], w.frame(w.wrap(from, to, c.proto, ttl, tos, options, fragment, b))) {
	case verdict.Routed:
	case verdict.TCPOutOfWindow:
		w.strayed = int(s.talk) % len(all)
		return
	default:
		return
	}
	c.seq[d] += uint32(take)
	if flags&tcpACK != 0 && int32(ack-c.acked[1-d]) > 0 {
		c.acked[1-d] = ack
	}
}

// wrap puts an IP header in front.
func (w *twins) wrap(from, to packet.Addr, proto packet.IPProto, ttl, tos byte, options int, fragment uint16,
	b []byte) []byte {
	if w.v6 {
		s, d := from.Netip().As16(), to.Netip().As16()
		next := byte(proto)
		if fragment == 0x2000 {
			b = append([]byte{next, 0, 0, 1, 0, 0, 0, 77}, b...)
			next = 44
		}
		if options > 0 {
			b = append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, b...) // PadN
			next = 60
		}
		h := binary.BigEndian.AppendUint16([]byte{0x60 | tos>>4, tos << 4, 0, 0}, uint16(len(b)))
		return slices.Concat(append(h, next, ttl), s[:], d[:], b)
	}
	s, d := from.Netip().As4(), to.Netip().As4()
	h := binary.BigEndian.AppendUint16([]byte{0x45 + byte(options/4), tos}, uint16(20+options+len(b)))
	h = binary.BigEndian.AppendUint16(append(h, 0, 77), fragment)
	h = slices.Concat(append(h, ttl, byte(proto), 0, 0), s[:], d[:], bytes.Repeat([]byte{1}, options)) // no operation
	binary.BigEndian.PutUint16(h[10:], ^packet.Fold(packet.Sum(h, 0)))
	return append(h, b...)
}

// open has every talk begin as it should.
func (w *twins) open(all []*talk) {
	for i := range all {
		w.openOne(all, i)
	}
}

func (w *twins) openOne(all []*talk, i int) {
	for _, s := range []step{{0, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 14, 0}, {0, 1, 14, 3}, {0, 0, 14, 4}, {0, 1, 14, 5}} {
		s.talk = byte(i)
		if all[i].proto != packet.ProtoTCP {
			s.kind = 14
		}
		w.play(all, s)
	}
}

// renewed puts a talk in a strayed one's place. Of windows the kernel knows less than the pipeline: what it carried
// beyond them may have both worlds differ about that connection from then on.
func (w *twins) renewed(all []*talk) {
	if i := w.strayed; i >= 0 {
		w.strayed = -1
		w.strays++
		all[i] = talks(10 * w.strays)[i]
		w.openOne(all, i)
	}
}

// TestCarriedIsJudged: random sequences of packets, regular ones and odd ones, come out the same whether the kernel
// carries what it may or the pipeline sees all.
func TestCarriedIsJudged(t *testing.T) {
	testenv.Root(t)
	for _, v6 := range []bool{false, true} {
		for _, genuine := range []bool{true, false} {
			name := map[bool]string{false: "IPv4", true: "IPv6"}[v6] + map[bool]string{false: " odd", true: ""}[genuine]
			t.Run(name, func(t *testing.T) { isJudged(t, v6, genuine) })
		}
	}
}

func isJudged(t *testing.T, v6, genuine bool) {
	w := newTwins(t, v6)
	w.genuine, w.endless = genuine, genuine
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	t.Log("seed", seed)
	all := talks(0)
	w.open(all)
	opened := w.carried
	for range 10000 {
		w.play(all, step{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())})
		w.renewed(all)
		if genuine && r.IntN(100) == 0 {
			w.same()
		}
		if r.IntN(500) == 0 {
			w.rejudge(r.IntN(2) == 0)
		}
	}
	t.Logf("%d packets were carried, of them %d SYN-ACKs and %d FINs; %d connections strayed", w.carried, w.begun,
		w.ended, w.strays)
	if opened == 0 || w.carried < 1000 || w.begun == 0 || !genuine && w.ended == 0 || genuine && w.strays > 0 {
		t.Errorf("%d packets were carried of talks that began, %d in all; %d strayed", opened, w.carried, w.strays)
	}
}

// rejudge changes policy: what was carried under the one before has to be judged again.
func (w *twins) rejudge(strict bool) {
	for _, x := range []*world{w.world, w.whole} {
		x.policy, x.peers = nil, nil
		if strict {
			x.only("a", "b")
		}
		x.changed = true
		x.renew()
	}
	w.table.SetGeneration(w.tables.Load().Policy.Generation)
}

// FuzzCarriedIsJudged is TestCarriedIsJudged of sequences that the fuzzer finds.
func FuzzCarriedIsJudged(f *testing.F) {
	testenv.Root(f)
	f.Add(true, []byte{0, 0, 3, 0, 0, 0, 14, 9, 0, 1, 14, 9, 1, 1, 2, 0, 1, 0, 14, 1, 1, 0, 2, 0, 1, 1, 14, 1})
	f.Add(false, []byte{4, 0, 9, 31, 5, 1, 11, 0, 2, 1, 4, 1, 2, 0, 5, 2, 0, 1, 12, 3, 0, 1, 13, 200})
	of := map[bool]*twins{false: newTwins(f, false), true: newTwins(f, true)}
	f.Fuzz(func(t *testing.T, v6 bool, data []byte) {
		w, all := of[v6], talks(0)
		w.begin(t)
		w.open(all)
		for ; len(data) >= 4; data = data[4:] {
			w.play(all, step{data[0], data[1], data[2], data[3]})
			w.renewed(all)
		}
	})
}
