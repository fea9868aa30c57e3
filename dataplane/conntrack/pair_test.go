// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// pairRig is a natRig whose table has a kernel's, of which both ends' addresses may be a pair.
type pairRig struct {
	*natRig
	kernel *offload.Table
}

func newPairRig(t testing.TB, v6 bool, records int, cfg Config) *pairRig {
	t.Helper()
	clock := func() int64 { return start }
	kernel, err := offload.New(offload.Config{Memory: offload.NewMemory(records), Clock: clock, Kernel: clock})
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []packet.PortID{portA, portB} {
		if err := kernel.SetEgress(port, offload.Egress{Kind: offload.Pod, IfIndex: int(port)}); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Offload = kernel
	return &pairRig{newNATRig(t, v6, cfg), kernel}
}

var pairWays = [2]offload.Way{{In: portA, Out: portB, MTU: 1500}, {In: portB, Out: portA, MTU: 1500}}

func (r *pairRig) pair() bool { return r.tab.Pair(r.a, r.b, &pairWays, 1, r.now) }

func (r *pairRig) mustPair() {
	r.t.Helper()
	if !r.pair() {
		r.t.Fatal("the pair is not entered")
	}
}

// withdraw takes the pair out, as if policy had changed.
func (r *pairRig) withdraw() {
	r.t.Helper()
	ref, _ := r.kernel.Pair(r.a, r.b, portA)
	r.tab.TakeUp([]AddressPair{PairOf(r.a, r.b)}, r.now)
	if _, ok := r.kernel.Remove(ref); !ok {
		r.t.Fatal("there is no pair")
	}
}

func (r *pairRig) settle() []Connection {
	return r.tab.Settle(map[AddressPair]bool{PairOf(r.b, r.a): true})
}

// segment is one of the client's ('c') or of the server's ('s').
func (r *pairRig) segment(from byte, flags uint8, seq, ack uint32) *packet.Packet {
	r.t.Helper()
	s := tcpSegment{src: 40000, dst: 80, seq: seq, ack: ack, flags: flags, window: 1000, scale: -1}
	if from == 's' {
		s.src, s.dst = s.dst, s.src
	}
	return r.packet(from, packet.ProtoTCP, s.bytes())
}

// sent tracks a segment as coming from the right port, and opens its flow if it is a new one.
func (r *pairRig) sent(from byte, flags uint8, seq, ack uint32) (Seen, verdict.Reason) {
	r.t.Helper()
	return r.rig.see(r.segment(from, flags, seq, ack))
}

// TestPaired: what of a pair's connections comes to userspace is let pass, whatever it is, and leaves nothing behind.
// Other protocols and addresses, and other ports than the pair's, are as ever.
func TestPaired(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newPairRig(t, v6, 8, Config{})
		r.mustPair()
		r.mustPair()
		if st := r.kernel.Stats(); st.Pairs != 1 || st.Records != 1 {
			t.Fatalf("%+v", st)
		}
		for _, from := range []byte("cs") {
			for _, flags := range []uint8{tcpSYN, tcpSYN | tcpACK, tcpACK, tcpFIN | tcpACK, tcpRST, tcpRST | tcpACK} {
				s, reason := r.sent(from, flags, 100, 200)
				if s.Status != NewFlow || !s.Paired || s.Either || reason != verdict.None {
					t.Errorf("%c with flags %#x: %v, paired %t, %v", from, flags, s.Status, s.Paired, reason)
				}
			}
		}
		if n := r.tab.Entries(); n != 0 {
			t.Errorf("%d entries", n)
		}
		if s := r.tab.seen(r.segment('c', tcpACK|tcpRST, 1, 1), portB, r.now, 1); s.Paired || s.Status != Invalid {
			t.Errorf("by another port: %v", s.Status)
		}
		other := r.from(packet.ProtoTCP, packet.Ends{Src: r.other, Dst: r.b, SrcPort: 80, DstPort: 40000},
			tcpSegment{src: 80, dst: 40000, flags: tcpACK, scale: -1}.bytes())
		if s, reason := r.rig.see(other); s.Paired || reason != verdict.TCPWithoutFlow {
			t.Errorf("from another address: %v", reason)
		}
		if s, reason := r.rig.see(r.packet('c', packet.ProtoUDP, udpBytes(1, 2, 3))); s.Paired || reason != verdict.None {
			t.Errorf("UDP: paired %t, %v", s.Paired, reason)
		}
		if n := r.tab.Entries(); n != 1 {
			t.Errorf("%d entries, want that of UDP", n)
		}
	})
}

