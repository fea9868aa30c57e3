// SPDX-License-Identifier: Apache-2.0

// Package worker is the packet loop: one locked OS thread, one UMEM, one queue on each device it serves; it runs
// packets to completion.
//
// A pass of the loop (Poll) goes through every queue: receive a batch, judge each packet, stage what leaves on its
// output queue, then transmit everything staged, give free frames back to the fill rings, and publish the ledger.
// There is no lock, no allocation and no logging in it. The files: worker.go (the pass), link.go (a device's queue
// and what is staged on it), emit.go (what becomes of a judged packet), hold.go (packets that wait for a neighbour),
// pace.go (packets that wait for their ports' limits), fragment.go (fragments that wait for their datagram's first),
// solicit.go (ARP and ND of our own), run.go (the thread: spin, sleep, commands from outside),
// handover.go (what another process takes up).
package worker

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/denial"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
)

// BatchSize is how many descriptors one visit to an rx ring takes at most.
const BatchSize = 256

// Config is what a worker needs.
type Config struct {
	UMEM   *xsk.UMEM
	Pool   *xsk.Pool                      // the UMEM's free frames; the worker's alone from here on
	Tables *atomic.Pointer[tables.Tables] // the tables in force; read once a pass

	// Flows are tracked in one table for all workers. Nil: a small one of the worker's own.
	Flows *conntrack.Table
	// Names is what stations' DNS answers say, for all workers. Nil: nothing is learned from them.
	Names *names.Store

	// Clock gives monotonic nanoseconds; all workers of a process share one, since they share the neighbour table.
	// Zero is never. Nil where only Poll is used.
	Clock func() int64
	// Timers says that this worker drives the neighbour table's timers: one worker of all does.
	Timers bool
	// Observe, when set, is called with every packet judged, before its frame leaves: replay and tests look on.
	Observe func(p *packet.Packet, d *pipeline.Decision)
	// Gone is called from the loop when a queue's device vanished, after the worker let go of it.
	Gone func(device int)
}

// ownFlows is how many flows a worker tracks in a table of its own.
const ownFlows = 4096

// Worker is one packet loop. All methods but Do, Book, Stop and the counters belong to its own goroutine.
type Worker struct {
	umem    *xsk.UMEM
	pool    *xsk.Pool
	source  *atomic.Pointer[tables.Tables]
	observe func(p *packet.Packet, d *pipeline.Decision)
	gone    func(device int)
	clock   func() int64
	timers  bool

	tables *tables.Tables // as loaded at the pass's begin
	now    int64          // nanoseconds, monotonic, of the pass

	pipeline pipeline.Pipeline
	flows    *conntrack.Table
	packet   packet.Packet
	batch    [BatchSize]xsk.Desc
	frames   [BatchSize]uint64
	ahead    struct { // of the batch, by index of a packet's first descriptor: see foresee
		to    [BatchSize]packet.Addr
		group [BatchSize]*route.Group
		flow  [BatchSize]conntrack.Guess
		front [manyPackets]service.Guess
	}
	swept     int  // the part of the table of flows that is swept next
	manyFlows bool // so that it is worth while to look them up ahead
	one       [1]xsk.Desc
	polled    [1]unix.PollFd
	probe     func(n *neighbor.Entry, mac packet.MAC, unicast bool) // solicit, bound once
	tail      [][]byte
	segments  packet.Segments
	fragments packet.Fragments

	links    []*link
	byDevice []*link // indexed by device; nil where the worker has no queue
	book     *ledger.Book
	received tally
	hold     hold
	pace     pace
	awaiting awaiting

	announcer announcer

	takenUp  []Packet // that waited in another process
	left     bool     // links and frames are another process's
	advanced int64    // when the neighbour timers last ran

	commands chan func()
	wake     int // eventfd
	epoll    int
	stopping atomic.Bool
	busy     atomic.Uint64 // passes that found packets
	passes   atomic.Uint64
	sleeps   atomic.Uint64
	asleep   atomic.Bool
	queues   atomic.Uint64 // by offload.QueueBit

	freeFrames atomic.Uint64
}

