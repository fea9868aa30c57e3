// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/worker"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
	"github.com/viaduct-net/viaduct/internal/pcap"
)

const (
	solicitedAnswer = neighbor.SolicitedOverride

	chunkSize = 4096
	fill      = 256 // frames that a device's fill ring holds: the largest packet takes 18
	spare     = 512 // frames for packets in hand, fragments and our own

	loose                    = time.Minute // connections that were open before the capture are taken up for so long
	namesPorts, namesPerPort = 4096, 1024  // names of addresses that pods' DNS answers say

	startOfTime = int64(time.Second) // zero is never
	trunkMTU    = 65535              // bytes, as that of the trunk and of pods' links

	longestStep = time.Hour // a capture's clock that jumps further is not believed
)

// observed is the worker's last decision about the packet in hand.
type observed struct {
	frame   *byte // where it lies, which tells it from others that are judged meanwhile; nil: not judged yet
	reason  verdict.Reason
	in, out packet.PortID
	rule    policy.RuleID
}

// bench is a worker with a queue in memory on each device.
type bench struct {
	cfg       Config
	sinks     Sinks
	umem      *xsk.UMEM
	worker    *worker.Worker
	tables    atomic.Pointer[tables.Tables]
	neighbors *neighbor.Table
	queues    []*xsk.Memory         // by device index
	numbers   []int                 // interface numbers of the output, by device index
	ports     []*tables.Port        // that packets come in by
	trunk     int                   // index of its device, -1: there is none
	stations  map[packet.PortID]int // interface numbers of those at the trunk

	now     int64
	clock   time.Time // of the last packet
	current *pcap.Packet
	last    observed
	waits   []*neighbor.Entry         // what packets wait for
	others  bool                      // others than the packet in hand were judged: fragments that waited for it
	before  *ledger.Totals            // the ledger before the packet in hand
	ended   map[verdict.Reason]uint64 // what became of packets after they were reported as waiting
	counts  Summary
}

