// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// InForce is the snapshot in force, not to be changed; nil before the first.
func (f *Forwarder) InForce() *api.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.snapshot
}

// Apply puts a snapshot in force, all of it or nothing. An error is a *tables.InvalidError where an object of the
// snapshot is at fault. Packets are judged by the old tables until the new ones are whole; none is lost. The snapshot
// must not change afterwards.
//
// A device that is not there closes its own ports alone, until it appears: see Closed.
func (f *Forwarder) Apply(ctx context.Context, snapshot *api.Snapshot) error {
	if hostPort(snapshot) != nil && !f.knowsHost() {
		f.readHost()
	}
	return f.transact(ctx, snapshot.GetEpoch(), wholes, func() error { return f.apply(ctx, snapshot) })
}

// ApplyDelta is Apply for the difference from the snapshot in force. It fails with an *api.GapError when the delta
// builds on another epoch than is in force.
func (f *Forwarder) ApplyDelta(ctx context.Context, d *api.Delta) error {
	return f.transact(ctx, d.GetSet().GetEpoch(), deltas, func() error { return f.applyDelta(ctx, d) })
}

func (f *Forwarder) applyDelta(ctx context.Context, d *api.Delta) error {
	if f.snapshot == nil {
		return &api.GapError{Base: d.GetBase()}
	}
	next, err := d.Apply(f.snapshot)
	switch {
	case err != nil:
		return err
	case next.Epoch <= f.snapshot.Epoch:
		return &tables.InvalidError{Field: "epoch",
			Reason: fmt.Sprintf("%d does not follow %d", next.Epoch, f.snapshot.Epoch)}
	case !tables.Updatable(f.tables.Load(), d), f.trunk.hooks == nil && len(d.GetSet().GetPorts()) > 0:
		return f.apply(ctx, next)
	}
	links := f.only(d.GetSet().GetPorts())
	prev := f.tables.Load()
	t, err := tables.Update(prev, next, d, f.lookup(links))
	if err != nil {
		return err
	}
	f.snapshot = next
	f.tables.Store(t)
	f.enterServices(t)
	f.updateTrunk(d, links)
	f.updateServices(d)
	f.forget(departed(prev, t, d))
	f.review()
	f.note(d.GetSet().GetPorts())
	return nil
}

// departed are the ports that the delta removes, or of which it makes another one.
func departed(prev, next *tables.Tables, d *api.Delta) (list []packet.PortID) {
	for _, id := range d.GetRemovedPorts() {
		list = append(list, packet.PortID(id))
	}
	for _, p := range d.GetSet().GetPorts() {
		id := packet.PortID(p.GetId())
		if was := prev.Port(id); was != nil && another(was, next.Port(id)) {
			list = append(list, id)
		}
	}
	return list
}

// allDeparted is departed for tables that were built anew.
func allDeparted(prev, next *tables.Tables) (list []packet.PortID) {
	for i := range prev.Ports {
		if was := &prev.Ports[i]; was.ID != 0 && another(was, next.Port(was.ID)) {
			list = append(list, was.ID)
		}
	}
	return list
}

// another says whether a port is no more what it was: gone, of another name, or a pod's whose device is another one or
// none. What is behind a link or the host's port stays the same when the device returns.
func another(was, is *tables.Port) bool {
	return is == nil || was.Name != is.Name || was.IfIndex != is.IfIndex && !(was.Shared() && is.Shared())
}

// note remembers the ports' names, for when they are gone. A number that is another port's from here on counts from
// here on.
func (f *Forwarder) note(ports []*api.Port) {
	var books map[packet.PortID]*ledger.Totals
	for _, p := range ports {
		id := packet.PortID(p.Id)
		if was := f.names[id]; was != "" && was != p.Name {
			if books == nil {
				books = f.books()
			}
			f.base[id] = books[id]
		}
		f.names[id] = p.Name
	}
}

// kind is in what form a change came.
type kind int

const (
	wholes kind = iota
	deltas
)

// transact runs a change and keeps the books on it. One that comes when everything is a successor's is neither taken
// nor refused: whoever asks finds the successor.
func (f *Forwarder) transact(ctx context.Context, epoch uint64, k kind, change func() error) error {
	f.mu.Lock()
	if f.left {
		f.mu.Unlock()
		<-ctx.Done()
		return fmt.Errorf("handed over: %w", ctx.Err())
	}
	defer f.mu.Unlock()
	begin := time.Now()
	if err := change(); err != nil {
		f.refusal = refusal(epoch, err)
		f.refusedAny.Store(f.refused != nil)
		f.metrics.nacks.Inc()
		return err
	}
	f.refused, f.refusedOn = nil, nil
	f.refusedAny.Store(false)
	f.refusal, f.applied = nil, time.Since(begin)
	f.metrics.apply.Observe(f.applied.Seconds())
	f.metrics.snapshots[k].Inc()
	return nil
}

