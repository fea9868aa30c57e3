// SPDX-License-Identifier: Apache-2.0

// Package ledger keeps the books of the packet loop: for every port, what was received equals what was forwarded,
// dropped, consumed or is still held, at any moment a reader looks.
//
// A worker writes its own Book without locks: it counts in plain memory while it works through a batch and publishes
// what changed at the batch's end, under a sequence counter (a seqlock, as in linux/seqlock.h). A reader that meets a
// publication in progress reads again, so it never sees half a batch.
package ledger

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// Counter numbers one counter of a port's account. The verdict's reasons follow the fixed ones: see ByReason.
type Counter uint8

// Counters. "In" ones belong to the port a packet came in by, "out" ones to the port it leaves by.
const (
	Received         Counter = iota // in: packets taken from rx rings
	ReceivedBytes                   // in: their bytes, Ethernet header included
	Held                            // in: packets waiting for a neighbour at this moment (a gauge)
	Transmitted                     // out: packets given to tx rings: forwarded, originated and extra fragments
	TransmittedBytes                // out: their bytes
	Originated                      // out: packets of our own given to tx rings: ARP, ND, ICMP
	OriginatedLost                  // out: packets of our own that could not be sent
	Fragments                       // out: fragments and segments beyond the first of their packet
	firstReason
)

const numCounters = int(firstReason) + int(verdict.NumReasons)

// ByReason is the counter of packets, on the port they came in by, that ended with reason r.
func ByReason(r verdict.Reason) Counter { return firstReason + Counter(r) }

// Account is one worker's counters of one port. Only its worker may call Add and Sub.
type Account struct {
	local   [numCounters]uint64
	shared  [numCounters]atomic.Uint64
	dirty   [numCounters]bool
	touched []Counter
	queued  bool // stands in the book's list of accounts to publish
	book    *Book
}

// Add adds n to the counter.
func (a *Account) Add(c Counter, n uint64) {
	if !a.dirty[c] {
		a.touch(c)
	}
	a.local[c] += n
}

// Sub takes n from the counter.
func (a *Account) Sub(c Counter, n uint64) { a.Add(c, -n) }

// Move changes the reason of one packet that was counted already.
func (a *Account) Move(from, to verdict.Reason) {
	a.Sub(ByReason(from), 1)
	a.Add(ByReason(to), 1)
}

func (a *Account) touch(c Counter) {
	a.dirty[c] = true
	a.touched = append(a.touched, c)
	if !a.queued {
		a.queued = true
		a.book.changed = append(a.book.changed, a)
	}
}

// Book is one worker's accounts, by port.
type Book struct {
	sequence atomic.Uint64
	accounts atomic.Pointer[[]*Account]
	changed  []*Account
}

// NewBook returns an empty book.
func NewBook() *Book {
	b := &Book{}
	b.accounts.Store(&[]*Account{})
	return b
}

// Account returns the account of a port, opening it when there is none. Only the book's worker may call it.
func (b *Book) Account(port packet.PortID) *Account {
	if accounts := *b.accounts.Load(); int(port) < len(accounts) && accounts[port] != nil {
		return accounts[port]
	}
	return b.open(port)
}

func (b *Book) open(port packet.PortID) *Account {
	old := *b.accounts.Load()
	accounts := make([]*Account, max(len(old), int(port)+1))
	copy(accounts, old)
	a := &Account{book: b, touched: make([]Counter, 0, numCounters)}
	accounts[port] = a
	b.accounts.Store(&accounts)
	return a
}

// Publish makes everything counted since the last call visible to readers, at once.
func (b *Book) Publish() {
	if len(b.changed) == 0 {
		return
	}
	b.sequence.Add(1)
	for _, a := range b.changed {
		for _, c := range a.touched {
			a.shared[c].Store(a.local[c])
			a.dirty[c] = false
		}
		a.touched = a.touched[:0]
		a.queued = false
	}
	b.sequence.Add(1)
	b.changed = b.changed[:0]
}

// Totals is the sum of a port's accounts over all workers.
type Totals [numCounters]uint64

// Get returns one counter.
func (t *Totals) Get(c Counter) uint64 { return t[c] }

// Sum adds the counters of all reasons with the verdict.
func (t *Totals) Sum(v verdict.Verdict) uint64 {
	var n uint64
	for r := verdict.None + 1; r < verdict.NumReasons; r++ {
		if r.Verdict() == v {
			n += t[ByReason(r)]
		}
	}
	return n
}

// Add adds another port's totals.
func (t *Totals) Add(o *Totals) {
	for c := range t {
		t[c] += o[c]
	}
}

// Since takes away what another port counted under the same number before; nil: nothing. What it held has left since.
func (t *Totals) Since(before *Totals) {
	if before == nil {
		return
	}
	for c := range t {
		if Counter(c) != Held {
			t[c] -= before[c]
		}
	}
}

// CheckInput returns an error that shows the figures when packets received are not those accounted for.
func (t *Totals) CheckInput() error {
	forwarded, consumed, dropped := t.Sum(verdict.Forwarded), t.Sum(verdict.Consumed), t.Sum(verdict.Dropped)
	if t[Received] == forwarded+consumed+dropped+t[Held] {
		return nil
	}
	return fmt.Errorf("received %d is not forwarded %d + consumed %d + dropped %d + held %d",
		t[Received], forwarded, consumed, dropped, t[Held])
}

// CheckOutput is CheckInput for what left: it holds for the sum of all ports, not for one.
func (t *Totals) CheckOutput() error {
	forwarded := t.Sum(verdict.Forwarded)
	if t[Transmitted] == forwarded+t[Originated]+t[Fragments] {
		return nil
	}
	return fmt.Errorf("transmitted %d is not forwarded %d + originated %d + fragments %d",
		t[Transmitted], forwarded, t[Originated], t[Fragments])
}

// Read sums the books' accounts by port. Each book is read as it stood at one moment.
func Read(books []*Book) map[packet.PortID]*Totals {
	sum := make(map[packet.PortID]*Totals)
	for _, b := range books {
		for port, totals := range b.read() {
			if sum[port] == nil {
				sum[port] = &Totals{}
			}
			sum[port].Add(totals)
		}
	}
	return sum
}

func (b *Book) read() map[packet.PortID]*Totals {
	for {
		before := b.sequence.Load()
		if before%2 == 0 {
			totals := b.copyAccounts()
			if b.sequence.Load() == before {
				return totals
			}
		}
		runtime.Gosched()
	}
}

func (b *Book) copyAccounts() map[packet.PortID]*Totals {
	totals := make(map[packet.PortID]*Totals)
	for port, a := range *b.accounts.Load() {
		if a == nil {
			continue
		}
		t := &Totals{}
		for c := range t {
			t[c] = a.shared[c].Load()
		}
		totals[packet.PortID(port)] = t
	}
	return totals
}
