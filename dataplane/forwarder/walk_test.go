// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/offload/offloadtest"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/worker"
)

// carriedWorld is a forwarder without workers, between whose two pods as many UDP flows are carried.
func carriedWorld(t testing.TB, flows int) (*Forwarder, *api.Snapshot) {
	t.Helper()
	return carriedWorldIn(t, flows, offload.NewMemory(flows))
}

func carriedWorldIn(t testing.TB, flows int, memory offload.Memory) (*Forwarder, *api.Snapshot) {
	t.Helper()
	f := New(Config{Logger: zaptest.NewLogger(t)})
	table, err := offload.New(offload.Config{Memory: memory, Clock: f.clock, Kernel: monotonic})
	if err != nil {
		t.Fatal(err)
	}
	for id := packet.PortID(5); id < 7; id++ {
		e := offload.Egress{Kind: offload.Pod, IfIndex: int(id), MAC: packet.GatewayMAC}
		if err := table.SetEgress(id, e); err != nil {
			t.Fatal(err)
		}
	}
	f.carrier.table.Store(table)
	f.carrier.walk.init()
	f.dns = names.NewStore(16, 16)
	f.flows.Store(conntrack.New(conntrack.Config{Flows: 2 * flows, PerPort: 2 * flows, PerSource: 2 * flows,
		Offload: table}))
	n := &podNode{offload: true, attach: map[int]api.Port_Attach{5: api.Port_ATTACH_TRUNK, 6: api.Port_ATTACH_TRUNK}}
	s := n.desiredOf(5, 6)
	f.put(t, s)
	now, c := f.clock(), f.flows.Load()
	src, _ := podAddr(5)
	dst, _ := podAddr(6)
	tables := f.tables.Load()
	for i := range flows {
		p := datagram(src, dst, uint16(1+i%60000), uint16(1+i/60000))
		var seen conntrack.Seen
		c.Track(p, 5, now, tables.Policy.Generation, &seen)
		if r := c.Open(&seen, p, 5, 6, now, tables.Policy.Generation, 0); r != 0 {
			t.Fatal(r)
		}
		for range 2 {
			c.Track(p, 5, now, tables.Policy.Generation, &seen)
		}
		out := tables.Port(6)
		if !seen.Carry || !c.Carry(&seen, &offload.Way{In: 5, Out: 6, MAC: out.Station.Own, MTU: out.MTU}) {
			t.Fatalf("flow %d is not carried", i)
		}
	}
	return f, s
}

// put has tables of a snapshot be in force.
func (f *Forwarder) put(t testing.TB, s *api.Snapshot) {
	t.Helper()
	links := func(name string) (tables.Link, bool) {
		return tables.Link{MAC: packet.MAC{2, 0, 0, 0, 0, 1}, MTU: 65535, Up: true, IfIndex: 1}, true
	}
	next, err := tables.Build(f.tables.Load(), s, links, f.neighbors)
	if err != nil {
		t.Fatal(err)
	}
	f.snapshot = s
	f.tables.Store(next)
}

func datagram(src, dst netip.Addr, from, to uint16) *packet.Packet {
	frame := make([]byte, 256)
	copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17})
	copy(frame[26:], src.AsSlice())
	copy(frame[30:], dst.AsSlice())
	copy(frame[34:], []byte{byte(from >> 8), byte(from), byte(to >> 8), byte(to), 0, 8, 0, 0})
	sum := uint32(0)
	for i := 14; i < 34; i += 2 {
		sum += uint32(frame[i])<<8 | uint32(frame[i+1])
	}
	sum = sum&0xffff + sum>>16
	sum = ^(sum&0xffff + sum>>16)
	frame[24], frame[25] = byte(sum>>8), byte(sum)
	p := &packet.Packet{Frame: frame, End: 42}
	p.Parse()
	return p
}

// A walk over 100,000 flows re-judges and keeps what policy lets, and after another change takes out all that it
// denies. BenchmarkWalk says how long it takes.
func TestWalkOfMany(t *testing.T) {
	const flows = 100000
	f, s := carriedWorld(t, flows)
	stats := func() uint32 { return f.carrier.table.Load().Stats().Records }
	walk := func(change func(*api.Snapshot)) time.Duration {
		s.Epoch++
		change(s)
		f.put(t, s)
		return f.walkOver(nil)
	}
	took := walk(denyIngress(5))
	if stats() != flows || f.carrier.walk.done.flows != flows {
		t.Errorf("%d of %d flows stay, %+v", stats(), flows, f.carrier.walk.done)
	}
	t.Logf("judged again and kept in %v", took)
	took = walk(denyIngress(6))
	if stats() != 0 || f.carrier.walk.done.denied != flows {
		t.Errorf("%d flows are carried against policy, %+v", stats(), f.carrier.walk.done)
	}
	t.Logf("revoked in %v", took)
}

