// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"iter"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/handover"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// Flows outlive the process that opened them: in the kernel's table, from which a dataplane that starts reads what the
// kernel carries; and in the file that a predecessor hands over, which has all of them.

// inParts has a goroutine do each part of what no packet passes before, and returns how much that was.
func inParts[T any](parts []T, do func(i int, part T) int) int {
	var sum atomic.Int64
	var doing sync.WaitGroup
	for i, part := range parts {
		doing.Go(func() { sum.Add(int64(do(i, part))) })
	}
	doing.Wait()
	return int(sum.Load())
}

// exportFlows writes all flows to a file in memory.
func (f *Forwarder) exportFlows(s *handover.State) ([]*os.File, error) {
	var written [][]byte
	if flows := f.flows.Load(); flows != nil {
		parts := flows.ExportParts(f.clock(), runtime.NumCPU())
		written = make([][]byte, len(parts))
		s.Flows = inParts(parts, func(i int, part iter.Seq[conntrack.Saved]) (count int) {
			b := make([]byte, 0, (flows.Entries()/len(parts)+1)*224)
			for saved := range part {
				b = handover.AppendFlow(b, &saved)
				count++
			}
			written[i] = b
			return count
		})
	}
	file, err := handover.NewFile(written...)
	if err != nil {
		return nil, err
	}
	return []*os.File{file}, nil
}

// readFlows reads such a file.
func readFlows(s *handover.State, file *os.File) (*handover.Flows, error) {
	b, err := handover.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return handover.ReadFlows(b, s.Flows)
}

// importFlows puts in flows that a predecessor judged under a generation of policy of its own, which is the same as
// that of the tables: what it let in then, these tables let in. Their records in the kernel's table go on.
func (f *Forwarder) importFlows(t *tables.Tables, list *handover.Flows, generation uint32) {
	now := f.clock()
	taken := inParts(list.Parts(runtime.NumCPU()), func(_ int, part iter.Seq[*handover.Flow]) (taken int) {
		for s := range part {
			if taken%4096 == 0 {
				f.beat() // what comes waits in the sockets
			}
			if f.importFlow(t, s, generation, now) {
				taken++
			}
		}
		return taken
	})
	f.adoptPairs()
	f.log.Info("flows taken over", zap.Int("flows", taken), zap.Int("not taken", list.Len()-taken))
}

// importFlow says whether it has put the flow in.
func (f *Forwarder) importFlow(t *tables.Tables, s *handover.Flow, generation uint32, now int64) bool {
	table := f.carrier.table.Load()
	if s.Served {
		s.Backend = backendOf(t, &s.Saved)
	}
	if s.Generation == generation {
		s.Generation = t.Policy.Generation
	}
	if f.flows.Load().Restore(&s.Saved, now) != nil {
		if ref := recordOf(table, &s.Saved); ref != 0 {
			table.Remove(ref)
		}
		return false
	}
	opened(t, &s.Saved)
	if ref := s.Record(); ref != 0 && s.Generation == t.Policy.Generation {
		table.Keep(ref, s.Generation)
	}
	return true
}

// recordOf is the flow's record in the kernel's table; 0: none.
func recordOf(table *offload.Table, s *conntrack.Saved) offload.Ref {
	if table == nil {
		return 0
	}
	ref, _ := table.Find(s.Near, s.Proto, s.In)
	if ref == 0 {
		ref, _ = table.Find(s.Far.Reverse(), s.Proto, s.Out)
	}
	return ref
}

// adoptPairs has flows become the kernel's that were under way when another process entered the pairs that carry them.
// The pairs themselves go on, and the walk asks of each whether it still may.
func (f *Forwarder) adoptPairs() {
	table, p := f.carrier.table.Load(), &f.carrier.pairs
	if table == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ref := range table.Pairs() {
		if flow, _, ok := table.Flow(ref); ok && flow.Pair {
			pair := conntrack.PairOf(flow.Near.Src, flow.Near.Dst)
			p.recent = append(p.recent, conntrack.EnteredPair{AddressPair: pair, Ref: ref})
		}
	}
	if len(p.recent) > 0 {
		p.since = f.clock()
	}
}

// backendOf is the number of the flow's backend in the tables; 0: it is not there any more.
func backendOf(t *tables.Tables, s *conntrack.Saved) uint32 {
	return t.Services.Number(&service.Query{Dst: s.Near.Dst, DstPort: s.Near.DstPort, Proto: s.Proto},
		s.Far.Dst, s.Far.DstPort)
}

// opened counts the flow at its backend.
func opened(t *tables.Tables, s *conntrack.Saved) {
	if s.Backend != 0 && !s.Closed() {
		t.Backends.Opened(s.Backend)
	}
}