// New returns a worker without links.
func New(cfg Config) *Worker {
	w := &Worker{
		umem: cfg.UMEM, pool: cfg.Pool, source: cfg.Tables,
		observe: cfg.Observe, gone: cfg.Gone, clock: cfg.Clock, timers: cfg.Timers,
		flows: cfg.Flows, book: ledger.NewBook(), hold: newHold(), pace: newPace(),
		tail:     make([][]byte, 0, maxFrames),
		commands: make(chan func(), 16),
		wake:     -1, epoll: -1,
	}
	if w.flows == nil {
		w.flows = conntrack.New(conntrack.Config{Flows: ownFlows})
	}
	w.pipeline.Init(w.flows, cfg.Names)
	w.probe = w.solicit
	return w
}

// Book is the worker's ledger, for readers.
func (w *Worker) Book() *ledger.Book { return w.book }

// Denials is what policy has denied lately, for readers.
func (w *Worker) Denials() *denial.Log { return w.pipeline.Denials() }

// Poll makes one pass at time now, in monotonic nanoseconds, and returns how many packets it received.
func (w *Worker) Poll(now int64) int {
	w.now = now
	w.tables = w.source.Load()
	w.pipeline.Begin(w.tables, now)
	w.rejoin()
	w.release() // before those that come behind them
	if len(w.takenUp) > 0 {
		w.takeUp()
	}
	received := 0
	for _, l := range w.links {
		received += w.receive(l)
	}
	w.resume()
	w.tick()
	for _, l := range w.links {
		w.transmit(l)
		w.refill(l)
	}
	w.book.Publish()
	w.dropGone()
	return received
}

// receive takes a batch from the link's rx ring and runs every packet of it to completion.
func (w *Worker) receive(l *link) int {
	n := l.queue.Receive(w.batch[:])
	l.offered -= n
	w.foresee(w.batch[:n])
	packets := 0
	for i, ahead := 0, 0; i < n; {
		if i >= ahead {
			ahead = w.foreseeFlows(i, n)
		}
		run := 1
		for w.batch[i+run-1].Options&xsk.Contd != 0 {
			run++
		}
		w.pipeline.Foresee(w.ahead.to[i], w.ahead.group[i], w.ahead.flow[i].Opens())
		w.process(l, w.batch[i:i+run])
		i += run
		packets++
	}
	w.bookReceived()
	return packets
}

// foresee reads where the packets of a batch go and looks all of that up at once, so that the cache misses (another
// CPU wrote the packets; the routes may not fit the caches) overlap instead of stopping the pipeline one by one.
func (w *Worker) foresee(descs []xsk.Desc) {
	for i := range descs {
		w.ahead.to[i] = packet.PeekDestination(w.frameOf(i))
	}
	w.tables.FIB.LookupBatch(w.ahead.to[:len(descs)], w.ahead.group[:])
}

// Where so many flows are tracked, or there are so many services, the caches of a core do not hold them: of a few
// services, to look ahead at who is chosen costs more than it saves. Of fewer packets the misses hardly overlap; of
// more, what was fetched for the last ones drives out of the nearest cache what was for the first.
const fewFlows, fewServices, fewPackets, manyPackets = 4096, 64, 4, 32

// foreseeFlows does for flows, and services, of the batch's next packets what foresee does for routes. It returns how
// far it has gone.
func (w *Worker) foreseeFlows(from, n int) int {
	to := min(from+manyPackets, n)
	flows := w.ahead.flow[from:to]
	if !w.manyFlows || len(flows) < fewPackets {
		clear(flows)
		return to
	}
	for i := range flows {
		flows[i] = w.flows.Guess(w.frameOf(from + i))
	}
	w.flows.Foresee(flows)
	if n := w.tables.Services.Len(); n == 0 || n >= fewServices {
		w.foreseeOpening(from, flows)
	}
	return to
}

