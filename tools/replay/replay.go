// SPDX-License-Identifier: Apache-2.0

// Package replay runs a capture through the production pipeline: the same manifests, tables and worker as the
// dataplane, over rings in memory. It needs neither root nor a device.
//
// The world around the ports is as small as it can be: every neighbour that is asked for answers at once, and time is
// that of the capture. replay.go is the run, bench.go what it runs on, stations.go the pods there, report.go what it
// tells, command.go the CLI.
package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/internal/pcap"
)

// Config is what to replay, and how.
type Config struct {
	Manifests string // directory
	Node      string // name of the NodeConfig, where there are several
	// Port is that by which the packets come in; or several, with commas between them: then a packet comes by the one
	// whose station has its source.
	Port string
	// MTU, in bytes, of devices on which no port has one.
	MTU int
	// MAC that the port has. Nil: one is made up, and packets for any unicast MAC are taken to be for it.
	MAC net.HardwareAddr
	// Pad fills packets that the capture cut short with zeros to their length on the wire.
	Pad bool
}

// Sinks get what comes of it.
type Sinks struct {
	Packet func(Line) error                           // one call for each packet of the capture, in order
	Out    func(p *pcap.Packet, comment string) error // one call for each packet sent; Interface is the device's
	// Device gets one call for each device and each station, before what is sent by it.
	Device func(name string) (number int, err error)
}