// restoreFlows puts in, once, what there was before this process: when its table of flows is there, and before packets
// come. What the kernel carries goes on; policy judges it again, for it may be another than it was judged by.
func (f *Forwarder) restoreFlows(t *tables.Tables) {
	switch {
	case f.flows.Load() == nil:
		return
	case f.restored:
		f.restoreRest(t)
		return
	}
	f.restored = true
	f.unrestored.until = f.clock() + int64(awaitPorts)
	f.restoreLearned(t)
	if h := f.handed; h != nil {
		f.handed = nil
		f.importFlows(t, h.flows, h.offer.Generation)
		return
	}
	table := f.carrier.table.Load()
	if table == nil {
		return
	}
	refs := slices.Collect(table.All())
	if len(refs) == 0 {
		return
	}
	taken := f.restoreRecords(t, refs)
	f.adoptPairs()
	f.log.Info("flows of the kernel's table go on", zap.Int("flows", taken),
		zap.Int("of ports to come", len(f.unrestored.refs)))
}

// awaitPorts is for how long records wait for their ports: the snapshot on disk may be older than those.
const awaitPorts = 10 * time.Second

// unrestored is records of ports that the tables do not have yet. They count for nothing until then: the hooks know
// neither the ports nor the records' generation.
type unrestored struct {
	refs  []offload.Ref
	until int64
}

// restoreRest puts in what waits for its ports, or gives it up.
func (f *Forwarder) restoreRest(t *tables.Tables) {
	u := &f.unrestored
	f.restoreLearned(t)
	if f.clock() >= u.until {
		f.learned = nil
	}
	if len(u.refs) == 0 {
		return
	}
	refs := u.refs
	u.refs = nil
	f.restoreRecords(t, refs)
	if f.clock() < u.until {
		return
	}
	for _, ref := range u.refs {
		f.carrier.table.Load().Remove(ref)
	}
	u.refs = nil
}

// restoreRecords puts in the flows of records, and returns how many.
func (f *Forwarder) restoreRecords(t *tables.Tables, refs []offload.Ref) int {
	table, now := f.carrier.table.Load(), f.clock()
	parts := slices.Collect(slices.Chunk(refs, len(refs)/runtime.NumCPU()+1))
	waiting := make([][]offload.Ref, len(parts))
	taken := inParts(parts, func(i int, refs []offload.Ref) (taken int) {
		for _, ref := range refs {
			switch f.restoreFlow(t, ref, now) {
			case restored:
				taken++
			case awaitsPorts:
				waiting[i] = append(waiting[i], ref)
			case lost:
				table.Remove(ref)
			}
		}
		return taken
	})
	f.unrestored.refs = append(f.unrestored.refs, slices.Concat(waiting...)...)
	return taken
}

// restoration is what became of a record's flow.
type restoration uint8

const (
	lost restoration = iota
	restored
	awaitsPorts
	kept // it has none that is tracked: the walk asks whether it goes on
)

// restoreFlow puts in the flow of a record.
func (f *Forwarder) restoreFlow(t *tables.Tables, ref offload.Ref, now int64) restoration {
	flows := f.flows.Load()
	s, ok := flows.Recorded(ref, now)
	switch {
	case !ok:
		if is, _, there := f.carrier.table.Load().Flow(ref); there && (is.Pair || is.Untracked) {
			return kept
		}
		return lost
	case t.Port(s.In) == nil || t.Port(s.Out) == nil:
		return awaitsPorts
	}
	if s.Translated {
		s.Backend = backendOf(t, &s)
	}
	if flows.Restore(&s, now) != nil {
		return lost
	}
	opened(t, &s)
	return restored
}

// follows has generations of policy be later than those of the records that an earlier process has left.
func follows(table *offload.Table) {
	if newest, found := table.NewestGeneration(); found {
		policy.Resume(newest)
	}
}

// carryOver copies what a table of another size carries.
func (f *Forwarder) carryOver(from *xdpprog.FlowTable, to *offload.Table) error {
	before, err := offload.New(offload.Config{Memory: offload.Memory(from.Memory()), Clock: f.clock, Kernel: monotonic})
	if err != nil {
		return err
	}
	copied, left, err := copyFlows(before, to)
	if err == nil {
		f.log.Info("the kernel's table of flows has another size", zap.Int("flows", copied), zap.Int("left", left))
	}
	return err
}

// copyFlows leaves the directions that lead to userspace, be it that their egress is gone or that a pair, which is not
// copied, was not to have them.
func copyFlows(from, to *offload.Table) (copied, left int, err error) {
	for ref := range from.All() {
		flow, ways, ok := from.Flow(ref)
		if !ok || flow.Pair {
			continue
		}
		if flow.Young.Is && !flow.Answered { // its opener asks again
			left++
			continue
		}
		var is offload.Ref
		for d, w := range ways {
			if w.In == 0 || w.Out == 0 {
				continue
			}
			if err := to.SetEgress(w.Out, from.Egress(w.Out)); err != nil {
				return copied, left, err
			}
			is, _ = to.Enter(is, &flow, uint8(d), &w)
		}
		if is == 0 {
			left++
		} else {
			copied++
		}
	}
	return copied, left, nil
}