// foreseeOpening does it for what packets need that may open flows.
func (w *Worker) foreseeOpening(from int, flows []conntrack.Guess) {
	fronts := w.ahead.front[:0]
	for i := range flows {
		if f := &flows[i]; f.Unknown() {
			fronts = append(fronts, service.Guess{Dst: w.ahead.to[from+i], Port: f.DstPort, Proto: f.Proto})
		}
	}
	if len(fronts) == 0 {
		return
	}
	w.pipeline.ForeseeServices(fronts)
	for i := range flows {
		if !flows[i].Unknown() {
			continue
		}
		if to, port, known := fronts[0].Target(); known {
			w.flows.GuessOpen(&flows[i], w.frameOf(from+i), to, port)
		}
		fronts = fronts[1:]
	}
	w.flows.ForeseeOpen(flows)
}

// frameOf is what lies in a frame of the batch.
func (w *Worker) frameOf(i int) []byte {
	d := w.batch[i]
	start := d.Addr - w.umem.ChunkOf(d.Addr)
	return w.umem.Frame(d.Addr)[start : start+uint64(d.Len)]
}

// process judges one received packet, whose frames are descs, and carries the decision out.
func (w *Worker) process(l *link, descs []xsk.Desc) {
	p := &w.packet
	w.view(p, descs)
	size := p.Len()
	d := &tooLarge
	if len(descs) <= maxFrames {
		d = w.pipeline.Judge(p, l.device)
	} else {
		p.In = w.tables.Demux(l.device, packet.VLANs{}, p.SrcMAC())
	}
	if p.In != w.received.port {
		w.bookReceived()
		w.received.port = p.In
	}
	w.received.packets++
	w.received.bytes += uint64(size)
	w.carryOut(p, l.device, descs, d)
	if p.Flags&packet.Fragment != 0 {
		w.rejoin()
	}
}

// tooLarge is the decision about a packet of more frames than can be held.
var tooLarge = pipeline.Decision{Reason: verdict.TooLargeForPort}

// tally counts packets of one port until another one's turn comes.
type tally struct {
	port           packet.PortID
	packets, bytes uint64
}

// bookReceived books what was received and not yet booked.
func (w *Worker) bookReceived() {
	if t := &w.received; t.packets > 0 {
		a := w.book.Account(t.port)
		a.Add(ledger.Received, t.packets)
		a.Add(ledger.ReceivedBytes, t.bytes)
		*t = tally{}
	}
}

// view points p at the packet in descs.
func (w *Worker) view(p *packet.Packet, descs []xsk.Desc) {
	frame := w.umem.Frame(descs[0].Addr)
	p.Frame = frame
	p.Start = int(descs[0].Addr - w.umem.ChunkOf(descs[0].Addr))
	p.End = p.Start + int(descs[0].Len)
	p.Tail = 0
	for _, d := range descs[1:] {
		p.Tail += int(d.Len)
	}
}

// tails returns the bytes of the packet's further frames. The slice is valid until the next call.
func (w *Worker) tails(descs []xsk.Desc) [][]byte {
	w.tail = w.tail[:0]
	for _, d := range descs[1:] {
		start := d.Addr - w.umem.ChunkOf(d.Addr)
		w.tail = append(w.tail, w.umem.Frame(d.Addr)[start:start+uint64(d.Len)])
	}
	return w.tail
}

func (w *Worker) free(descs []xsk.Desc) {
	for _, d := range descs {
		w.pool.Put(w.umem.ChunkOf(d.Addr))
	}
}

// finish books the end of a packet received on port in.
func (w *Worker) finish(in packet.PortID, r verdict.Reason) {
	w.book.Account(in).Add(ledger.ByReason(r), 1)
}