// Run replays the capture until its end, the first error or the end of the context. The summary is valid also beside
// an error of the capture's, for what was read until then.
func Run(ctx context.Context, cfg Config, in *pcap.Reader, sinks Sinks) (*Summary, error) {
	b, err := newBench(cfg, sinks)
	if err != nil {
		return nil, err
	}
	defer b.close()
	for ctx.Err() == nil {
		p, err := in.Next()
		if errors.Is(err, io.EOF) {
			return b.summary(), nil
		}
		if err != nil {
			b.counts.Error = err.Error()
			return b.summary(), err
		}
		if err := b.replay(p); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("replay: %w", ctx.Err())
}

// replay runs one packet to its end.
func (b *bench) replay(p *pcap.Packet) error {
	b.advance(p.Time)
	b.current = p
	port := b.inPort(p.Data)
	data := b.prepare(p, port)
	b.last, b.others = observed{}, false
	line := Line{Index: p.Index, Length: p.OriginalLen, Truncated: p.Truncated(), Rule: b.route(data)}
	if reason := b.deliver(data, port); reason != verdict.None {
		line.fill(reason)
		b.counts.NotReceived++
	} else {
		if err := b.work(); err != nil {
			return err
		}
		reason := b.booked()
		line.fill(reason)
		line.InPort = b.name(b.last.in)
		if b.last.rule != policy.RuleDefault {
			line.Rule = explain.Rule(b.tables.Load().Policy, b.last.rule)
		}
		if reason == b.last.reason {
			line.OutPort = b.name(b.last.out)
		}
	}
	b.counts.add(line)
	return b.sinks.Packet(line)
}

// deliver puts the packet on the port's rx ring, or says why no device would have delivered it.
func (b *bench) deliver(data []byte, port *tables.Port) verdict.Reason {
	switch {
	case len(data) == 0:
		return verdict.TruncatedEthernet
	case !b.queues[port.DeviceIndex].Inject(data):
		return verdict.TooLargeForPort
	}
	return verdict.None
}

// work has the worker judge the packet. A next hop that it waits for becomes known, and it is judged again.
func (b *bench) work() error {
	b.worker.Poll(b.now)
	const most = 4 // next hops that one packet can wait for in turn: there is one, or a bug
	for range most {
		if len(b.waits) == 0 {
			break
		}
		if err := b.collect(asking); err != nil {
			return err
		}
		b.answer()
		b.worker.Poll(b.now)
	}
	return b.collect(sending)
}

// booked is the reason under which the ledger has the packet in hand. It is the one that the pipeline gave, unless the
// worker could not carry that out, for want of frames or room. Packets that waited, and came to their end by it, are
// counted apart: the report has told of them.
func (b *bench) booked() verdict.Reason {
	now, own := b.total(), b.last.reason
	defer func() { b.before = now }()
	moved := make(map[verdict.Reason]uint64)
	for r := verdict.None + 1; r < verdict.NumReasons; r++ {
		if n := now.Get(ledger.ByReason(r)) - b.before.Get(ledger.ByReason(r)); n > 0 {
			moved[r] = n
		}
	}
	switch {
	case moved[own] > 0:
	case own == verdict.WaitingForFragment && moved[verdict.FragmentQueueFull] > 0:
		own = verdict.FragmentQueueFull
	case own.Verdict() != verdict.Held:
		for r := range moved {
			if r != verdict.FragmentTimeout {
				own = r
			}
		}
	}
	if own.Verdict() != verdict.Held {
		moved[own]--
	}
	for r, n := range moved {
		b.ended[r] += n
	}
	return own
}

// total is the ledger over all ports.
func (b *bench) total() *ledger.Totals {
	total := &ledger.Totals{}
	for _, t := range ledger.Read([]*ledger.Book{b.worker.Book()}) {
		total.Add(t)
	}
	return total
}

// answer makes the neighbours that packets wait for known.
func (b *bench) answer() {
	for _, e := range b.waits {
		b.counts.NeighborsAnswered++
		b.neighbors.Learn(e.Port, e.Addr, neighborMAC(e.Addr), solicitedAnswer, b.now)
	}
	b.waits = b.waits[:0]
}

// observe notes what the worker decides. The first that it judges is the packet in hand.
func (b *bench) observe(p *packet.Packet, d *pipeline.Decision) {
	if d.Wait != nil && !slices.Contains(b.waits, d.Wait) {
		b.waits = append(b.waits, d.Wait)
	}
	frame := &p.Frame[0]
	if b.last.frame != nil && b.last.frame != frame {
		b.others = true
		return
	}
	b.last = observed{frame: frame, reason: d.Reason, in: p.In, rule: d.Rule}
	switch {
	case d.Wait != nil: // an answer of our own is not seen again
		b.last.out = d.Wait.Port
	case d.Send:
		b.last.out = p.Out
	}
}

// prepare returns the packet's bytes as the port would receive them.
func (b *bench) prepare(p *pcap.Packet, port *tables.Port) []byte {
	data := p.Data
	if b.cfg.Pad && p.Truncated() {
		data = append(data, make([]byte, min(p.OriginalLen, pcap.MaxPacket)-len(data))...)
	}
	const multicast = 1
	if b.cfg.MAC == nil && len(data) >= 6 && data[0]&multicast == 0 {
		copy(data, port.MAC[:])
	}
	if port.Trunk && len(data) >= 12 { // as the hook at the port does
		source := packet.TrunkMAC(port.ID)
		copy(data[6:], source[:])
	}
	return data
}

// route is the origin of the route that the packet's destination has, empty for none.
func (b *bench) route(data []byte) string {
	p := packet.Packet{Frame: data, End: len(data)}
	p.Parse() // a malformed packet has no destination, or one that is as good as any
	if p.EtherType != packet.EtherTypeIPv4 && p.EtherType != packet.EtherTypeIPv6 || p.Dst.IsZero() {
		return ""
	}
	t := b.tables.Load()
	a := p.Dst.Netip()
	for bits := a.BitLen(); bits >= 0; bits-- {
		prefix, err := a.Prefix(bits)
		if err != nil {
			return ""
		}
		if r, found := t.FIB.Get(prefix); found {
			return t.Origins[r.Origin]
		}
	}
	return ""
}

func (b *bench) name(id packet.PortID) string {
	if p := b.tables.Load().Port(id); p != nil {
		return p.Name
	}
	return ""
}

// neighborMAC makes a locally administered MAC up that is always the same for an address.
func neighborMAC(a packet.Addr) packet.MAC {
	return packet.MAC{0x02, 0x6e, byte(a.Lo >> 24), byte(a.Lo >> 16), byte(a.Lo >> 8), byte(a.Lo)}
}

// summary closes the books.
func (b *bench) summary() *Summary {
	s := &b.counts
	s.Balanced = true
	var total ledger.Totals
	for id, t := range ledger.Read([]*ledger.Book{b.worker.Book()}) {
		total.Add(t)
		s.Balanced = s.Balanced && t.CheckInput() == nil
		s.Ledger = append(s.Ledger, account(b.name(id), t))
	}
	s.Balanced = s.Balanced && total.CheckOutput() == nil && s.agrees(&total, b.ended)
	s.sort()
	s.Total = account("total", &total)
	return s
}
