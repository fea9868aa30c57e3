// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// inPieces cuts the UDP packet of udp into fragments of size bytes, as its source would have.
func inPieces(t testing.TB, src, dst string, id uint32, whole, size int) (all [][]byte) {
	t.Helper()
	data := udp(t, 1, src, dst, whole-8, nil)
	header := 14 + 20
	if !netip.MustParseAddr(src).Is4() {
		header = 14 + 40
	}
	for at := 0; at < whole; at += size {
		end := min(at+size, whole)
		all = append(all, fragmentOf(t, src, dst, id, at, data[header+at:header+end], end < whole))
	}
	return all
}

// fragmentOf builds a fragment with what is at an offset of its datagram.
func fragmentOf(t testing.TB, src, dst string, id uint32, offset int, payload []byte, more bool) []byte {
	t.Helper()
	from, to := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	eth := &layers.Ethernet{SrcMAC: hostMACs[0][:], DstMAC: portMACs[0][:], EthernetType: layers.EthernetTypeIPv4}
	if from.Is4() {
		h := &layers.IPv4{Version: 4, TTL: 64, Id: uint16(id), Protocol: layers.IPProtocolUDP,
			SrcIP: net.IP(from.AsSlice()), DstIP: net.IP(to.AsSlice()), FragOffset: uint16(offset / 8)}
		if more {
			h.Flags = layers.IPv4MoreFragments
		}
		return build(t, eth, h, gopacket.Payload(payload))
	}
	eth.EthernetType = layers.EthernetTypeIPv6
	h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolIPv6Fragment,
		SrcIP: net.IP(from.AsSlice()), DstIP: net.IP(to.AsSlice())}
	b := append([]byte{17, 0}, binary.BigEndian.AppendUint16(nil, uint16(offset))...)
	if more {
		b[3] |= 1
	}
	b = binary.BigEndian.AppendUint32(b, id)
	return build(t, eth, h, gopacket.Payload(append(b, payload...)))
}

var families = []struct{ name, a, b, host string }{
	{"IPv4", "10.244.1.7", "10.244.1.8", "8.8.8.8"}, {"IPv6", "fd00:244::7", "fd00:244::8", "2001:db8::1"},
}

// come has fragments of a datagram come by the trunk in an order, and returns their numbers in the order in which they
// left it.
func (r *rig) come(from packet.PortID, all [][]byte, order ...int) []int {
	r.t.Helper()
	for _, i := range order {
		r.inject(1, onTrunk(from, slices.Clone(all[i])))
	}
	r.poll()
	return r.whichLeft(all)
}

func (r *rig) whichLeft(all [][]byte) (left []int) {
	r.t.Helper()
	for _, data := range r.sent(1) {
		i := slices.IndexFunc(all, func(o []byte) bool {
			ttl, rest := 22, 26 // where it is, and where what is not rewritten goes on
			if o[12] == 0x86 {
				ttl, rest = 21, 22
			}
			return bytes.Equal(o[14:ttl], data[14:ttl]) && bytes.Equal(o[rest:], data[rest:])
		})
		left = append(left, i)
	}
	return left
}

func TestFragmentsFollowTheFirst(t *testing.T) {
	for _, f := range families {
		for _, row := range []struct {
			name        string
			order, left []int
			held        uint64
			overlaps    uint64
		}{
			{"in order", []int{0, 1, 2, 3}, []int{0, 1, 2, 3}, 0, 0},
			{"backwards", []int{3, 2, 1, 0}, []int{0, 3, 2, 1}, 0, 0},
			{"the first second", []int{1, 0, 2, 3}, []int{0, 1, 2, 3}, 0, 0},
			{"the first missing", []int{1, 2, 3}, nil, 3, 0},
			{"repeated", []int{0, 1, 1, 2, 3}, []int{0, 1, 2, 3}, 0, 1},
			{"overlapping", []int{0, 4, 1, 2, 3}, []int{0}, 0, 4},
			{"overlapping what waits", []int{1, 4, 2, 0}, nil, 0, 4},
		} {
			r := podRig(t)
			all := inPieces(t, f.a, f.b, 77, 3000, 800)
			all = append(all, fragmentOf(t, f.a, f.b, 77, 792, make([]byte, 800), true))
			if left := r.come(podA, all, row.order...); !slices.Equal(left, row.left) {
				t.Errorf("%s, %s: %v left, want %v", f.name, row.name, left, row.left)
			}
			if held, n := r.held(), r.count(podA, verdict.FragmentOverlap); held != row.held || n != row.overlaps {
				t.Errorf("%s, %s: %d wait, %d overlap", f.name, row.name, held, n)
			}
		}
	}
}

