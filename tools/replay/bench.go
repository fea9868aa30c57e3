// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source/directory"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
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

	startOfTime = int64(time.Second) // zero is never
	longestStep = time.Hour          // a capture's clock that jumps further is not believed
)

// observed is the worker's last decision about the packet in hand.
type observed struct {
	reason  verdict.Reason
	in, out packet.PortID
	wait    *neighbor.Entry
}

// bench is a worker with a queue in memory on each device.
type bench struct {
	cfg       Config
	sinks     Sinks
	umem      *xsk.UMEM
	worker    *worker.Worker
	tables    atomic.Pointer[tables.Tables]
	neighbors *neighbor.Table
	queues    []*xsk.Memory // by device index
	numbers   []int         // interface numbers of the output, by device index
	device    int           // of the port that packets come in by
	mac       packet.MAC    // of that device

	now     int64
	clock   time.Time // of the last packet
	current *pcap.Packet
	last    observed
	before  *ledger.Totals // the ledger before the packet in hand
	counts  Summary
}

func newBench(cfg Config, sinks Sinks) (_ *bench, err error) {
	snapshot, err := compiled(cfg.Manifests, cfg.Node)
	if err != nil {
		return nil, err
	}
	b := &bench{cfg: cfg, sinks: sinks, now: startOfTime, neighbors: neighbor.NewTable(neighbor.Config{}),
		before: &ledger.Totals{}}
	b.counts.Reasons = make(map[string]int)
	b.counts.Verdicts = make(map[string]int)
	devices := devicesOf(snapshot, cfg)
	links := func(name string) (tables.Link, bool) { l, ok := devices.links[name]; return l, ok }
	t, err := tables.Build(nil, snapshot, links, b.neighbors)
	if err != nil {
		return nil, fmt.Errorf("build tables: %w", err)
	}
	t.Enter(nil)
	b.tables.Store(t)
	port := t.ByName(cfg.Port)
	if port == nil {
		return nil, fmt.Errorf("no port is named %q in %s; there are %s", cfg.Port, cfg.Manifests, portNames(snapshot))
	}
	b.device, b.mac = port.DeviceIndex, port.MAC
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
	})
	for i, name := range devices {
		q, err := xsk.NewMemory(xsk.MemoryConfig{UMEM: b.umem, Device: name, MultiBuffer: true, FillSize: fill})
		if err != nil {
			return fmt.Errorf("make queue of %s: %w", name, err)
		}
		b.queues = append(b.queues, q)
		b.worker.AddLink(i, q, fill)
		number, err := b.sinks.Device(name)
		if err != nil {
			return err
		}
		b.numbers = append(b.numbers, number)
	}
	return nil
}

func (b *bench) close() {
	for i := range b.queues {
		b.worker.RemoveDevice(i)
	}
	if b.umem != nil {
		_ = b.umem.Close() // unmapping what nobody uses any more
	}
}

// compiled reads the manifests. What a running dataplane would leave out is an error here: nobody would see it.
func compiled(dir, node string) (*api.Snapshot, error) {
	objects, errs, err := directory.Read(dir)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	if err := refused(errs); err != nil {
		return nil, err
	}
	snapshot, errs, err := compile.Once(objects, compile.Node{Name: node, Sole: true})
	if err != nil {
		return nil, fmt.Errorf("manifests in %s: %w", dir, err)
	}
	return snapshot, refused(errs)
}

func refused(errs []*model.Error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return fmt.Errorf("%w (and %d more)", errs[0], len(errs)-1)
}

type devices struct {
	names []string
	links map[string]tables.Link
}

// devicesOf makes up the devices that the ports name.
func devicesOf(s *api.Snapshot, cfg Config) devices {
	d := devices{links: make(map[string]tables.Link)}
	for _, p := range s.GetPorts() {
		l, known := d.links[p.GetDevice()]
		if !known {
			n := len(d.names)
			l = tables.Link{MAC: packet.MAC{0x02, 0x76, 0x64, 0, byte(n >> 8), byte(n)}, Up: true, Index: n}
			d.names = append(d.names, p.GetDevice())
		}
		const tag = 4 // a second tag is at the packet's cost
		l.MTU = max(l.MTU, int(p.GetMtu())+tag)
		if p.GetMtu() == 0 {
			l.MTU = max(l.MTU, cfg.MTU)
		}
		if p.GetName() == cfg.Port && cfg.MAC != nil {
			l.MAC = packet.MAC(cfg.MAC)
		}
		d.links[p.GetDevice()] = l
	}
	return d
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
			p := &pcap.Packet{Time: b.current.Time, Data: data, OriginalLen: len(data), Interface: b.numbers[i]}
			errs = append(errs, b.sinks.Out(p, b.comment(why)))
			b.counts.Sent++
		})
	}
	return errors.Join(errs...)
}

func (b *bench) comment(why purpose) string {
	packet := fmt.Sprintf("packet %d of the capture", b.current.Index)
	r := b.last.reason
	switch {
	case why == asking:
		return "asks for the next hop of " + packet
	case r.Verdict() == verdict.Forwarded:
		return fmt.Sprintf("%s: %s: %s", packet, r.Verdict(), r)
	}
	return fmt.Sprintf("answer to %s: %s: %s", packet, r.Verdict(), r)
}
