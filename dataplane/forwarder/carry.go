// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"cmp"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/offload"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// carrier is the kernel's table of flows, by which hooks carry them.
type carrier struct {
	kernel *xdpprog.FlowTable // nil: the kernel carries nothing
	table  atomic.Pointer[offload.Table]
	why    string // there is none; empty: there is, or it has not been made yet
	walk   walk
	pairs  pairs
	wires  map[packet.PortID]offload.Egress // of ports whose devices have sockets of their own, as the table has them

	stop chan struct{} // ends heart and walker; nil: they do not run
}

// offloadOf is the subject of what is amiss with the kernel's table of flows.
const offloadOf = "offload"

// maxRecords is how many flows the kernel carries at most (FlowTableOptions.Records).
const maxRecords = 1 << 24

// provideCarrier makes the kernel's table of flows, or takes over the one that is pinned: before hooks are loaded that
// are to carry by it, and before there are flows to be carried. Where the kernel cannot, everything goes through
// userspace.
func (f *Forwarder) provideCarrier(node *api.NodeSettings) {
	c := &f.carrier
	if c.kernel != nil || c.why != "" {
		return
	}
	if err := f.loadCarrier(node); err != nil {
		c.why = err.Error()
		f.degrade(offloadOf, "all packets go through userspace: "+c.why)
		return
	}
	if refused := c.kernel.Refused(); refused != nil {
		f.degrade(offloadOf, "flows of before are not carried on: "+refused.Error())
	}
	c.wires = make(map[packet.PortID]offload.Egress)
	c.walk.init()
	c.pairs.idleAfter = cmp.Or(c.pairs.idleAfter, idleAfter)
	f.startCarrier()
}

// startCarrier starts what runs beside the workers.
func (f *Forwarder) startCarrier() {
	stop := make(chan struct{})
	f.carrier.stop = stop
	f.beating.Go(func() { f.heart(stop) })
	f.beating.Go(func() { f.walker(stop) })
	f.beating.Go(func() { f.pairKeeper(stop) })
	f.beating.Go(func() { f.newsReader(stop) })
}

func (f *Forwarder) loadCarrier(node *api.NodeSettings) error {
	options := xdpprog.FlowTableOptions{Records: min(node.GetFlows(), maxRecords)}
	if f.cfg.Pins != "" {
		if err := f.preparePins(); err != nil {
			return err
		}
		options.PinDir = filepath.Join(f.cfg.Pins, "flows")
	}
	kernel, err := xdpprog.LoadFlowTable(options)
	if err != nil {
		return err
	}
	table, err := offload.New(offload.Config{
		Memory: offload.Memory(kernel.Memory()), Clock: f.clock, Kernel: monotonic,
	})
	if before := kernel.Before(); err == nil && before != nil {
		err = f.carryOver(before, table)
	}
	if err == nil {
		err = kernel.Succeed()
	}
	if err != nil {
		_ = kernel.Close()
		return fmt.Errorf("flow table: %w", err)
	}
	follows(table)
	// Who reads the table may do so for as long as he likes.
	runtime.AddCleanup(table, func(kernel *xdpprog.FlowTable) { _ = kernel.Close() }, kernel)
	f.carrier.kernel = kernel
	f.carrier.table.Store(table)
	return nil
}

// monotonic is CLOCK_MONOTONIC, which hooks read, in nanoseconds. The runtime reads the same clock without a system
// call.
func monotonic() int64 { return began + int64(time.Since(beganAt)) }

// began is what the clock said as this process began, and beganAt when that was.
var began, beganAt = func() (int64, time.Time) {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // it fails for no clock that there is
	return t.Nano(), time.Now()
}()

// settleCarrier brings the table to the settings in force. What it carries against them the walk takes out.
func (f *Forwarder) settleCarrier() {
	table := f.carrier.table.Load()
	if table == nil {
		return
	}
	node := f.snapshot.GetNode()
	table.SetOnAbsence(node.GetOnAbsence() == api.OnAbsence_ON_ABSENCE_PASS, packet.PortID(hostPort(f.snapshot).GetId()))
	table.SetCarry(node.GetOffload())
	table.Limit(node.GetFlowsPerPort())
}

// setEgress says how flows that the kernel carries leave by a port, whose hook is as it is to be; nil: they do not.
func (f *Forwarder) setEgress(id packet.PortID, to *xdpprog.TrunkPort) {
	table := f.carrier.table.Load()
	if table == nil {
		return
	}
	var e offload.Egress
	switch {
	case to == nil:
	case to.Host:
		e = offload.Egress{Kind: offload.Host, IfIndex: to.HostIfIndex, MAC: packet.GatewayMAC}
	default:
		e = offload.Egress{Kind: offload.Pod, IfIndex: to.IfIndex, MAC: packet.GatewayMAC}
	}
	if err := table.SetEgress(id, e); err != nil {
		f.log.Warn("flows to a port go through userspace", zap.String("port", f.lastName(id)), zap.Error(err))
	}
}

// closeCarrier lets go of the table. Flows that it has are carried on until userspace is back; unless it is removed.
func (f *Forwarder) closeCarrier(remove bool) error {
	c := &f.carrier
	if c.kernel == nil {
		return nil
	}
	var err error
	if remove {
		c.table.Load().SetCarry(false)
		err = c.kernel.Unpin()
	}
	c.kernel = nil
	return err
}

// stopCarrier ends what runs beside the workers.
func (f *Forwarder) stopCarrier() {
	if f.carrier.stop != nil {
		close(f.carrier.stop)
		f.beating.Wait()
		f.carrier.stop = nil
	}
}
