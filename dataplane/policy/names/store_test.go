// SPDX-License-Identifier: Apache-2.0

package names

import (
	"fmt"
	"sync"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// A port's room is bounded and its own; what expires first makes place.
func TestRoom(t *testing.T) {
	s := NewStore(2, 16)
	pattern := []uint64{1}
	for i := range uint32(100) {
		s.put(1, packet.Addr4(i), pattern, int64(1000+i))
	}
	s.put(2, packet.Addr4(7), pattern, 1)
	known := 0
	for i := range uint32(100) {
		var hits Hits
		if s.Lookup(1, packet.Addr4(i), 0, false, &hits); hits.Len > 0 {
			known++
			if i < 84 {
				t.Errorf("address %d stayed, and one that expires later went", i)
			}
		}
	}
	var hits Hits
	if s.Lookup(2, packet.Addr4(7), 0, false, &hits); known != 16 || hits.Len != 1 {
		t.Errorf("%d of port 1, %d of port 2", known, hits.Len)
	}
	if s.put(3, packet.Addr4(7), pattern, 1); s.Refused() != 1 {
		t.Errorf("%d refused", s.Refused())
	}
	s.Forget(2)
	s.Forget(9)
	if s.Lookup(2, packet.Addr4(7), 0, true, &hits); hits.Len != 0 {
		t.Error("port 2 is not forgotten")
	}
	if s.put(3, packet.Addr4(7), pattern, 1); s.Refused() != 1 {
		t.Error("no room after a port was forgotten")
	}
}

// An address that fits many patterns has all that fit a window.
func TestManyPatterns(t *testing.T) {
	s := NewStore(1, 64)
	list := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18}
	s.put(1, packet.Addr4(1), list[:16], 100)
	s.put(1, packet.Addr4(1), list[:1], 50) // a shorter answer shortens nothing
	s.put(1, packet.Addr4(1), list[16:], 100)
	var hits Hits
	if s.Lookup(1, packet.Addr4(1), 99, false, &hits); hits.Len != MaxHits {
		t.Errorf("%d patterns", hits.Len)
	}
}

// Workers learn, look up and forget at once.
func TestConcurrent(t *testing.T) {
	s, p := NewStore(8, 64), patternsOf("a.b", "*.b")
	m := zone(t, nil, "? a.b A", "a.b A 10.0.0.1 60")
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			var hits Hits
			for i := range 500 {
				port := packet.PortID(i % 6)
				s.Learn(p, port, m, 1)
				s.Lookup(port, packet.Addr4(0x0a000001), 2, false, &hits)
				if hits.Len > 2 {
					t.Errorf("%d patterns", hits.Len)
				}
				if i%50 == w {
					s.Forget(port)
				}
			}
		})
	}
	wg.Wait()
}

// Only a port's first answer allocates.
func TestLearnDoesNotAllocate(t *testing.T) {
	s, p := NewStore(1, 1024), patternsOf("a.b", "*.b", "c.d")
	m := zone(t, nil, "? a.b A", "a.b CNAME c.d 60", "c.d A 10.0.0.1 60", "c.d A 10.0.0.2 60")
	s.Learn(p, 1, m, 1)
	var hits Hits
	if n := testing.AllocsPerRun(100, func() {
		s.Learn(p, 1, m, 1)
		s.Lookup(1, packet.Addr4(0x0a000001), 2, false, &hits)
	}); n != 0 || hits.Len != 3 {
		t.Errorf("%v allocations, %d patterns", n, hits.Len)
	}
}

func BenchmarkLearn(b *testing.B) {
	s, p := NewStore(1, 1024), patternsOf("www.example.com", "*.example.com", "cdn.net")
	for _, addresses := range []int{1, 8} {
		lines := []string{"? www.example.com A", "www.example.com CNAME cdn.net 60"}
		for i := range addresses {
			lines = append(lines, fmt.Sprintf("cdn.net A 10.0.0.%d 60", i))
		}
		m := zone(b, nil, lines...)
		b.Run(fmt.Sprint(addresses), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Learn(p, 1, m, 1)
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	s := NewStore(1, 1024)
	for i := range uint32(500) {
		s.put(1, packet.Addr4(i), []uint64{1}, 100)
	}
	var hits Hits
	for i := uint32(0); b.Loop(); i++ {
		s.Lookup(1, packet.Addr4(i%1000), 1, false, &hits)
	}
}