// TestErrorAboutPaired: an ICMP error about a segment that nobody saw passes if it comes from who got it.
func TestErrorAboutPaired(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newPairRig(t, v6, 8, Config{})
		sent := tcpSegment{src: 40000, dst: 80, seq: 7, flags: tcpACK, scale: -1}.bytes()
		kind, proto := byte(3), packet.ProtoICMP
		if v6 {
			kind, proto = 1, packet.ProtoICMPv6
		}
		about := r.packet('s', proto, icmpError(kind, ipPacket(r.a, r.b, packet.ProtoTCP, sent)))
		if s := r.tab.seen(about, portB, r.now, 1); s.Status != Invalid {
			t.Fatalf("without the pair: %v", s.Status)
		}
		r.mustPair()
		if s := r.tab.seen(about, portB, r.now, 1); s.Status != Related || s.Opener != portB {
			t.Errorf("%v, of port %d", s.Status, s.Opener)
		}
		if s := r.tab.seen(about, portA, r.now, 1); s.Status != Invalid {
			t.Errorf("from another port: %v", s.Status)
		}
		forged := parse(t, ipPacket(r.other, r.a, proto, icmpError(kind, ipPacket(r.a, r.b, packet.ProtoTCP, sent))))
		if s := r.tab.seen(forged, portB, r.now, 1); s.Status != Invalid {
			t.Errorf("from another address: %v", s.Status)
		}
	})
}

// TestSettle: what was under way as a pair was entered neither stays half open, nor stands once the kernel has it; what
// the kernel carries both ways by itself stays.
func TestSettle(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newPairRig(t, v6, 8, Config{})
		r.sent('c', tcpSYN, 100, 0)
		if n := r.tab.limits.ports[portA].handshakes.Load(); n != 1 {
			t.Fatalf("%d handshakes", n)
		}
		r.mustPair() // the answer is the kernel's
		if list := r.tab.TakeEntered(); len(list) != 1 || list[0].AddressPair != PairOf(r.b, r.a) {
			t.Errorf("entered: %v", list)
		}
		want := Connection{Tuple{Src: r.a, Dst: r.b, SrcPort: 40000, DstPort: 80, Proto: packet.ProtoTCP}, portA, portB}
		if list := r.settle(); len(list) != 1 || list[0] != want {
			t.Errorf("settled: %v, want %v", list, want)
		}
		st := r.tab.Stats()
		if st.Entries != 0 || st.HalfOpen != 0 || st.Paired != 1 || st.Opened != st.Closed() {
			t.Errorf("%+v", st)
		}
		if n := r.tab.limits.ports[portA].handshakes.Load(); n != 0 {
			t.Errorf("%d handshakes", n)
		}
		r.withdraw()

		r.establish()
		s, _ := r.sent('c', tcpACK, 101, 201)
		r.carry(&s, 0)
		if list := r.settle(); len(list) != 1 {
			t.Errorf("carried in one direction: %v", list)
		}
		if st := r.kernel.Stats(); st.Records != 0 {
			t.Errorf("its record stays: %+v", st)
		}
		r.establish()
		s, _ = r.sent('c', tcpACK, 101, 201)
		r.carry(&s, 0)
		s, _ = r.sent('s', tcpACK, 201, 101)
		r.carry(&s, 1)
		if list := r.settle(); len(list) != 0 || r.state() != "established" {
			t.Errorf("carried in both: %v, %s", list, r.state())
		}
	})
}

