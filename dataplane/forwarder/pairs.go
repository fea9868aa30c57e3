// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// Workers enter pairs of addresses of which the kernel carries all TCP (pipeline/pair.go), and the walk takes those out
// of which policy does not let all any more. What is left of it is done here, beside both:
//
//   - a moment after a pair was entered, flows that were under way become the kernel's (conntrack.Table.Settle), which
//     remembers them as it does those that it sees open;
//   - of a pair that is withdrawn those that the kernel remembers are judged one by one. They become flows that go on,
//     or that are kept quiet; others are taken up in mid-stream for a minute.

// settleAfter is how long packets may be under way to userspace that were sent before a pair was entered.
const settleAfter = time.Second

// pairsEvery is how often it is looked what there is to do; easeEvery how often connections between two addresses are
// counted from zero, of which there are to be some for a pair.
const (
	pairsEvery = 200 * time.Millisecond
	easeEvery  = 10 * time.Second
)

// idleAfter is for how long a pair has carried nothing, at least, that is withdrawn; for twice as long at most.
const idleAfter = 10 * time.Minute

// pairs is what is known of pairs.
type pairs struct {
	idleAfter time.Duration
	carried   map[offload.Ref]uint64 // packets, when it was looked last which are idle

	mu       sync.Mutex // one at a time settles or withdraws
	reviewer pipeline.Reviewer
	recent   []conntrack.EnteredPair // to be settled
	since    int64                   // when the first of them came
	left     []xdpprog.PairOpening   // of pairs that were withdrawn, to be resumed
	over     []xdpprog.PairOpening   // of the same, to be forgotten by the kernel

	withdrawn, resumed, denied uint64
}

// pairKeeper does what is left to do of pairs.
func (f *Forwarder) pairKeeper(stop <-chan struct{}) {
	every, ease := time.NewTicker(pairsEvery), time.NewTicker(easeEvery)
	defer every.Stop()
	defer ease.Stop()
	idle := time.NewTicker(f.carrier.pairs.idleAfter)
	defer idle.Stop()
	for {
		select {
		case <-stop:
			return
		case <-every.C:
			if flows := f.flows.Load(); flows != nil {
				f.resumeLeft(flows)
				f.resumeDropped(flows)
				f.settlePairs(flows)
			}
		case <-ease.C:
			if flows := f.flows.Load(); flows != nil {
				flows.Ease()
			}
		case <-idle.C:
			if flows := f.flows.Load(); flows != nil {
				f.withdrawIdle(flows)
			}
		}
	}
}

// reviewPairs withdraws the pairs that are not to be carried by the walk's tables, and lets the others go on.
func (f *Forwarder) reviewPairs(r *pipeline.Reviewer, flows *conntrack.Table) {
	table := f.carrier.table.Load()
	p := &f.carrier.pairs
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := map[conntrack.AddressPair]offload.Ref{}
	for _, ref := range table.Pairs() {
		flow, ways, ok := table.Flow(ref)
		switch {
		case !ok:
		case r.ReviewPair(&flow, &ways):
			table.Keep(ref, r.Tables.Policy.Generation)
		default:
			gone[conntrack.PairOf(flow.Near.Src, flow.Near.Dst)] = ref
		}
	}
	f.withdrawPairs(r, flows, gone)
}

// resumeDropped is for pairs that had to make way at once.
func (f *Forwarder) resumeDropped(flows *conntrack.Table) {
	p := &f.carrier.pairs
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := map[conntrack.AddressPair]offload.Ref{}
	for _, pair := range flows.TakeDropped() {
		gone[pair] = 0
	}
	f.withdrawPairs(f.pairReviewer(), flows, gone)
}

// pairReviewer reviews beside the walk's. pairs.mu is held.
func (f *Forwarder) pairReviewer() *pipeline.Reviewer {
	r := &f.carrier.pairs.reviewer
	r.Tables, r.Names, r.Now = f.tables.Load(), f.dns, f.clock()
	return r
}

// withdrawIdle withdraws pairs that have carried nothing since the last call.
func (f *Forwarder) withdrawIdle(flows *conntrack.Table) {
	table, p := f.carrier.table.Load(), &f.carrier.pairs
	p.mu.Lock()
	defer p.mu.Unlock()
	gone, carried := map[conntrack.AddressPair]offload.Ref{}, map[offload.Ref]uint64{}
	for _, ref := range table.Pairs() {
		flow, _, ok := table.Flow(ref)
		k, still := table.Read(ref)
		if !ok || !still {
			continue
		}
		n := k.Traffic[0].Packets + k.Traffic[1].Packets
		if before, known := p.carried[ref]; known && before == n {
			gone[conntrack.PairOf(flow.Near.Src, flow.Near.Dst)] = ref
			continue
		}
		carried[ref] = n
	}
	p.carried = carried
	f.withdrawPairs(f.pairReviewer(), flows, gone)
}

// resumeFirst is for how long connections are resumed before their pairs are taken out. The others are left to the
// keeper: none goes on for long that policy denies, and those that it lets are taken up by what comes of them.
const resumeFirst = 20 * time.Millisecond

