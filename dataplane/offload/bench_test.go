// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

func flows(n int) []Flow {
	all := make([]Flow, n)
	for i := range all {
		all[i] = natted(i & 0x3fff)
		all[i].Near.Src.Lo += uint64(i>>14) << 32
		all[i].Far.Src.Lo += uint64(i>>14) << 32
	}
	return all
}

func newBench(b *testing.B, records int) *rig {
	r := newRig(b, records)
	begun := time.Now()
	clock := func() int64 { return int64(time.Since(begun)) + began }
	tab, err := New(Config{Memory: r.mem, Clock: clock, Kernel: clock})
	if err != nil {
		b.Fatal(err)
	}
	r.tab = tab
	return r
}

// BenchmarkEnterRemove enters both directions of a flow and removes it, beside 100,000 others.
func BenchmarkEnterRemove(b *testing.B) {
	r := newBench(b, 1<<17)
	all := flows(120_000)
	for i := range 100_000 {
		r.enter(0, all[i], 0)
	}
	ways := [2]*Way{r.way(0), r.way(1)}
	b.ReportAllocs()
	i := 100_000
	for b.Loop() {
		f := &all[i]
		ref, _ := r.tab.Enter(0, f, 0, ways[0])
		r.tab.Enter(ref, f, 1, ways[1])
		r.tab.Remove(ref)
		if i++; i == len(all) {
			i = 100_000
		}
	}
}

// BenchmarkRead reads records of 100,000, one after the other.
func BenchmarkRead(b *testing.B) {
	r := newBench(b, 1<<17)
	var refs []Ref
	for _, f := range flows(100_000) {
		refs = append(refs, r.enter(0, f, 0))
	}
	for i := 0; b.Loop(); i++ {
		r.tab.Read(refs[i*7919%len(refs)])
	}
}

// BenchmarkAdopt takes over 100,000 flows in both directions.
func BenchmarkAdopt(b *testing.B) {
	r := newBench(b, 1<<17)
	for _, f := range flows(100_000) {
		r.enter(r.enter(0, f, 0), f, 1)
	}
	for b.Loop() {
		r.restart()
	}
	if st := r.tab.Stats(); st.Records != 100_000 || st.Mended != 0 {
		b.Fatalf("%+v", st)
	}
}

// BenchmarkFind finds a packet's record, of 100,000.
func BenchmarkFind(b *testing.B) {
	r := newBench(b, 1<<17)
	all := flows(100_000)
	for _, f := range all {
		r.enter(0, f, 0)
	}
	for i := 0; b.Loop(); i++ {
		if ref, _ := r.tab.Find(all[i*7919%len(all)].Near, packet.ProtoTCP, portA); ref == 0 {
			b.Fatal("not found")
		}
	}
}