// While a worker does not get on, so that no walk can begin, nothing is carried that policy of before let in.
func TestWalkWithoutWorker(t *testing.T) {
	memory := offload.NewMemory(8)
	f, s := carriedWorldIn(t, 1, memory)
	f.working.Store(&[]*worker.Worker{new(worker.Worker)})
	s.Epoch++
	denyIngress(6)(s)
	f.put(t, s)
	src, _ := podAddr(5)
	dst, _ := podAddr(6)
	p := datagram(src, dst, 1, 1)
	hook := offloadtest.Hook{Memory: memory, Kernel: monotonic}
	f.carrier.table.Load().SetCarry(true)
	carried := func() bool {
		_, ok := hook.Carry(offloadtest.Packet{Ends: p.Ends(), Proto: p.Proto, In: 5, Len: 28})
		return ok
	}
	if !carried() {
		t.Fatal("the flow is not carried")
	}
	stop, over := make(chan struct{}), make(chan struct{})
	go func() {
		f.walkOver(stop)
		close(over)
	}()
	deadline := time.After(10 * time.Second)
	for carried() {
		select {
		case <-deadline:
			t.Fatal("the flow is carried against policy")
		case <-time.After(time.Millisecond):
		}
	}
	close(stop)
	<-over
	if f.carrier.walk.done.walks != 0 {
		t.Error("there was a walk")
	}
}

// However long a walk takes: once the patience with it is over, nothing is carried that policy denies by now, whether
// the walk has come by or not; and what it has come by is not carried before that.
func TestSlowWalk(t *testing.T) {
	const flows = 8000
	memory := offload.NewMemory(flows)
	f, s := carriedWorldIn(t, flows, memory)
	table := f.carrier.table.Load()
	table.SetCarry(true)
	hook := offloadtest.Hook{Memory: memory, Kernel: monotonic}
	src, _ := podAddr(5)
	dst, _ := podAddr(6)
	carried := func() (n int) {
		for i := range flows {
			e := datagram(src, dst, uint16(1+i), 1).Ends()
			if _, ok := hook.Carry(offloadtest.Packet{Ends: e, Proto: packet.ProtoUDP, In: 5, Len: 28}); ok {
				n++
			}
		}
		return n
	}
	if n := carried(); n != flows {
		t.Fatalf("%d flows are carried", n)
	}
	// The walk looks at the clock as it goes, which shows how far it is.
	type sample struct {
		since      time.Duration // the change
		left, goes int           // flows that the walk has not come by, those that are carried
	}
	var samples []sample
	began := f.clock()
	now := began
	f.clock = func() int64 {
		samples = append(samples, sample{time.Duration(now - began), int(table.Stats().Records), carried()})
		now += int64(15 * time.Millisecond)
		return now - int64(15*time.Millisecond)
	}
	s.Epoch++
	denyIngress(6)(s)
	f.put(t, s)
	f.review()
	f.walkOver(nil)
	late := 0
	for i, x := range samples {
		switch strict := i > 0 && samples[i-1].since > patience; {
		case strict && x.goes != 0:
			t.Errorf("%v after the change %d flows are carried against policy", x.since, x.goes)
		case strict && x.left > 0:
			late++
		case x.goes > x.left:
			t.Errorf("%v after the change %d flows are carried, of %d that are left", x.since, x.goes, x.left)
		}
	}
	if late == 0 || samples[1].goes == 0 || carried() != 0 {
		t.Errorf("the walk was not slow: %+v", samples)
	}
}

// BenchmarkWalk is of 100,000 flows: those that policy did not change for, and those that are judged again.
func BenchmarkWalk(b *testing.B) {
	f, s := carriedWorld(b, 100000)
	b.Run("kept", func(b *testing.B) {
		for b.Loop() {
			f.walkOver(nil)
		}
	})
	b.Run("judged", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			s.Epoch++
			denyIngress(5)(s)
			f.put(b, s)
			b.StartTimer()
			f.walkOver(nil)
		}
	})
}

// Flows are copied to a table of another size though the egress of one is gone.
func TestCopyFlows(t *testing.T) {
	f, _ := carriedWorld(t, 8)
	from := f.carrier.table.Load()
	gone := offload.Flow{Near: packet.Ends{Src: packet.Addr{Lo: 1}, Dst: packet.Addr{Lo: 2}}, Proto: packet.ProtoUDP}
	gone.Far = gone.Near
	for flow := range f.flows.Load().Carried() {
		f.flows.Load().Uncarry(flow.ID)
		break
	}
	if err := from.SetEgress(7, offload.Egress{Kind: offload.Pod, IfIndex: 7}); err != nil {
		t.Fatal(err)
	}
	if _, ok := from.Enter(0, &gone, 0, &offload.Way{In: 5, Out: 7, MTU: 1500}); !ok {
		t.Fatal("there is no room")
	}
	if err := from.SetEgress(7, offload.Egress{}); err != nil {
		t.Fatal(err)
	}
	to, err := offload.New(offload.Config{Memory: offload.NewMemory(16), Clock: f.clock, Kernel: monotonic})
	if err != nil {
		t.Fatal(err)
	}
	copied, left, err := copyFlows(from, to)
	if err != nil || copied != 7 || left != 1 || to.Stats().Records != 7 {
		t.Errorf("%d flows copied, %d left, %d there, %v", copied, left, to.Stats().Records, err)
	}
}
