// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// genServices draws a few services that share addresses, ports and names.
func genServices(t *rapid.T) []*api.Service {
	var list []*api.Service
	for id := range uint32(rapid.IntRange(0, 6).Draw(t, "services")) {
		if rapid.Bool().Draw(t, "absent") {
			continue
		}
		s := &api.Service{
			Id: id + 1, Name: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name"), Protocol: 6,
			Algorithm:        api.Service_Algorithm(rapid.IntRange(1, 8).Draw(t, "algorithm")),
			EjectionFailures: uint32(rapid.IntRange(0, 3).Draw(t, "failures")),
			AffinitySeconds:  uint32(rapid.IntRange(0, 1).Draw(t, "affinity")),
		}
		for _, kind := range []api.Frontend_Kind{clusterKind, externalKind, balancerKind, nodeKind, hostKind} {
			for _, port := range []uint32{80, 443} {
				if rapid.IntRange(0, 2).Draw(t, "frontend") > 0 {
					continue
				}
				at := ""
				if kind < nodeKind {
					at = fmt.Sprintf("10.96.0.%d", rapid.IntRange(1, 3).Draw(t, "address"))
				}
				s.Frontends = append(s.Frontends, front(kind, at, port, rapid.Bool().Draw(t, "local")))
			}
		}
		slices.SortFunc(s.Frontends, compareFrontends)
		for b := range uint32(rapid.IntRange(0, 4).Draw(t, "backends")) {
			if rapid.Bool().Draw(t, "gone") {
				continue
			}
			s.Backends = append(s.Backends, &api.Backend{Address: podIP(b + 1), Port: 80 + id, Weight: 1 + b,
				Cluster: rapid.Bool().Draw(t, "cluster"), Local: rapid.Bool().Draw(t, "here")})
		}
		list = append(list, s)
	}
	return list
}

// listing is all that a table says, and what is known of the backends in it.
func listing(t *Table) string {
	var out strings.Builder
	for s := range t.All() {
		fmt.Fprintf(&out, "%d %s size %d\n", s.ID, s.Name, s.group.size.Load())
		for _, m := range s.members {
			fmt.Fprintf(&out, "  %s:%d x%d\n", m.addr, m.port, m.weight)
		}
	}
	for _, dst := range []string{"10.96.0.1", "10.96.0.2", "10.96.0.3", "192.0.2.1"} {
		for _, port := range []uint16{80, 443} {
			for _, toNode := range []bool{false, true} {
				q := &Query{Dst: addr(dst), DstPort: port, Proto: 6, ToNode: toNode}
				f := t.find(q)
				if f == nil {
					fmt.Fprintf(&out, "%s:%d %t nobody, owned %t\n", dst, port, toNode, t.owns(q))
					continue
				}
				fmt.Fprintf(&out, "%s:%d %t service %d %s: %d and %d\n", dst, port, toNode, f.service.ID, f.kind,
					len(f.service.cluster.members), len(f.service.local.members))
			}
		}
	}
	var conflicts []string
	for _, c := range t.Conflicts() {
		conflicts = append(conflicts,
			fmt.Sprintf("%s %d %s: %d before %d", c.Address, c.Port, c.Kind, c.Winner.ID, c.Loser.ID))
	}
	slices.Sort(conflicts)
	fmt.Fprintf(&out, "%s\n%d", strings.Join(conflicts, "\n"), t.Contested())
	return out.String()
}

// A table that follows deltas says what one says that is built from nothing, shares what has not changed, and leaves
// the one before as it was. Every backend in force has a number of its own, and nobody else has one.
func TestUpdateEqualsBuild(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBackends()
		from := &api.Snapshot{Epoch: 1, Services: genServices(t)}
		at, err := Build(nil, from, b)
		if err != nil {
			t.Fatal(err)
		}
		now := int64(1e12)
		at.Enter(b, now)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			to := &api.Snapshot{Epoch: from.Epoch + 1, Services: genServices(t)}
			delta := api.Difference(from, to)
			before := listing(at)
			var next *Table
			if rapid.Bool().Draw(t, "whole") {
				next, err = Build(at, to, b)
			} else {
				next, err = at.Update(to, delta, b)
			}
			if err != nil {
				t.Fatal(err)
			}
			if listing(at) != before {
				t.Fatalf("the table before changed from\n%s\nto\n%s", before, listing(at))
			}
			changed := map[uint32]bool{}
			for _, s := range delta.Set.Services {
				changed[s.Id] = true
			}
			for s := range next.All() {
				if was := at.get(s.ID); was != nil && !changed[s.ID] && was != s {
					t.Fatalf("service %d was made anew", s.ID)
				}
			}
			now += rapid.SampledFrom([]int64{1, 2 * grace}).Draw(t, "passes")
			next.Enter(b, now)
			others := NewBackends()
			fresh, err := Build(nil, to, others)
			if err != nil {
				t.Fatal(err)
			}
			fresh.Enter(others, now)
			if got, want := listing(next), listing(fresh); got != want {
				t.Fatalf("updated:\n%s\nbuilt:\n%s", got, want)
			}
			checkNumbers(t, b, next)
			from, at = to, next
		}
	})
}

