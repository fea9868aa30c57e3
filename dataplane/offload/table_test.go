// SPDX-License-Identifier: Apache-2.0

package offload_test

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/offload/offloadtest"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// key is what a packet is found by.
type key struct {
	ends  packet.Ends
	proto packet.IPProto
	in    packet.PortID
}

// modelRecord is a record as the naive model has it.
type modelRecord struct {
	flow     offload.Flow
	ways     [2]offload.Way
	egresses [2]int // of which generation of its egress a way is
	claimed  bool
	used     int64
	last     int64 // as Carried.Used
	carried  [2]offload.Traffic
	acks     [2]uint32
	opener   packet.PortID
}

func (r *modelRecord) key(d int) key {
	e := r.flow.Near
	if d != 0 {
		e = r.flow.Far.Reverse()
	}
	return key{e, r.flow.Proto, r.ways[d].In}
}

// model is what the table is to be: a map.
type model struct {
	records  map[offload.Ref]*modelRecord
	egresses map[packet.PortID]int // generations, odd where there is one
	oldest   uint32
}

// find is by the naive way.
func (m *model) find(k key) (offload.Ref, int) {
	for ref, r := range m.records {
		for d := range r.ways {
			if r.ways[d].In != 0 && r.key(d) == k {
				return ref, d
			}
		}
	}
	return 0, 0
}

// out is where a way leads.
func (m *model) out(r *modelRecord, d int) packet.PortID {
	if m.egresses[r.ways[d].Out] != r.egresses[d] || r.egresses[d]&1 == 0 {
		return 0
	}
	return r.ways[d].Out
}

// opened is how many records count for a port.
func (m *model) opened(port packet.PortID) (n int) {
	for _, r := range m.records {
		if r.opener == port {
			n++
		}
	}
	return n
}

// openerOf is the port behind which the opener is of a flow that goes by a way.
func openerOf(d int, in, out packet.PortID) packet.PortID {
	if d == 0 {
		return in
	}
	return out
}

// run is a table, a hook and the model.
type run struct {
	rt   *rapid.T
	mem  offload.Memory
	tab  *offload.Table
	hook offloadtest.Hook
	m    model
	now  int64

	limit int // of records a port; 0: none
}

func (r *run) restart() {
	tab, err := offload.New(offload.Config{
		Memory: r.mem, Clock: func() int64 { return r.now - int64(time.Hour) }, Kernel: func() int64 { return r.now },
	})
	if err != nil {
		r.rt.Fatal(err)
	}
	if r.tab = tab; r.limit != 0 {
		r.tab.Limit(uint32(r.limit))
	}
}

var addresses = func() (a []packet.Addr) {
	for _, s := range []string{"10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"} {
		a = append(a, packet.AddrFrom(netip.MustParseAddr(s)))
	}
	return a
}()

// drawFlow is one of few, so that they meet.
func (r *run) drawFlow() offload.Flow {
	at := func(name string, of int) packet.Addr {
		return addresses[2*of+rapid.IntRange(0, 1).Draw(r.rt, name)]
	}
	port := rapid.Uint16Range(1, 3)
	six := rapid.IntRange(0, 1).Draw(r.rt, "v6")
	ends := func() packet.Ends {
		return packet.Ends{
			Src: at("src", six), Dst: at("dst", six), SrcPort: port.Draw(r.rt, "sport"), DstPort: port.Draw(r.rt, "dport"),
		}
	}
	f := offload.Flow{
		Near: ends(), Proto: rapid.SampledFrom([]packet.IPProto{packet.ProtoTCP, packet.ProtoUDP}).Draw(r.rt, "proto"),
		Generation: rapid.Uint32Range(1, 4).Draw(r.rt, "generation"),
	}
	f.Far = f.Near
	switch rapid.IntRange(0, 3).Draw(r.rt, "kind") {
	case 0:
		f.Far = ends()
	case 1:
		f.Pair, f.Proto = true, packet.ProtoTCP
		f.Near.SrcPort, f.Near.DstPort = 0, 0
		f.Far = f.Near
	}
	return f
}

