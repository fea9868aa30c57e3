// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
)

// BenchmarkPass is the cost of a 64-byte packet from rx ring to tx ring, without a kernel: receive, judge, rewrite,
// send, complete, fill. Destinations are spread over all routes, so that the larger tables do not fit the caches.
func BenchmarkPass(b *testing.B) {
	for _, c := range []struct{ ipv4, ipv6 int }{{10, 2}, {10_000, 2_000}, {1_000_000, 200_000}} {
		for _, family := range []string{"IPv4", "IPv6"} {
			b.Run(fmt.Sprintf("%s/routes=%d", family, c.ipv4+c.ipv6), func(b *testing.B) {
				benchmarkPass(b, family, c.ipv4, c.ipv6)
			})
		}
	}
}

func benchmarkPass(b *testing.B, family string, n4, n6 int) {
	random := rand.New(rand.NewPCG(1, 2))
	var to4, to6 []netip.Addr
	r := newRig(b, func(s *api.Snapshot) {
		s.Routes, to4, to6 = randomRoutes(random, n4, n6)
	}).know()
	to, src := to4, "10.1.0.2"
	if family == "IPv6" {
		to, src = to6, "fd00:1::2"
	}
	const batch = 256
	packets := make([][]byte, 1<<14)
	for i := range packets {
		packets[i] = udp(b, 0, src, to[random.IntN(len(to))].String(), 0, nil)
	}
	r.worker.Poll(r.now)
	at := 0
	var spent time.Duration // in Poll alone: stopping b's timer costs more than a pass, and empties the caches
	for b.Loop() {
		for range batch {
			r.rings[0].Inject(packets[at%len(packets)])
			at++
		}
		begin := time.Now()
		r.worker.Poll(r.now)
		spent += time.Since(begin)
		r.rings[1].Drain(func([]byte, bool) {})
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N*batch), "ns/packet")
	b.ReportMetric(0, "ns/op")
	if all := r.checkLedger(); all.Get(2) != 0 {
		b.Fatal("packets are held")
	}
}

// randomRoutes makes distinct prefixes of the lengths that a full table has, and an address in each.
func randomRoutes(random *rand.Rand, n4, n6 int) (routes []*api.Route, to4, to6 []netip.Addr) {
	seen := make(map[netip.Prefix]bool)
	add := func(a netip.Addr, bits int, group uint32) bool {
		p, err := a.Prefix(bits)
		if err != nil || seen[p] {
			return false
		}
		seen[p] = true
		routes = append(routes, &api.Route{Prefix: p.Addr().AsSlice(), Bits: uint32(bits), Group: group})
		return true
	}
	for len(to4) < n4 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], random.Uint32())
		a[0] = 20 + a[0]%80 // public unicast
		if address := netip.AddrFrom4(a); add(address, []int{24, 24, 24, 22, 20, 19, 16}[random.IntN(7)], toRouter4) {
			to4 = append(to4, address)
		}
	}
	for len(to6) < n6 {
		var a [16]byte
		binary.BigEndian.PutUint64(a[:], random.Uint64())
		binary.BigEndian.PutUint64(a[8:], random.Uint64())
		a[0], a[1] = 0x20, 1+a[1]%15
		if address := netip.AddrFrom16(a); add(address, []int{48, 48, 44, 40, 32}[random.IntN(5)], toRouter6) {
			to6 = append(to6, address)
		}
	}
	sortRoutes(routes)
	return routes, to4, to6
}
