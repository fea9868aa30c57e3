// SPDX-License-Identifier: Apache-2.0

package offload_test

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/offload/offloadtest"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// numbered is the n-th flow: all that it becomes tells its number.
func numbered(n int) (offload.Flow, [2]offload.Way) {
	at := func(net int) packet.Addr {
		return packet.AddrFrom(netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", net, n)))
	}
	f := offload.Flow{
		Near:  packet.Ends{Src: at(1), Dst: at(2), SrcPort: uint16(n), DstPort: 80},
		Far:   packet.Ends{Src: at(3), Dst: at(4), SrcPort: uint16(n), DstPort: uint16(8000 + n)},
		Proto: packet.ProtoTCP,
	}
	return f, [2]offload.Way{
		{In: 1, Out: packet.PortID(2 + n), MAC: packet.MAC{2, byte(n)}, MTU: 1500},
		{In: packet.PortID(2 + n), Out: 1, MAC: packet.MAC{3, byte(n)}, MTU: 1500},
	}
}

// TestHooks: records change hands all the time, and no hook carries a packet but as its flow says. Who reads and lists
// meanwhile sees whole flows.
func TestHooks(t *testing.T) {
	const flows = 6
	begun := time.Now()
	clock := func() int64 { return int64(time.Since(begun)) + int64(time.Hour) }
	mem := offload.NewMemory(3)
	tab, err := offload.New(offload.Config{Memory: mem, Clock: clock, Kernel: clock})
	if err != nil {
		t.Fatal(err)
	}
	for port := packet.PortID(1); port < 2+flows; port++ {
		if err := tab.SetEgress(port, offload.Egress{Kind: offload.Pod, IfIndex: int(port)}); err != nil {
			t.Fatal(err)
		}
	}
	tab.SetCarry(true)
	hook := offloadtest.Hook{Memory: mem, Kernel: clock}
	var writers, readers sync.WaitGroup
	var carried, stop atomic.Int64
	for w := range 2 {
		writers.Go(func() {
			for i := range 30_000 {
				f, ways := numbered(i*2%flows + w)
				ref, _ := tab.Enter(0, &f, 0, &ways[0])
				if ref != 0 {
					tab.Enter(ref, &f, 1, &ways[1])
					tab.Remove(ref)
				}
			}
		})
	}
	for d := range 2 {
		readers.Go(func() {
			for i := 0; stop.Load() == 0; i++ {
				f, ways := numbered(i % flows)
				p := offloadtest.Packet{Ends: f.Near, Proto: f.Proto, In: ways[d].In, Len: 100, Flags: 16, Ack: 1}
				want := offloadtest.Carried{Ends: f.Far, MAC: ways[d].MAC, Out: ways[d].Out}
				if d != 0 {
					p.Ends, want.Ends = f.Far.Reverse(), f.Near.Reverse()
				}
				got, ok := hook.Carry(p)
				if ok && got != want {
					t.Errorf("carried %+v, want %+v", got, want)
					return
				}
				if ok {
					carried.Add(1)
				}
			}
		})
	}
	readers.Go(func() {
		for stop.Load() == 0 {
			for ref := range tab.All() {
				f, _, ok := tab.Flow(ref)
				if want, _ := numbered(int(f.Near.SrcPort)); ok && f != want {
					t.Errorf("%+v, want %+v", f, want)
				}
				tab.Read(ref)
				tab.Keep(ref, 0)
			}
			tab.Beat()
		}
	})
	writers.Wait()
	stop.Store(1)
	readers.Wait()
	t.Logf("%d packets carried, %+v", carried.Load(), tab.Stats())
	if carried.Load() == 0 || tab.Stats().Records != 0 {
		t.Fatalf("%+v", tab.Stats())
	}
}