func (r *pairRig) establish() {
	r.t.Helper()
	r.sent('c', tcpSYN, 100, 0)
	r.sent('s', tcpSYN|tcpACK, 200, 101)
	if _, reason := r.sent('c', tcpACK, 101, 201); reason != verdict.None || r.state() != "established" {
		r.t.Fatalf("%v, %s", reason, r.state())
	}
}

func (r *pairRig) carry(s *Seen, d int) {
	r.t.Helper()
	if !s.Carry || !r.tab.Carry(s, &pairWays[d]) {
		r.t.Fatalf("direction %d is not carried (%t)", d, s.Carry)
	}
}

// TestTakeUp: for a minute after a pair was withdrawn its connections are taken up from either end, and no others.
func TestTakeUp(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newPairRig(t, v6, 8, Config{})
		r.mustPair()
		r.withdraw()
		elsewhere := tcpSegment{src: 80, dst: 40000, flags: tcpACK, scale: -1}.bytes()
		for _, row := range []struct {
			after int64
			want  verdict.Reason
		}{{0, verdict.None}, {59 * second, verdict.None}, {60 * second, verdict.TCPWithoutFlow}} {
			r.now = start + row.after
			s := r.tab.seen(r.segment('s', tcpACK, 5, 6), portB, r.now, 1)
			if s.Reason != row.want || row.want == verdict.None && (!s.Reply || s.Tuple.Src != r.a || s.Paired) {
				t.Errorf("after %d s: %v, of %v", row.after/second, s.Reason, s.Tuple)
			}
			other := parse(t, ipPacket(r.other, r.a, packet.ProtoTCP, elsewhere))
			if s := r.tab.seen(other, portB, r.now, 1); s.Reason != verdict.TCPWithoutFlow {
				t.Errorf("after %d s: others: %v", row.after/second, s.Reason)
			}
		}
		r.tab.TakeUp(nil, r.now)
		if left := *r.tab.pairs.withdrawn.Load(); len(left) != 0 {
			t.Errorf("remembered beyond its time: %v", left)
		}
	})
}

// TestRestoreConnection: what a pair has carried goes on as an established flow, wherever its sequence numbers are; or
// is kept quiet at both ends.
func TestRestoreConnection(t *testing.T) {
	both(t, func(t *testing.T, v6 bool) {
		r := newPairRig(t, v6, 8, Config{})
		c := Connection{Tuple{Src: r.a, Dst: r.b, SrcPort: 40000, DstPort: 80, Proto: packet.ProtoTCP}, portA, portB}
		if err := r.tab.RestoreConnection(&c, 1, 42, verdict.None, 0, r.now); err != nil {
			t.Fatal(err)
		}
		if err := r.tab.RestoreConnection(&c, 1, 42, verdict.None, 0, r.now); err == nil {
			t.Error("it is there twice")
		}
		numbers := [2]uint32{1 << 31, 77} // of the server's and of the client's segments
		for i, from := range []byte("scsc") {
			s, reason := r.sent(from, tcpACK, numbers[i%2], numbers[1-i%2])
			if s.Status != Known || !s.Carry || reason != verdict.None {
				t.Errorf("%c: %v, to be carried %t, %v", from, s.Status, s.Carry, reason)
			}
		}
		c.Tuple.SrcPort++
		if err := r.tab.RestoreConnection(&c, 1, 42, verdict.IngressDenied, 0, r.now); err != nil {
			t.Fatal(err)
		}
		for _, from := range []byte("sc") {
			s := tcpSegment{src: 40001, dst: 80, flags: tcpACK, scale: -1}
			if from == 's' {
				s.src, s.dst = s.dst, s.src
			}
			if _, reason := r.rig.see(r.packet(from, packet.ProtoTCP, s.bytes())); reason != verdict.IngressDenied {
				t.Errorf("%c of a denied one: %v", from, reason)
			}
		}
	})
}

