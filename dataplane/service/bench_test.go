// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

func many(n int, algorithm api.Service_Algorithm) []*api.Service {
	list := make([]*api.Service, n)
	for i := range list {
		list[i] = web(uint32(i+1), 10, 1, 2)
		list[i].Algorithm = algorithm
		if algorithm == api.Service_ALGORITHM_SOURCE_HASH {
			list[i] = web(uint32(i+1), 10)
			list[i].Algorithm = algorithm
		}
	}
	return list
}

func BenchmarkChoose(b *testing.B) {
	for algorithm := api.Service_ALGORITHM_RANDOM; algorithm <= api.Service_ALGORITHM_MAGLEV_BOUNDED; algorithm++ {
		for _, n := range []int{10, 10000} {
			name := fmt.Sprintf("%s/services=%d", algorithm, n)
			b.Run(name, func(b *testing.B) {
				r := newRig(b, many(n, algorithm)...)
				queries := make([]*Query, 10) // spread over all
				for i := range queries {
					queries[i] = r.to(uint32(i*n/len(queries)+1), "192.0.2.7", uint16(1000+i))
				}
				var c Choice
				i := 0
				for b.Loop() {
					r.table.Choose(queries[i], &r.dice, &c)
					if i++; i == len(queries) {
						i = 0
					}
				}
				if c.Outcome != Chosen {
					b.Fatal(c)
				}
			})
		}
	}
}

// Every flow to another service: what is to be read of it is in no near cache.
func BenchmarkChooseCold(b *testing.B) {
	r := newRig(b, many(10000, api.Service_ALGORITHM_RANDOM)...)
	q := r.to(1, "192.0.2.7", 1)
	var c Choice
	n := uint32(0)
	for b.Loop() {
		n = (n + 7919) % 10000
		ip := clusterIP(n + 1)
		q.Dst = packet.Addr4(uint32(ip[0])<<24 | uint32(ip[1])<<16 | uint32(ip[2])<<8 | uint32(ip[3]))
		r.table.Choose(q, &r.dice, &c)
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, algorithm := range []api.Service_Algorithm{
		api.Service_ALGORITHM_RANDOM, api.Service_ALGORITHM_WEIGHTED_ROUND_ROBIN, api.Service_ALGORITHM_MAGLEV,
	} {
		for _, n := range []int{10, 10000} {
			b.Run(fmt.Sprintf("%s/services=%d", algorithm, n), func(b *testing.B) {
				r := newRig(b, many(n, algorithm)...)
				i := 0
				for b.Loop() {
					i++
					s := web(uint32(n/2), 9+i%2)
					s.Algorithm = algorithm
					next, err := r.table.Update(nil, &api.Delta{Set: &api.Snapshot{Services: []*api.Service{s}}}, r.b)
					if err != nil {
						b.Fatal(err)
					}
					r.now += 1e6
					next.Enter(r.b, r.now)
					r.table = next
				}
			})
		}
	}
}

// Ten thousand services of ten backends fit into 50 MB, and into 100 with tables of Maglev.
func TestMemory(t *testing.T) {
	for algorithm, most := range map[api.Service_Algorithm]uint64{
		api.Service_ALGORITHM_RANDOM: 50e6, api.Service_ALGORITHM_MAGLEV: 100e6,
	} {
		list := many(10000, algorithm)
		before := live()
		begin := time.Now()
		r := newRig(t, list...)
		took := time.Since(begin)
		used := live() - before
		t.Logf("%s: %.1f MB, built in %s", algorithm, float64(used)/1e6, took)
		if used > most {
			t.Errorf("%s: more than %d MB", algorithm, most/1e6)
		}
		runtime.KeepAlive(r)
		runtime.KeepAlive(list)
	}
}

func live() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