func (r *run) drawPort() packet.PortID { return packet.PortID(rapid.IntRange(1, 4).Draw(r.rt, "port")) }

func (r *run) drawRef() offload.Ref {
	refs := []offload.Ref{0}
	for ref := range r.tab.All() {
		refs = append(refs, ref)
	}
	return rapid.SampledFrom(refs).Draw(r.rt, "ref")
}

func (r *run) enter() {
	f, ref, d := r.drawFlow(), offload.Ref(0), uint8(rapid.IntRange(0, 1).Draw(r.rt, "d"))
	w := offload.Way{In: r.drawPort(), MTU: rapid.IntRange(100, 300).Draw(r.rt, "mtu"), MAC: packet.MAC{2, d}}
	if rapid.IntRange(0, 5).Draw(r.rt, "claim") != 0 {
		w.Out = r.drawPort()
	}
	if rapid.Bool().Draw(r.rt, "more") {
		ref = r.drawRef()
	}
	x := &modelRecord{flow: f, used: r.now, opener: openerOf(int(d), w.In, w.Out)}
	if ref != 0 {
		x = r.m.records[ref]
	}
	before := len(r.m.records)
	got, ok := r.tab.Enter(ref, &f, d, &w)
	if !ok {
		st := r.tab.Stats()
		full := ref == 0 && (before == int(st.Capacity) || f.Pair && st.Pairs >= st.Capacity/2 ||
			r.limit != 0 && r.m.opened(x.opener) >= r.limit)
		if w.Out != 0 && r.m.egresses[w.Out]&1 == 0 || full {
			r.evicted(x.opener)
			return
		}
		r.rt.Fatalf("not entered %+v", r.tab.Stats())
	}
	r.evicted(x.opener)
	if ref != 0 && got != ref {
		r.rt.Fatal("another record")
	}
	x.ways[d], x.egresses[d] = w, r.m.egresses[w.Out]
	if w.Out == 0 {
		x.claimed = true
	}
	r.m.records[got] = x
	r.displaced(got, int(d))
}

// evicted has the model follow records that made way for one of a port's, and says whether they might.
func (r *run) evicted(by packet.PortID) {
	for {
		ref, f := r.tab.NextEvicted()
		if ref == 0 {
			return
		}
		x := r.m.records[ref]
		if x == nil || x.flow.Near != f.Near || x.flow.Far != f.Far {
			r.rt.Fatalf("evicted %x, which is %+v", ref, x)
		}
		c, ok := r.tab.Remove(ref)
		if !ok || c.Traffic != x.carried {
			r.rt.Fatalf("of an evicted record %+v, want %+v", c, x.carried)
		}
		if _, ok := r.tab.Remove(ref); ok {
			r.rt.Fatal("told twice")
		}
		rich := r.m.opened(x.opener)/2 > r.m.opened(by)
		if (x.claimed || x.flow.Pair || r.now-x.used < int64(5*time.Second) && !rich) && !r.twin(ref) {
			r.rt.Fatalf("%+v has made way", x)
		}
		delete(r.m.records, ref)
	}
}

// twin: a record has been entered whose packets a record's were.
func (r *run) twin(ref offload.Ref) bool {
	x := r.m.records[ref]
	for d := range x.ways {
		if k := x.key(d); k.in != 0 {
			if other, _ := r.tab.Find(k.ends, k.proto, k.in); other != 0 {
				return true
			}
		}
	}
	return false
}

// displaced takes from the record itself what was entered last.
func (r *run) displaced(ref offload.Ref, d int) {
	x := r.m.records[ref]
	if o := d ^ 1; x.ways[o].In != 0 && x.key(o) == x.key(d) {
		x.ways[o], x.egresses[o] = offload.Way{}, 0
	}
}

func (r *run) remove() {
	ref := r.drawRef()
	c, ok := r.tab.Remove(ref)
	x := r.m.records[ref]
	if ok != (x != nil) || ok && (c.Traffic != x.carried || x.acked(c)) {
		r.rt.Fatalf("removed %+v %t, want %+v", c, ok, x)
	}
	delete(r.m.records, ref)
}