// TestRestoreTurned: a connection that policy denies to who opened it does not go on because its other end, which
// policy would let open one, has been taken for the opener meanwhile. One that has been judged as it is stays so.
func TestRestoreTurned(t *testing.T) {
	r := newPairRig(t, false, 8, Config{})
	c := Connection{Tuple{Src: r.a, Dst: r.b, SrcPort: 40000, DstPort: 80, Proto: packet.ProtoTCP}, portA, portB}
	turned := Connection{Tuple{Src: r.b, Dst: r.a, SrcPort: 80, DstPort: 40000, Proto: packet.ProtoTCP}, portB, portA}
	if err := r.tab.RestoreConnection(&turned, 1, 42, verdict.None, 0, r.now); err != nil {
		t.Fatal(err)
	}
	if err := r.tab.RestoreConnection(&turned, 1, 42, verdict.IngressDenied, 0, r.now); err == nil {
		t.Error("it is revoked for its own opener")
	}
	if _, reason := r.sent('s', tcpACK, 5, 6); reason != verdict.None {
		t.Fatal(reason)
	}
	if err := r.tab.RestoreConnection(&c, 1, 42, verdict.IngressDenied, 0, r.now); err != nil {
		t.Error(err)
	}
	for _, from := range []byte("sc") {
		if _, reason := r.sent(from, tcpACK, 5, 6); reason != verdict.IngressDenied {
			t.Errorf("%c: %v", from, reason)
		}
	}
}

// TestPairRace: however a pair and translated flows between its addresses come about, each such flow has its ends
// claimed while there is the pair, and nothing is left over.
func TestPairRace(t *testing.T) {
	r := newPairRig(t, false, 4096, Config{})
	stood := 0
	for round := range 2000 {
		ends := packet.Ends{Src: r.a, Dst: r.front(1), SrcPort: uint16(1000 + round), DstPort: 80}
		opens := r.from(packet.ProtoTCP, ends, tcpSegment{src: ends.SrcPort, dst: 80, flags: tcpSYN, scale: -1}.bytes())
		var both sync.WaitGroup
		var ready atomic.Int32
		together := func(f func()) {
			both.Go(func() {
				for ready.Add(1); ready.Load() < 2; { // so that both begin within nanoseconds
				}
				f()
			})
		}
		var s Seen
		wait := func(n int) {
			for range n {
				r.tab.pairs.between.some(&r.tab.keys, r.a, r.b)
			}
		}
		together(func() {
			wait(round * 7 % 1009)
			s = r.tab.seen(opens, portA, r.now, 1)
			tr := Translation{Dst: r.b, DstPort: 8080, Backend: 1}
			if reason := r.tab.OpenTranslated(&s, opens, portA, portB, r.now, 1, 42, &tr); reason != verdict.None {
				t.Error(reason)
			}
		})
		together(func() {
			wait(round % 31)
			r.pair()
		})
		both.Wait()
		if ref, _ := r.kernel.Pair(r.a, r.b, portA); ref != 0 {
			stood++
			_, reply := r.kernel.Find(s.Ends.Reverse(), packet.ProtoTCP, portB)
			if own, _ := r.kernel.Find(s.Ends, packet.ProtoTCP, portA); own == 0 || reply != 1 {
				t.Fatalf("round %d: the pair has the ends of a translated flow", round)
			}
			r.withdraw()
		}
		s = r.tab.seen(opens, portA, r.now, 1)
		r.tab.Drop(&s)
		if st := r.kernel.Stats(); st.Records != 0 {
			t.Fatalf("round %d: %d records are left", round, st.Records)
		}
		if r.tab.pairs.between.some(&r.tab.keys, r.a, r.b) {
			t.Fatalf("round %d: flows are counted that are gone", round)
		}
	}
	t.Logf("the pair stood in %d rounds, and had to give way in %d", stood, len(r.tab.TakeDropped()))
}