func refusal(epoch uint64, err error) *dataplaneapi.Refusal {
	r := &dataplaneapi.Refusal{Epoch: epoch, Reason: err.Error(), UnixNanoseconds: time.Now().UnixNano()}
	var invalid *tables.InvalidError
	if errors.As(err, &invalid) {
		r.Object, r.Field, r.Reason = invalid.Object, invalid.Field, invalid.Reason
	}
	return r
}

// apply is the transaction of a whole snapshot.
func (f *Forwarder) apply(ctx context.Context, snapshot *api.Snapshot) error {
	if snapshot.GetEpoch() == 0 {
		return &tables.InvalidError{Field: "epoch", Reason: "is 0"}
	}
	links, err := f.linksFor(snapshot)
	if err != nil {
		return err
	}
	f.refused, f.refusedOn = snapshot, links.shapes(snapshot) // unless it is taken
	if err := f.checkDevices(snapshot); err != nil {
		return err
	}
	f.reserveSlots(snapshot)
	if len(withSockets(snapshot)) > 0 {
		f.provideCarrier(snapshot.GetNode()) // before generations of policy are given
	}
	next, err := tables.Build(f.tables.Load(), snapshot, f.lookup(links), f.neighbors)
	if err != nil {
		return err
	}
	undo, err := f.provideWorkers(ctx, snapshot, next, links)
	if err != nil {
		return err
	}
	f.closeStale(ctx, links)
	opened, err := f.openMissing(snapshot, links)
	if err != nil {
		return errors.Join(err, undo())
	}
	// The commit point: from here on nothing is undone, nor left half done.
	ctx = context.WithoutCancel(ctx)
	f.snapshot = snapshot
	gone := allDeparted(f.tables.Load(), next)
	next.Enter(f.tables.Load())
	f.tables.Store(next)
	f.enterServices(next)
	f.forget(gone)
	f.reportWorkers(links)
	f.reportFlows()
	f.shareFlows(next)
	f.restoreFlows(next)
	delete(f.degraded, "snapshot")
	if err := errors.Join(f.serve(ctx, opened), f.settleDevices(ctx)); err != nil {
		f.degrade("snapshot", "in force, but not all of it works: "+err.Error())
	}
	f.settleTrunk(links, nil)
	f.settleCarrier()
	if len(opened) > 0 {
		f.beat() // to hooks that an earlier process has left, before anybody is told that packets pass
	}
	f.review()
	f.settleServices()
	f.settleHost()
	f.note(snapshot.GetPorts())
	f.reportAbsent()
	return nil
}

// reportAbsent says which devices of the snapshot in force are not there.
func (f *Forwarder) reportAbsent() {
	for _, p := range withSockets(f.snapshot) {
		subject := "device " + p.Device
		if f.devices[p.Device] == nil && f.degraded[subject] == "" {
			f.degrade(subject, "the device is not there; its ports open when it appears")
		}
	}
}

// checkDevices refuses a change that an open device cannot make.
func (f *Forwarder) checkDevices(snapshot *api.Snapshot) error {
	for _, p := range snapshot.GetPorts() {
		if d := f.devices[p.Device]; d != nil && !d.fits(snapshot, p) {
			return &tables.InvalidError{Object: tables.Origin(snapshot, p.Origin), Field: "spec.ports[" + p.Name + "]",
				Reason: "queues and uplink mode cannot change while the device is open; remove its ports, then add them again"}
		}
	}
	return nil
}

// Closed lists the ports in force that do not forward, and why, ordered by id.
func (f *Forwarder) Closed() []*api.ClosedPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []*api.ClosedPort
	ports := f.tables.Load().Ports
	for i := range ports {
		if why := f.closed(&ports[i]); ports[i].ID != 0 && why != "" {
			list = append(list, &api.ClosedPort{Port: uint32(ports[i].ID), Reason: why})
		}
	}
	return list
}

// closed says why a port does not forward, empty when it does.
func (f *Forwarder) closed(p *tables.Port) string {
	switch {
	case !p.Present:
		return "device " + p.Device + " is not there"
	case p.Trunk && f.trunk.troubles[p.ID].why != "":
		return f.trunk.troubles[p.ID].why
	case f.devices[f.socketsDevice(p)] == nil:
		return cmp.Or(f.degraded["device "+p.Device], "device "+p.Device+" is not open")
	}
	return ""
}