// acked says whether what is acknowledged is not as it should be.
func (r *modelRecord) acked(c offload.Carried) bool {
	for d := range r.ways {
		if r.flow.Proto == packet.ProtoTCP && r.carried[d].Packets != 0 && (!c.Acked[d] || c.Acks[d] != r.acks[d]) {
			return true
		}
	}
	return false
}

func (r *run) withdraw() {
	ref := r.drawRef()
	c, stays, ok := r.tab.Withdraw(ref)
	x := r.m.records[ref]
	if ok != (x != nil) || ok && (c.Traffic != x.carried || stays != x.claimed) {
		r.rt.Fatalf("withdrawn %+v %t %t, want %+v", c, stays, ok, x)
	}
	if !stays {
		delete(r.m.records, ref)
		return
	}
	for d := range x.ways {
		x.ways[d].Out, x.egresses[d] = 0, 0
	}
}

func (r *run) egress() {
	port := r.drawPort()
	e := offload.Egress{Kind: offload.EgressKind(rapid.IntRange(0, 3).Draw(r.rt, "egress")), IfIndex: 3}
	e.VLANs.Outer = rapid.Uint16Range(0, 1).Draw(r.rt, "outer")
	if e.Kind == offload.None {
		e = offload.Egress{}
	}
	was := r.tab.Egress(port)
	if err := r.tab.SetEgress(port, e); err != nil {
		r.rt.Fatal(err)
	}
	if is := r.tab.Egress(port); is != e {
		r.rt.Fatalf("%+v, want %+v", is, e)
	}
	if was == e {
		return
	}
	if r.m.egresses[port] += 2; (r.m.egresses[port]&1 != 0) != (e.Kind != offload.None) {
		r.m.egresses[port]++
	}
}

// carry compares what the hook does with a packet.
func (r *run) carry() {
	f := r.drawFlow()
	e := f.Near
	if rapid.Bool().Draw(r.rt, "answer") {
		e = f.Far.Reverse()
	}
	p := offloadtest.Packet{
		Ends: e, Proto: f.Proto, In: r.drawPort(), Len: rapid.IntRange(50, 350).Draw(r.rt, "len"),
		Ack: rapid.Uint32Range(1, 9).Draw(r.rt, "ack"), Flags: rapid.SampledFrom([]uint8{16, 2}).Draw(r.rt, "flags"),
	}
	if f.Pair {
		p.Ends.SrcPort, p.Ends.DstPort = 1, 2
	}
	got, ok := r.hook.Carry(p)
	want, is := r.m.carry(p, r.now)
	if ok != is || got != want {
		r.rt.Fatalf("carried %+v %t, want %+v %t", got, ok, want, is)
	}
}

func (m *model) carry(p offloadtest.Packet, now int64) (c offloadtest.Carried, ok bool) {
	ref, d := m.find(key{p.Ends, p.Proto, p.In})
	pair := ref == 0
	if pair {
		if p.Proto != packet.ProtoTCP {
			return c, false
		}
		e := p.Ends
		e.SrcPort, e.DstPort = 0, 0
		if ref, d = m.find(key{e, p.Proto, p.In}); ref == 0 {
			return c, false
		}
	} else if p.Proto == packet.ProtoTCP && p.Flags == 2 {
		return c, false
	}
	r := m.records[ref]
	w, out := &r.ways[d], m.out(r, d)
	if out == 0 || p.Len > w.MTU || r.flow.Generation < m.oldest {
		return c, false
	}
	r.used, r.last, r.acks[d] = now, now>>24<<24-int64(time.Hour), p.Ack
	r.carried[d].Packets++
	r.carried[d].Bytes += uint64(p.Len)
	c = offloadtest.Carried{Ends: p.Ends, MAC: w.MAC, Out: out, Pair: pair}
	if r.flow.Near != r.flow.Far {
		c.Ends = r.flow.Far
		if d != 0 {
			c.Ends = r.flow.Near.Reverse()
		}
	}
	return c, true
}