// withdrawPairs takes pairs out of the kernel's table, and has their connections go on as flows, as far as policy lets
// them. pairs.mu is held.
func (f *Forwarder) withdrawPairs(r *pipeline.Reviewer, flows *conntrack.Table,
	gone map[conntrack.AddressPair]offload.Ref) {
	if len(gone) == 0 {
		return
	}
	table, p := f.carrier.table.Load(), &f.carrier.pairs
	list, of := make([]conntrack.AddressPair, 0, len(gone)), make(map[conntrack.AddressPair]bool, len(gone))
	for pair := range gone {
		list, of[pair] = append(list, pair), true
	}
	flows.TakeUp(list, r.Now)
	openings := f.openingsOf(of)
	for _, c := range flows.Settle(of) {
		f.resume(r, flows, &c, r.Now)
	}
	n := 0
	for ; n < len(openings) && (n%64 != 0 || f.clock()-r.Now < int64(resumeFirst)); n++ {
		f.resumeOpening(r, flows, &openings[n])
	}
	for _, ref := range gone {
		table.Remove(ref)
	}
	p.withdrawn += uint64(len(gone))
	p.left, p.over = append(p.left, openings[n:]...), append(p.over, openings...)
}

// resumeLeft resumes the connections that were left, a few at a time, for a walk may wait.
func (f *Forwarder) resumeLeft(flows *conntrack.Table) {
	p := &f.carrier.pairs
	for some := -1; some != 0; {
		p.mu.Lock()
		r := f.pairReviewer()
		some = min(len(p.left), 256)
		for i := range p.left[:some] {
			f.resumeOpening(r, flows, &p.left[i])
		}
		p.left = p.left[some:]
		p.mu.Unlock()
	}
	p.mu.Lock()
	over := p.over
	p.over = nil
	p.mu.Unlock()
	f.forgetOpenings(over)
}

func (f *Forwarder) resumeOpening(r *pipeline.Reviewer, flows *conntrack.Table, o *xdpprog.PairOpening) {
	c := connectionOf(o)
	f.resume(r, flows, &c, r.Now-monotonic()+int64(o.Used)<<usedShift)
}

func (f *Forwarder) forgetOpenings(list []xdpprog.PairOpening) {
	if err := f.carrier.kernel.ForgetPairOpenings(list); err != nil {
		f.log.Warn("connections of pairs that are gone stay noted", zap.Error(err))
	}
}

// usedShift is what times of openings have been shifted by.
const usedShift = 24

// openingsOf are the connections of pairs that the kernel remembers.
func (f *Forwarder) openingsOf(of map[conntrack.AddressPair]bool) (list []xdpprog.PairOpening) {
	all, err := f.carrier.kernel.PairOpenings()
	if err != nil {
		f.log.Warn("connections of pairs are not known, and taken up in mid-stream", zap.Error(err))
	}
	for i := range all {
		if o := &all[i]; of[conntrack.PairOf(packet.AddrFrom(o.Src), packet.AddrFrom(o.Dst))] {
			list = append(list, *o)
		}
	}
	return list
}

func connectionOf(o *xdpprog.PairOpening) conntrack.Connection {
	return conntrack.Connection{In: packet.PortID(o.Port), Tuple: conntrack.Tuple{
		Src: packet.AddrFrom(o.Src), Dst: packet.AddrFrom(o.Dst), SrcPort: o.SrcPort, DstPort: o.DstPort,
		Proto: packet.ProtoTCP,
	}}
}

// resume has a connection, which was opened at some time, go on as a flow or be kept quiet.
func (f *Forwarder) resume(r *pipeline.Reviewer, flows *conntrack.Table, c *conntrack.Connection, opened int64) {
	v, ok := r.ReviewConnection(c)
	if !ok {
		return
	}
	age := time.Duration(max(r.Now-opened, 0))
	if flows.RestoreConnection(c, r.Tables.Policy.Generation, uint32(v.Rule), v.Reason, age, r.Now) != nil {
		return // it has been taken up already, or there is no room for it
	}
	if p := &f.carrier.pairs; v.Reason == verdict.None {
		p.resumed++
	} else {
		p.denied++
	}
}

// settlePairs has the kernel remember the flows that were under way as pairs were entered, which are there still.
func (f *Forwarder) settlePairs(flows *conntrack.Table) {
	table, p := f.carrier.table.Load(), &f.carrier.pairs
	p.mu.Lock()
	defer p.mu.Unlock()
	now := f.clock()
	if entered := flows.TakeEntered(); len(entered) > 0 {
		p.recent = append(p.recent, entered...)
		if p.since == 0 {
			p.since = now
		}
	}
	if p.since == 0 || now-p.since < int64(settleAfter) {
		return
	}
	of := map[conntrack.AddressPair]bool{}
	for _, pair := range p.recent {
		if flow, _, ok := table.Flow(pair.Ref); ok && flow.Pair {
			of[pair.AddressPair] = true
		}
	}
	p.recent, p.since = nil, 0
	if len(of) == 0 {
		return
	}
	var list []xdpprog.PairOpening
	for _, c := range flows.Settle(of) {
		list = append(list, openingOf(&c))
	}
	if err := f.carrier.kernel.NotePairOpenings(list); err != nil {
		f.log.Warn("connections that pairs carry are not noted", zap.Error(err))
	}
}

func openingOf(c *conntrack.Connection) xdpprog.PairOpening {
	u := &c.Tuple
	return xdpprog.PairOpening{
		Src: u.Src.Netip(), Dst: u.Dst.Netip(), SrcPort: u.SrcPort, DstPort: u.DstPort, Port: uint32(c.In),
		Used: uint32(monotonic() >> usedShift),
	}
}