// What was denied of the first is denied of those that wait and of those that come, and counted as that.
func TestFragmentsOfADeniedFirst(t *testing.T) {
	for _, f := range families {
		r := podRig(t)
		all := inPieces(t, f.a, f.b, 77, 3000, 800)
		r.come(podA, all, 1, 3)
		first := packet.Packet{Frame: onTrunk(podA, slices.Clone(all[0])), End: len(all[0])}
		if reason := first.Parse(); reason != verdict.None {
			t.Fatal(reason)
		}
		first.In = podA
		table := r.worker.pipeline.Fragments()
		datagram, reason := table.Enter(&first)
		if reason != verdict.None {
			t.Fatal(reason)
		}
		table.Judge(datagram, verdict.IngressDenied)
		if left := r.come(podA, all); len(left) != 0 {
			t.Errorf("%s: %v of those that waited left", f.name, left)
		}
		if left := r.come(podA, all, 2); len(left) != 0 {
			t.Errorf("%s: %v of those that came left", f.name, left)
		}
		if n := r.count(podA, verdict.IngressDenied); n != 3 || r.held() != 0 {
			t.Errorf("%s: %d are denied, %d wait", f.name, n, r.held())
		}
	}
}

func TestFirstFragmentDoesNotCome(t *testing.T) {
	for _, f := range families {
		r := podRig(t)
		all := inPieces(t, f.a, f.b, 77, 3000, 800)
		r.come(podA, all, 1, 2)
		r.now += 990e6
		r.come(podA, all)
		if r.held() != 2 {
			t.Fatalf("%s: %d wait", f.name, r.held())
		}
		r.now += 10e6
		r.come(podA, all, 3)
		if n := r.count(podA, verdict.FragmentTimeout); n != 3 || r.held() != 0 {
			t.Errorf("%s: %d ran out of time, %d wait", f.name, n, r.held())
		}
	}
}

// A flood of fragments without their first fills a pod's own share: another's wait and go on as ever, and packets come
// in as ever.
func TestFragmentFlood(t *testing.T) {
	for _, f := range families {
		r := podRig(t)
		theirs := inPieces(t, f.b, f.host, 5, 3000, 800)
		flood := func(from uint32) {
			for i := range uint32(300) {
				r.inject(1, onTrunk(podA, fragmentOf(t, f.a, f.host, from+i, 800, make([]byte, 800), true)))
			}
			r.poll()
			r.poll()
		}
		flood(0)
		if left := r.come(podB, theirs, 2, 1); len(left) != 0 {
			t.Fatalf("%s: %v left", f.name, left)
		}
		for i := range uint32(10) {
			flood(300 + 300*i)
		}
		if left := r.come(podB, theirs, 0, 3); !slices.Equal(left, []int{0, 2, 1, 3}) {
			t.Errorf("%s: %v left", f.name, left)
		}
		if n := r.held(); n != 64 || r.count(podA, verdict.FragmentQueueFull) != 300*11-n {
			t.Errorf("%s: %d wait, %d found no room", f.name, n, r.count(podA, verdict.FragmentQueueFull))
		}
		r.worker.RemoveDevice(0)
		r.worker.shutdown()
		if free := r.pool.Free(); free != rigChunks || r.held() != 0 ||
			r.count(podA, verdict.PortClosed) != 64 {
			t.Errorf("%s: %d of %d frames came back, %d wait", f.name, free, rigChunks, r.held())
		}
	}
}

// What waits has its share of the frames, however large the fragments are.
func TestLargeFragmentsLeaveFrames(t *testing.T) {
	r := podRig(t)
	r.mtu = [2]int{65535, 65535}
	r.apply(podNode)
	for i := range uint32(60) {
		r.inject(1, onTrunk(podA, fragmentOf(t, families[0].a, families[0].host, i, 800, make([]byte, 40000), true)))
		r.poll()
	}
	if n := r.held(); n != 5 || r.count(podA, verdict.FragmentQueueFull) != 55 { // of 11 frames each; 64 are a port's
		t.Errorf("%d wait, %d found no room", n, r.count(podA, verdict.FragmentQueueFull))
	}
}

// A fragment that waited for something else after it was let on is no repetition of itself.
func TestFragmentsArePaced(t *testing.T) {
	for _, f := range families {
		r := newRig(t, func(s *api.Snapshot) {
			podNode(s)
			s.Limits = []*api.Limit{{Port: podA, FromPortBitsPerSecond: 8e6, FromPortBurstBytes: 1000}}
		})
		all := inPieces(t, f.a, f.b, 77, 8000, 800)
		r.come(podA, all, 9, 8, 7, 6, 5, 4, 3, 2, 1) // nothing of it is paced yet
		if r.held() != 9 {
			t.Fatalf("%s: %d wait", f.name, r.held())
		}
		left := r.come(podA, all, 0)
		if n := len(left); n == 10 {
			t.Fatalf("%s: nothing is paced", f.name)
		}
		for range 20 {
			left = append(left, r.come(podA, all)...)
		}
		if !slices.Equal(left, []int{0, 9, 8, 7, 6, 5, 4, 3, 2, 1}) || r.held() != 0 {
			t.Errorf("%s: %v left, %d wait", f.name, left, r.held())
		}
	}
}