// compare compares all that can be asked.
func (r *run) compare() {
	n, pairs := 0, 0
	for ref := range r.tab.All() {
		n++
		if r.m.records[ref].flow.Pair {
			pairs++
		}
		x := r.m.records[ref]
		f, ways, ok := r.tab.Flow(ref)
		c, read := r.tab.Read(ref)
		if x == nil || !ok || !read || f != x.flow || c.Traffic != x.carried || c.Used != x.last {
			r.rt.Fatalf("%+v %+v, want %+v", f, c, x)
		}
		for d := range ways {
			want := x.ways[d]
			want.Out = r.m.out(x, d)
			if ways[d] != want {
				r.rt.Fatalf("way %+v, want %+v", ways[d], want)
			}
			if k := x.key(d); k.in != 0 {
				if found, by := r.tab.Find(k.ends, k.proto, k.in); found != ref || int(by) != d {
					r.rt.Fatalf("found %x %d, want %x %d", found, by, ref, d)
				}
			}
		}
	}
	for port := range packet.PortID(5) {
		if is, want := r.tab.Share(port).Records, r.m.opened(port); int(is) != want {
			r.rt.Fatalf("%d records count for port %d, want %d", is, port, want)
		}
	}
	if st := r.tab.Stats(); n != len(r.m.records) || int(st.Records) != n || int(st.Pairs) != pairs {
		r.rt.Fatalf("%d records, %d pairs, %+v, the model has %d", n, pairs, st, len(r.m.records))
	}
}

// takeOver has the model follow a restart: records and their flows stay, and have other Refs.
func (r *run) takeOver() {
	r.restart()
	was := r.m.records
	r.m.records = make(map[offload.Ref]*modelRecord)
	for ref := range r.tab.All() {
		f, ways, _ := r.tab.Flow(ref)
		for before, x := range was {
			if f == x.flow && ways[0].In == x.ways[0].In && ways[1].In == x.ways[1].In {
				r.m.records[ref] = x
				x.used = r.now // entered anew, as far as it is known
				if x.opener = x.ways[0].In; x.opener == 0 {
					x.opener = r.m.out(x, 1)
				}
				delete(was, before)
				break
			}
		}
	}
	for _, x := range was {
		if x.ways[0].In|x.ways[1].In != 0 { // a record that nothing leads to is nobody's
			r.rt.Fatalf("%+v has not outlived a restart", x)
		}
	}
	if st := r.tab.Stats(); st.Mended != 0 {
		r.rt.Fatalf("%+v", st)
	}
}

// TestModel compares the table, and what a hook makes of it, with maps.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &run{rt: rt, mem: offload.NewMemory(rapid.IntRange(2, 12).Draw(rt, "records")), now: int64(10 * time.Hour)}
		r.limit = rapid.IntRange(0, 4).Draw(rt, "limit")
		r.restart()
		r.tab.SetCarry(true)
		r.hook = offloadtest.Hook{Memory: r.mem, Kernel: func() int64 { return r.now }}
		r.m = model{records: make(map[offload.Ref]*modelRecord), egresses: make(map[packet.PortID]int)}
		for range 4 {
			r.egress()
		}
		for range rapid.IntRange(1, 150).Draw(rt, "steps") {
			switch rapid.IntRange(0, 15).Draw(rt, "step") {
			case 0, 1, 2, 3, 4:
				r.enter()
			case 5, 6, 7, 8:
				r.carry()
			case 9:
				r.remove()
			case 10:
				r.withdraw()
			case 11, 12:
				r.egress()
			case 13:
				ref, g := r.drawRef(), rapid.Uint32Range(1, 4).Draw(rt, "keep")
				r.tab.Keep(ref, g)
				if x := r.m.records[ref]; x != nil {
					x.flow.Generation = g
				}
			case 14:
				r.now += int64(rapid.SampledFrom([]time.Duration{time.Second, 6 * time.Second}).Draw(rt, "time"))
				r.m.oldest = rapid.Uint32Range(1, 3).Draw(rt, "oldest")
				r.tab.SetGeneration(r.m.oldest)
				r.tab.Beat()
			case 15:
				r.takeOver()
			}
			r.compare()
		}
	})
}
