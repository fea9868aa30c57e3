// SPDX-License-Identifier: Apache-2.0

// Package replay runs a capture through the production pipeline: the same manifests, tables and worker as the
// dataplane, over rings in memory. It needs neither root nor a device.
//
// The world around the ports is as small as it can be: every neighbour that is asked for answers at once, and time is
// that of the capture. replay.go is the run, bench.go what it runs on, report.go what it tells, command.go the CLI.
package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/internal/pcap"
)

// Config is what to replay, and how.
type Config struct {
	Manifests string // directory
	Node      string // name of the NodeConfig, where there are several
	Port      string // by which the packets come in
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
	Device func(name string) (number int, err error)  // one call for each device, before all packets
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
	data := b.prepare(p)
	b.last = observed{}
	line := Line{Index: p.Index, Length: p.OriginalLen, Truncated: p.Truncated(), Rule: b.rule(data)}
	if reason := b.deliver(data); reason != verdict.None {
		line.fill(reason)
		b.counts.NotReceived++
	} else {
		if err := b.work(); err != nil {
			return err
		}
		reason := b.booked()
		line.fill(reason)
		line.InPort = b.name(b.last.in)
		if reason == b.last.reason {
			line.OutPort = b.name(b.last.out)
		}
	}
	b.counts.add(line)
	return b.sinks.Packet(line)
}

// deliver puts the packet on the port's rx ring, or says why no device would have delivered it.
func (b *bench) deliver(data []byte) verdict.Reason {
	switch {
	case len(data) == 0:
		return verdict.TruncatedEthernet
	case !b.queues[b.device].Inject(data):
		return verdict.TooLargeForPort
	}
	return verdict.None
}

// work has the worker judge the packet. A next hop that it waits for becomes known, and it is judged again.
func (b *bench) work() error {
	b.worker.Poll(b.now)
	const most = 4 // next hops that one packet can wait for in turn: there is one, or a bug
	for range most {
		if b.last.wait == nil {
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

// booked is the reason under which the ledger has the packet. It is the one that the pipeline gave, unless the worker
// could not carry that out, for want of frames or room.
func (b *bench) booked() verdict.Reason {
	now := b.total()
	defer func() { b.before = now }()
	for r := verdict.None + 1; r < verdict.NumReasons; r++ {
		if c := ledger.ByReason(r); now.Get(c) != b.before.Get(c) {
			return r
		}
	}
	return verdict.WaitingForNeighbor
}

// total is the ledger over all ports.
func (b *bench) total() *ledger.Totals {
	total := &ledger.Totals{}
	for _, t := range ledger.Read([]*ledger.Book{b.worker.Book()}) {
		total.Add(t)
	}
	return total
}

// answer makes the neighbour that the packet waits for known.
func (b *bench) answer() {
	e := b.last.wait
	b.last.wait = nil
	b.counts.NeighborsAnswered++
	b.neighbors.Learn(e.Port, e.Addr, neighborMAC(e.Addr), solicitedAnswer, b.now)
}

// observe notes what the worker decides.
func (b *bench) observe(p *packet.Packet, d *pipeline.Decision) {
	b.last = observed{reason: d.Reason, in: p.In, wait: d.Wait}
	switch {
	case d.Wait != nil: // an answer of our own is not seen again
		b.last.out = d.Wait.Port
	case d.Send:
		b.last.out = p.Out
	}
}

// prepare returns the packet's bytes as the port would receive them.
func (b *bench) prepare(p *pcap.Packet) []byte {
	data := p.Data
	if b.cfg.Pad && p.Truncated() {
		data = append(data, make([]byte, min(p.OriginalLen, pcap.MaxPacket)-len(data))...)
	}
	const multicast = 1
	if b.cfg.MAC == nil && len(data) >= 6 && data[0]&multicast == 0 {
		copy(data, b.mac[:])
	}
	return data
}

// rule is the origin of the route that the packet's destination has, empty for none.
func (b *bench) rule(data []byte) string {
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
	s.Balanced = s.Balanced && total.CheckOutput() == nil && s.agrees(&total)
	s.sort()
	s.Total = account("total", &total)
	return s
}