// The same of those that wait for a neighbour: from a pod to a host on the link of a port without a station.
func TestFragmentsWaitForTheNeighbour(t *testing.T) {
	for _, f := range families {
		r := newRig(t, func(s *api.Snapshot) {
			podNode(s)
			s.Ports[0] = &api.Port{Id: podDirect, Name: "link", Device: "dev0",
				Addresses: []*api.Prefix{prefix("10.244.1.5/24"), prefix("fd00:244::5/112")}}
			s.Groups = slices.DeleteFunc(s.Groups, func(g *api.NextHopGroup) bool { return g.Id == podDirect })
			s.Routes = slices.DeleteFunc(s.Routes, func(to *api.Route) bool { return to.Group == podDirect })
			sortRoutes(s.Routes)
		})
		there := map[string]string{"IPv4": "10.244.1.99", "IPv6": "fd00:244::99"}[f.name]
		all := inPieces(t, f.a, there, 77, 3000, 800)
		r.come(podA, all, 1, 0, 2, 3)
		if r.held() != 4 {
			t.Fatalf("%s: %d wait", f.name, r.held())
		}
		a := packet.AddrFrom(netip.MustParseAddr(there))
		r.sent(0)
		r.neighbors.Learn(podDirect, a, hostMACs[0], 0, r.now)
		r.poll()
		var left []int
		for _, data := range r.sent(0) {
			p := packet.Packet{Frame: data, End: len(data)}
			if p.Parse() == verdict.None {
				left = append(left, p.Piece().Offset/800)
			}
		}
		if !slices.Equal(left, []int{0, 1, 2, 3}) || r.held() != 0 || r.count(podA, verdict.FragmentOverlap) != 0 {
			t.Errorf("%s: %v left, %d wait", f.name, left, r.held())
		}
	}
}

// Between ports without stations fragments are forwarded as they come, and nothing is kept of them; to the dataplane
// itself they are dropped as ever.
func TestRouterLeavesFragmentsAlone(t *testing.T) {
	for _, row := range []struct{ src, dst, local string }{
		{"10.1.0.2", "10.20.0.1", "10.1.0.1"}, {"fd00:1::2", "fd00:20::1", "fd00:1::1"},
	} {
		r := newRig(t, nil).know()
		all := inPieces(t, row.src, row.dst, 77, 3000, 800)
		all = append(all, fragmentOf(t, row.src, row.dst, 77, 792, make([]byte, 800), true))
		for _, i := range []int{3, 4, 2, 2, 1} {
			if out, _ := r.forward(0, all[i]); len(out) != 1 {
				t.Errorf("%s: fragment %d did not leave", row.src, i)
			}
		}
		if out, _ := r.forward(0, fragmentOf(t, row.src, row.local, 77, 800, make([]byte, 8), true)); len(out) != 0 ||
			r.count(1, verdict.LocalFragment) != 1 {
			t.Errorf("%s: a fragment to the dataplane is not dropped as that", row.src)
		}
	}
}

// An IPv6 packet with a fragment header and nothing but itself (RFC 6946) is whole: it waits for nothing.
func TestAtomicFragment(t *testing.T) {
	r := podRig(t)
	f := families[1]
	data := udp(t, 1, f.a, f.b, 100, nil)[54:]
	all := [][]byte{fragmentOf(t, f.a, f.b, 77, 0, data, false)}
	if left := r.come(podA, all, 0, 0); !slices.Equal(left, []int{0, 0}) {
		t.Errorf("%v left", left)
	}
}

func TestFragmentsAllocateNothing(t *testing.T) {
	r := podRig(t)
	var packets [][]byte
	for _, f := range families {
		for id := range uint32(60) {
			all := inPieces(t, f.a, f.host, id, 3000, 800)
			for _, i := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 2}, {0, 0, 1}}[id%4] {
				packets = append(packets, onTrunk(podA, all[i]))
			}
		}
	}
	at := 0
	pass := func() {
		for range 64 {
			r.rings[1].Inject(packets[at%len(packets)])
			at++
		}
		r.now += 1e7
		r.worker.Poll(r.now)
		r.rings[1].Drain(func([]byte, bool) {})
	}
	for range 200 {
		pass()
	}
	if n := testing.AllocsPerRun(300, pass); n != 0 {
		t.Errorf("%v allocations a pass", n)
	}
	r.checkLedger()
	for _, reason := range []verdict.Reason{verdict.Routed, verdict.FragmentOverlap, verdict.FragmentTimeout} {
		if r.count(podA, reason) == 0 {
			t.Errorf("no fragment was %v", reason)
		}
	}
}