func newBench(cfg Config, sinks Sinks) (_ *bench, err error) {
	snapshot, err := compiled(cfg.Manifests, cfg.Node)
	if err != nil {
		return nil, err
	}
	b := &bench{cfg: cfg, sinks: sinks, now: startOfTime, neighbors: neighbor.NewTable(neighbor.Config{}),
		before: &ledger.Totals{}, stations: map[packet.PortID]int{}, ended: map[verdict.Reason]uint64{}}
	b.counts.Reasons = make(map[string]int)
	b.counts.Verdicts = make(map[string]int)
	devices := devicesOf(snapshot, cfg)
	links := func(name string) (tables.Link, bool) { l, ok := devices.links[name]; return l, ok }
	t, err := tables.Build(nil, snapshot, links, b.neighbors)
	if err != nil {
		return nil, fmt.Errorf("build tables: %w", err)
	}
	t.Enter(nil)
	t.Services.Enter(t.Backends, b.now)
	b.tables.Store(t)
	for name := range strings.SplitSeq(cfg.Port, ",") {
		port := t.ByName(name)
		switch {
		case port == nil && strings.Contains(name, "/"):
			return nil, fmt.Errorf("no port is named %q in %s: of pods those of the node are, that have status.podIPs; "+
				"there are %s", name, cfg.Manifests, portNames(snapshot))
		case port == nil:
			return nil, fmt.Errorf("no port is named %q in %s; there are %s", name, cfg.Manifests, portNames(snapshot))
		case port.Trunk && cfg.MAC != nil:
			return nil, fmt.Errorf("--mac is for ports with a device, and %s has none", name)
		}
		b.ports = append(b.ports, port)
	}
	b.trunk = slices.Index(devices.names, tables.TrunkDevice)
	if err := b.open(devices.names); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// open makes the memory, the worker and a queue for each device.
func (b *bench) open(devices []string) (err error) {
	b.umem, err = xsk.NewUMEM(xsk.UMEMConfig{Chunks: len(devices)*fill + spare, ChunkSize: chunkSize})
	if err != nil {
		return err
	}
	b.worker = worker.New(worker.Config{
		UMEM: b.umem, Pool: xsk.NewPool(b.umem), Tables: &b.tables, Observe: b.observe,
		Flows: b.flows(), Names: names.NewStore(namesPorts, namesPerPort),
	})
	for i, name := range devices {
		q, err := xsk.NewMemory(xsk.MemoryConfig{UMEM: b.umem, Device: name, MultiBuffer: true, FillSize: fill})
		if err != nil {
			return fmt.Errorf("make queue of %s: %w", name, err)
		}
		b.queues = append(b.queues, q)
		b.worker.AddLink(i, q, fill)
		number := -1
		if name != tables.TrunkDevice { // whose stations have interfaces of their own
			if number, err = b.sinks.Device(name); err != nil {
				return err
			}
		}
		b.numbers = append(b.numbers, number)
	}
	return nil
}

// flows are tracked as the dataplane does it, where there are stations; else none is.
func (b *bench) flows() *conntrack.Table {
	t := b.tables.Load()
	if b.trunk < 0 && !t.Tracking {
		return nil
	}
	flows := conntrack.New(conntrack.Config{
		Flows: int(t.Node.GetFlows()), PerPort: int(t.Node.GetFlowsPerPort()), Loose: startOfTime + int64(loose),
		Left: t.Backends.Left,
	})
	for i := range t.Ports {
		flows.Share(t.Ports[i].ID, t.Ports[i].Shared())
	}
	return flows
}

func (b *bench) close() {
	for i := range b.queues {
		b.worker.RemoveDevice(i)
	}
	if b.umem != nil {
		_ = b.umem.Close() // unmapping what nobody uses any more
	}
}

type devices struct {
	names []string
	links map[string]tables.Link
}

// devicesOf makes up the devices that the ports name.
func devicesOf(s *api.Snapshot, cfg Config) devices {
	d := devices{links: make(map[string]tables.Link)}
	for _, p := range s.GetPorts() {
		if atTrunk(p) {
			d.links[p.GetDevice()] = tables.Link{Up: true, MTU: trunkMTU}
			continue
		}
		l, known := d.links[p.GetDevice()]
		if !known {
			l = d.add(p.GetDevice())
		}
		const tag = 4 // a second tag is at the packet's cost
		l.MTU = max(l.MTU, int(p.GetMtu())+tag)
		if p.GetMtu() == 0 {
			l.MTU = max(l.MTU, cfg.MTU)
		}
		if cfg.MAC != nil && slices.Contains(strings.Split(cfg.Port, ","), p.GetName()) {
			l.MAC = packet.MAC(cfg.MAC)
		}
		d.links[p.GetDevice()] = l
	}
	if slices.ContainsFunc(s.GetPorts(), atTrunk) {
		l := d.add(tables.TrunkDevice)
		l.MTU = trunkMTU
		d.links[tables.TrunkDevice] = l
	}
	return d
}

// add makes up a device with a queue.
func (d *devices) add(name string) tables.Link {
	n := len(d.names)
	d.names = append(d.names, name)
	return tables.Link{MAC: packet.MAC{0x02, 0x76, 0x64, 0, byte(n >> 8), byte(n)}, Up: true, Index: n}
}

func portNames(s *api.Snapshot) string {
	var names []string
	for _, p := range s.GetPorts() {
		names = append(names, p.GetName())
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

// advance sets the clock to the capture's. It never goes back.
func (b *bench) advance(t time.Time) {
	if t.IsZero() {
		return
	}
	if !b.clock.IsZero() {
		if step := min(t.Sub(b.clock), longestStep); step > 0 && b.now < math.MaxInt64-int64(step) {
			b.now += int64(step)
		}
	}
	b.clock = t
}

// purpose says why a packet leaves.
type purpose int

const (
	sending purpose = iota // it is the packet, or the answer to it
	asking                 // it asks for the MAC of the packet's next hop
)

// collect writes what the worker sent.
func (b *bench) collect(why purpose) error {
	var errs []error
	for i, q := range b.queues {
		q.Drain(func(data []byte, _ bool) {
			number, err := b.interfaceOf(i, data)
			p := &pcap.Packet{Time: b.current.Time, Data: data, OriginalLen: len(data), Interface: number}
			errs = append(errs, err, b.sinks.Out(p, b.comment(why)))
			b.counts.Sent++
		})
	}
	return errors.Join(errs...)
}

func (b *bench) comment(why purpose) string {
	packet := fmt.Sprintf("packet %d of the capture", b.current.Index)
	if b.others {
		packet += ", or a fragment that waited for it"
	}
	r := b.last.reason
	switch {
	case why == asking:
		return "asks for the next hop of " + packet
	case r.Verdict() == verdict.Forwarded:
		return fmt.Sprintf("%s: %s: %s", packet, r.Verdict(), r)
	}
	return fmt.Sprintf("answer to %s: %s: %s", packet, r.Verdict(), r)
}
