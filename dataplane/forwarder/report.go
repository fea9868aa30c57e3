// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"runtime/debug"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/route"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/dataplane/xsk"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// HasPort says whether a port of that name is in force.
func (f *Forwarder) HasPort(name string) bool { return f.tables.Load().ByName(name) != nil }

// Status says how the forwarder is.
func (f *Forwarder) Status() *api.StatusReply {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tables.Load()
	s := &api.StatusReply{
		Version: Version(), Node: f.snapshot.GetNode().GetName(), Epoch: t.Epoch, LastNack: f.refusal,
		Ports: f.ports(""), ApplyNanoseconds: uint64(f.applied), StartedUnixNanoseconds: f.started.UnixNano(),
		Kernel: kernelRelease(), Routes: uint64(t.FIB.Size()), Groups: uint64(len(f.snapshot.GetGroups())),
		Neighbors: uint64(f.neighbors.Statistics().Entries), Identities: uint64(t.Identities.Len()),
		Policies: uint64(len(f.snapshot.GetPolicies())), FlowTable: f.flowTable(),
		Offload: f.offloadStatus(),
	}
	for i, w := range f.workers {
		s.Workers = append(s.Workers, f.workerStatus(i, w))
		if f.hangs(i) {
			s.Degraded = append(s.Degraded, &api.Degradation{
				Subject: fmt.Sprint("worker ", i), Reason: "it hangs; hooks keep from it what is for its queues",
			})
		}
	}
	for _, feature := range xdpprog.Features(f.cfg.Pins) {
		s.Features = append(s.Features, &api.Feature{
			Name: feature.Name, Found: feature.Present, Since: feature.Since, Detail: feature.Detail,
		})
	}
	for _, subject := range slices.Sorted(maps.Keys(f.uncarried)) {
		s.Features = append(s.Features, &api.Feature{Name: subject, Detail: f.uncarried[subject]})
	}
	for subject, why := range f.degraded {
		s.Degraded = append(s.Degraded, &api.Degradation{Subject: subject, Reason: why})
	}
	slices.SortFunc(s.Degraded, func(a, b *api.Degradation) int { return cmp.Compare(a.Subject, b.Subject) })
	return s
}

func (f *Forwarder) workerStatus(i int, t *thread) *api.Worker {
	activity := t.worker.Activity()
	w := &api.Worker{
		Id: uint32(i), Cpu: int32(f.cpuOf(i)), Frames: uint64(t.umem.Chunks()), FramesFree: activity.Free,
		FrameSize: uint32(t.umem.ChunkSize()),
		Hugepages: t.umem.HugePages(), Passes: activity.Passes, BusyPasses: activity.Busy, Sleeps: activity.Sleeps,
		Silent: f.hangs(i),
	}
	for _, name := range f.slots {
		for _, s := range f.socketsOf(name) {
			if s.worker == i {
				w.Queues = append(w.Queues, &api.WorkerQueue{Device: name, Queue: s.queue})
			}
		}
	}
	for _, totals := range ledger.Read([]*ledger.Book{t.worker.Book()}) {
		w.Packets += totals.Get(ledger.Received)
	}
	return w
}

func (f *Forwarder) socketsOf(device string) []socket {
	if d := f.devices[device]; d != nil {
		return d.sockets
	}
	return nil
}

// Ports lists the ports in force, or the one named.
func (f *Forwarder) Ports(name string) *api.PortsReply {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.PortsReply{Epoch: f.tables.Load().Epoch, Ports: f.ports(name)}
}

func (f *Forwarder) ports(name string) []*api.Port {
	var list []*api.Port
	t := f.tables.Load()
	for i := range t.Ports {
		if p := &t.Ports[i]; p.ID != 0 && (name == "" || p.Name == name) {
			list = append(list, f.port(p))
		}
	}
	return list
}

func (f *Forwarder) port(p *tables.Port) *api.Port {
	a := &api.Port{
		Id: uint32(p.ID), Name: p.Name, Device: p.Device, Mac: p.MAC.String(), Mtu: uint32(p.MTU),
		OuterVlan: uint32(p.VLANs.Outer), InnerVlan: uint32(p.VLANs.Inner), Sockets: f.cfg.Sockets,
		Offload: f.portOffload(p.ID),
	}
	for _, prefix := range p.Prefixes {
		a.Addresses = append(a.Addresses, prefix.String())
	}
	d := f.devices[f.socketsDevice(p)]
	why := f.closed(p)
	switch {
	case why != "":
		a.State, a.Reason = api.PortState_PORT_STATE_GONE, why
	case !p.Up:
		a.State, a.Reason = api.PortState_PORT_STATE_DOWN, "device "+p.Device+" is down or has no carrier"
	default:
		a.State = api.PortState_PORT_STATE_UP
	}
	if p.Station.Only() {
		for _, s := range p.Station.Addrs {
			a.Station = append(a.Station, s.String())
		}
	}
	if d == nil {
		return a
	}
	a.Ifindex, a.XdpMode, a.Trunk = uint32(p.IfIndex), d.mode, p.Trunk
	for _, s := range d.sockets {
		info := s.xsk.Info()
		a.MultiBuffer, a.ChecksumOffload = info.MultiBuffer, info.TxChecksum
		a.Queues = append(a.Queues, &api.PortQueue{
			Queue: s.queue, Worker: uint32(s.worker), ZeroCopy: info.ZeroCopy,
			BusyPoll: info.BusyPoll, NeedWakeup: true, RxRing: uint32(info.RxSize), TxRing: uint32(info.TxSize),
			FillRing: uint32(info.FillSize), CompletionRing: uint32(info.CompletionSize),
		})
	}
	return a
}

