// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"sync"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

func TestReaderNeverSeesHalfABatch(t *testing.T) {
	book := NewBook()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			a := book.Account(packet.PortID(1 + i%3))
			a.Add(Received, 4)
			a.Add(ByReason(verdict.Routed), 2)
			a.Add(ByReason(verdict.TTLExceeded), 1)
			a.Move(verdict.Routed, verdict.TxRingFull)
			a.Add(Held, 1)
			book.Account(2).Add(Transmitted, 1)
			book.Publish()
		}
	})
	for range 2000 {
		var all Totals
		for port, totals := range Read([]*Book{book}) {
			if err := totals.CheckInput(); err != nil {
				t.Fatalf("port %d: %v", port, err)
			}
			all.Add(totals)
		}
		if err := all.CheckOutput(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestCheckFindsAMissingPacket(t *testing.T) {
	var totals Totals
	totals[Received] = 2
	totals[ByReason(verdict.Routed)] = 1
	if totals.CheckInput() == nil {
		t.Error("one packet vanished and the ledger balanced")
	}
	if totals.CheckOutput() == nil {
		t.Error("a forwarded packet was not transmitted and the ledger balanced")
	}
}

func TestCountingDoesNotAllocate(t *testing.T) {
	book := NewBook()
	a := book.Account(7)
	allocs := testing.AllocsPerRun(1000, func() {
		a.Add(Received, 1)
		a.Add(ByReason(verdict.Routed), 1)
		book.Account(7).Add(Transmitted, 1)
		book.Publish()
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a batch", allocs)
	}
}

func BenchmarkAccount(b *testing.B) {
	book := NewBook()
	for i := 0; b.Loop(); i++ {
		a := book.Account(1)
		a.Add(Received, 1)
		a.Add(ByReason(verdict.Routed), 1)
		if i%256 == 0 {
			book.Publish()
		}
	}
}