func checkNumbers(t *rapid.T, b *Backends, table *Table) {
	inForce := map[uint32]bool{}
	for s := range table.All() {
		for _, m := range s.members {
			k := backendKey{m.addr, s.ID, m.port}
			if inForce[m.number] || b.numbers[k] != m.number || b.records[m.number] != (record{k, isLive}) {
				t.Fatalf("%v has number %d, of %+v", k, m.number, b.records[m.number])
			}
			inForce[m.number] = true
		}
	}
	kept := 0
	for n, r := range b.records {
		if r.state == isLive && !inForce[uint32(n)] || r.state == isPending {
			t.Fatalf("number %d is %+v", n, r)
		}
		if r.state != isFree {
			kept++
		}
	}
	if kept != len(b.numbers) || kept+len(b.free)+1 != len(b.records) {
		t.Fatalf("%d numbers are kept, %d free, of %d", kept, len(b.free), len(b.records))
	}
}

// An index that grows by deltas finds what one finds that was made for as many.
func TestIndexGrows(t *testing.T) {
	r := newRig(t)
	for n := uint32(1); n <= 3000; n++ {
		next, err := r.table.Update(nil, &api.Delta{Set: &api.Snapshot{Services: []*api.Service{web(n, 1)}}}, r.b)
		if err != nil {
			t.Fatal(err)
		}
		r.table = next
	}
	r.table.Enter(r.b, r.now)
	for n := uint32(1); n <= 3000; n++ {
		if c := r.choose(r.to(n, "192.0.2.1", 1)); c.Outcome != Chosen || c.Service.ID != n {
			t.Fatalf("service %d: %+v", n, c)
		}
	}
	longest := 0
	for _, p := range r.table.index.pages {
		for _, bucket := range p {
			longest = max(longest, len(bucket))
		}
	}
	if longest > 24 {
		t.Errorf("a bucket has %d entries", longest)
	}
}

func TestNoAllocations(t *testing.T) {
	for algorithm := api.Service_ALGORITHM_RANDOM; algorithm <= api.Service_ALGORITHM_MAGLEV_BOUNDED; algorithm++ {
		s := web(1, 10, 1, 2, 3)
		s.Algorithm, s.AffinitySeconds, s.SlowStartSeconds, s.EjectionFailures = algorithm, 1, 10, 2
		s.Frontends[0].Sources = []*api.Prefix{prefix("192.0.2.0/24")}
		r := newRig(t, s)
		q, none := r.to(1, "192.0.2.1", 1), r.to(2, "192.0.2.1", 1)
		var c Choice
		if n := testing.AllocsPerRun(1000, func() {
			q.SrcPort++
			q.Now += 1e8
			r.table.Choose(q, &r.dice, &c)
			r.table.Choose(none, &r.dice, &c)
			r.table.Direct(q, addr("10.0.0.16"), &c)
			r.b.Opened(1)
			r.b.Answered(1, 7)
			r.b.Refused(2, q.Now)
			r.b.Left(1, false)
		}); n > 0 {
			t.Errorf("%s: %v allocations", algorithm, n)
		}
	}
}

// Workers choose and tell of flows while tables come and go.
func TestRace(t *testing.T) {
	version := func(i int) []*api.Service {
		list := []*api.Service{web(1, 4+i%3), web(2, 3)}
		for j, s := range list {
			s.Algorithm = api.Service_Algorithm(1 + (i+j)%8)
			s.AffinitySeconds, s.SlowStartSeconds, s.EjectionFailures = uint32(i%2), 1, 2
		}
		if i%5 == 0 {
			list = list[:1]
		}
		return list
	}
	r := newRig(t, version(0)...)
	var table atomic.Pointer[Table]
	table.Store(r.table)
	var workers sync.WaitGroup
	done := make(chan struct{})
	for w := range 3 {
		workers.Go(func() {
			var d Dice
			var open []uint32
			for i := 0; ; i++ {
				select {
				case <-done:
					for _, n := range open {
						r.b.Left(n, true)
					}
					return
				default:
				}
				var c Choice
				q := &Query{Src: packet.Addr4(uint32(i)), SrcPort: uint16(i), Dst: packet.Addr4(0xac100001 + uint32(i%2)),
					DstPort: 80, Proto: 6, Now: int64(1e12) + int64(i)*1e5}
				table.Load().Choose(q, &d, &c)
				if c.Outcome != Chosen {
					continue
				}
				r.b.Opened(c.Number)
				switch open = append(open, c.Number); (i + w) % 3 {
				case 0:
					r.b.Answered(c.Number, int64(i))
				case 1:
					r.b.Refused(c.Number, q.Now)
				}
				if r.b.Standing(c.Number) == Reset || len(open) > 100 {
					r.b.Left(open[0], i%2 == 0)
					open = open[1:]
				}
			}
		})
	}
	for i := range 300 {
		r.now += 1e7
		r.enter(version(i)...)
		table.Store(r.table)
		r.b.Totals()
		r.b.Affinities(r.now)
		for s := range r.table.All() {
			s.Backends()
			r.b.TotalsOf(s)
		}
	}
	close(done)
	workers.Wait()
	r.now += 10 * grace
	r.enter()
	r.now += 10 * grace
	r.enter()
	if len(r.b.numbers) != 0 {
		t.Errorf("%d numbers are left when all flows are over", len(r.b.numbers))
	}
	for n := range r.b.records[1:] {
		if s := r.b.slot(uint32(n + 1)); s.flows() != 0 {
			t.Errorf("backend %d has %d flows", n+1, s.flows())
		}
	}
}