// Routes lists the routes that the request asks for.
func (f *Forwarder) Routes(r *api.RoutesRequest) (iter.Seq[*api.Route], uint64, error) {
	t := f.tables.Load()
	wanted := func(netip.Prefix) bool { return true }
	switch {
	case r.Address != "":
		address, err := netip.ParseAddr(r.Address)
		if err != nil {
			return nil, 0, fmt.Errorf("%q is not an address", r.Address)
		}
		best, found := longest(t.FIB, address)
		wanted = func(p netip.Prefix) bool { return found && p == best }
	case r.Prefix != "":
		within, err := netip.ParsePrefix(r.Prefix)
		if err != nil {
			return nil, 0, fmt.Errorf("prefix %q: %w", r.Prefix, err)
		}
		wanted = func(p netip.Prefix) bool { return within.Bits() <= p.Bits() && within.Contains(p.Addr()) }
	}
	return func(yield func(*api.Route) bool) {
		for entry := range t.FIB.All() {
			if wanted(entry.Prefix) && !yield(describeRoute(t, entry)) {
				return
			}
		}
	}, t.Epoch, nil
}

// longest is the prefix of the route that an address takes.
func longest(fib *route.FIB, a netip.Addr) (best netip.Prefix, found bool) {
	for r := range fib.All() {
		if r.Prefix.Contains(a) && (!found || r.Prefix.Bits() > best.Bits()) {
			best, found = r.Prefix, true
		}
	}
	return best, found
}

func origin(t *tables.Tables, i uint32) string {
	if int(i) < len(t.Origins) {
		return t.Origins[i]
	}
	return ""
}

func describeRoute(t *tables.Tables, r route.Route) *api.Route {
	a := &api.Route{Destination: r.Prefix.String(), Kind: r.Group.Kind.String(), Origin: origin(t, r.Origin)}
	for _, h := range r.Group.Hops() {
		hop := &api.NextHop{Weight: uint32(h.Weight), Mtu: uint32(h.MTU)}
		if p := t.Port(h.Port); p != nil {
			hop.Port = p.Name
		}
		if !h.Via.IsZero() {
			hop.Via = h.Via.String()
		}
		a.Hops = append(a.Hops, hop)
	}
	return a
}

// NeighborList lists the neighbour cache, or one port's part of it.
func (f *Forwarder) NeighborList(port string) *api.NeighborsReply {
	t := f.tables.Load()
	reply := &api.NeighborsReply{}
	all := f.neighbors.All(f.clock())
	slices.SortFunc(all, func(a, b neighbor.Info) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), a.Addr.Netip().Compare(b.Addr.Netip()))
	})
	for _, n := range all {
		p := t.Port(n.Port)
		if p == nil || (port != "" && p.Name != port) {
			continue
		}
		entry := &api.Neighbor{Port: p.Name, Address: n.Addr.String(), State: n.State.String()}
		if n.State.Usable() {
			entry.Mac = n.MAC.String()
		}
		entry.AgeNanoseconds = uint64(max(0, n.Age))
		reply.Neighbors = append(reply.Neighbors, entry)
	}
	return reply
}

// Report is the ledger, of one port or of all, with what the sockets and hooks before it counted.
func (f *Forwarder) Report(name string) *api.LedgerReply {
	books := f.Ledger()
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tables.Load()
	reply := &api.LedgerReply{Epoch: t.Epoch, Balanced: true}
	for i := range t.Ports {
		if id := t.Ports[i].ID; id != 0 && books[id] == nil {
			books[id] = &ledger.Totals{} // nothing has come in by it yet
		}
	}
	var total ledger.Totals
	for _, id := range slices.Sorted(mapKeys(books)) {
		totals := books[id]
		total.Add(totals)
		p := t.Port(id)
		own := *totals
		own.Since(f.base[id])
		l := portLedger(&own)
		l.Id, l.Gone = uint32(id), p == nil
		if p != nil {
			l.Name = p.Name
			f.addDevice(l, p)
		} else {
			l.Name = f.lastName(id)
		}
		reply.Balanced = reply.Balanced && totals.CheckInput() == nil
		if name == "" || l.Name == name {
			reply.Ports = append(reply.Ports, l)
		}
	}
	reply.Total = portLedger(&total)
	reply.Total.Name = "total"
	reply.Balanced = reply.Balanced && total.CheckOutput() == nil
	reply.Difference = int64(reply.Total.Received -
		(reply.Total.Forwarded + reply.Total.Consumed + reply.Total.Dropped + reply.Total.Held))
	return reply
}

func mapKeys(m map[packet.PortID]*ledger.Totals) iter.Seq[packet.PortID] {
	return func(yield func(packet.PortID) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// lastName names a port that is gone from the tables, as well as it can.
func (f *Forwarder) lastName(id packet.PortID) string {
	if id == 0 {
		return "(no port)"
	}
	if name, known := f.names[id]; known {
		return name
	}
	return fmt.Sprintf("(port %d)", id)
}

func portLedger(t *ledger.Totals) *api.PortLedger {
	l := &api.PortLedger{
		Received: t.Get(ledger.Received), ReceivedBytes: t.Get(ledger.ReceivedBytes),
		Forwarded: t.Sum(verdict.Forwarded), Consumed: t.Sum(verdict.Consumed), Dropped: t.Sum(verdict.Dropped),
		Held: t.Get(ledger.Held), Originated: t.Get(ledger.Originated) + t.Get(ledger.Fragments),
		Transmitted: t.Get(ledger.Transmitted), TransmittedBytes: t.Get(ledger.TransmittedBytes),
		TransmitFailures: t.Get(ledger.OriginatedLost) + t.Get(ledger.ByReason(verdict.TxRingFull)),
	}
	for v := verdict.Dropped; v <= verdict.Held; v++ {
		for r := verdict.None + 1; r < verdict.NumReasons; r++ {
			if n := t.Get(ledger.ByReason(r)); r.Verdict() == v && n > 0 {
				l.Reasons = append(l.Reasons,
					&api.ReasonCount{Reason: r.String(), Verdict: v.String(), Packets: n, Meaning: r.Doc()})
			}
		}
	}
	return l
}

// addDevice adds what was counted before the ledger: by the hook, and by the kernel for the sockets. Where several
// ports share a device, or the trunk, what is counted of that stands with the untagged one, or else the first.
func (f *Forwarder) addDevice(l *api.PortLedger, p *tables.Port) {
	if p.Trunk {
		l.Hook = f.hookCounters(p)
	}
	d := f.devices[f.socketsDevice(p)]
	if d == nil || !f.speaksFor(p) {
		return
	}
	if counters, err := d.hook.Counters(); err == nil {
		if l.Hook == nil {
			l.Hook = make(map[string]uint64, len(counters))
		}
		for _, c := range counters {
			l.Hook[c.Name] += c.Packets
		}
	}
	l.Sockets = &api.SocketStatistics{}
	for _, s := range d.sockets {
		st := f.statistics(s)
		l.Sockets.RxDropped += st.RxDropped + st.RefusedOnReturn
		l.Sockets.RxInvalidDescriptors += st.RxInvalid
		l.Sockets.TxInvalidDescriptors += st.TxInvalid + st.RefusedOnSend
		l.Sockets.RxRingFull += st.RxRingFull
		l.Sockets.RxFillRingEmpty += st.FillRingEmpty
		l.Sockets.TxRingEmpty += st.TxRingEmpty
		l.TransmitFailures += st.TxDropped + st.TxError
	}
}

// statisticsWait is for how long statistics waits for a worker: as long as it takes to know that it hangs.
const statisticsWait = hungAfter * beatEvery

// statistics reads a socket's counters where they may be read: on its worker's thread. It returns zeros of a socket
// that is gone, or whose worker hangs.
func (f *Forwarder) statistics(s socket) xsk.Statistics {
	if f.hangs(s.worker) {
		return xsk.Statistics{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), statisticsWait)
	defer cancel()
	read := make(chan xsk.Statistics, 1)
	_ = f.workers[s.worker].worker.Call(ctx, func() {
		st, _ := s.xsk.Statistics()
		read <- st
	})
	select {
	case st := <-read:
		return st
	default:
		return xsk.Statistics{}
	}
}

func (f *Forwarder) speaksFor(p *tables.Port) bool {
	ports := f.tables.Load().Ports
	for i := range ports {
		if ports[i].ID != 0 && f.socketsDevice(&ports[i]) == f.socketsDevice(p) {
			return ports[i].ID == p.ID
		}
	}
	return false
}

// Version is the program's, and the revision that it was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v += " " + s.Value[:12]
		}
	}
	return v
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
