// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/host"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/internal/process"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// trunk is the way of ports without sockets of their own: pods, and the host.
type trunk struct {
	stack   *host.Stack    // nil until a snapshot has such ports
	release func()         // of the claim to the trunk; as long as there is a stack
	hooks   *xdpprog.Trunk // nil until then, too
	devices host.Trunk
	pair    host.Pair

	ports    map[packet.PortID]xdpprog.TrunkPort // as the hooks have them
	troubles map[packet.PortID]trouble           // of ports whose hooks are not as they should be
	said     map[string][]string                 // subjects of what is amiss in the host's stack, by what found it
}

// trouble is what is wrong with a port's hook, and what the port was called then.
type trouble struct{ name, why string }

func newTrunk() trunk {
	return trunk{
		ports: make(map[packet.PortID]xdpprog.TrunkPort), troubles: make(map[packet.PortID]trouble),
		said: make(map[string][]string),
	}
}

// withSockets lists the ports whose devices have sockets: those that are not at the trunk, and the trunk itself.
func withSockets(snapshot *api.Snapshot) []*api.Port {
	var list []*api.Port
	trunk := false
	for _, p := range snapshot.GetPorts() {
		if p.Attach == api.Port_ATTACH_DIRECT {
			list = append(list, p)
		} else {
			trunk = true
		}
	}
	if trunk {
		list = append(list, &api.Port{Name: "trunk", Device: tables.TrunkDevice})
	}
	return list
}

// socketsDevice is the device by whose sockets a port's packets come and go.
func (f *Forwarder) socketsDevice(p *tables.Port) string {
	if p.Trunk {
		return tables.TrunkDevice
	}
	return p.Device
}

// linksFor makes what the snapshot's ports at the trunk need, unless it is there, and reads the devices.
func (f *Forwarder) linksFor(snapshot *api.Snapshot) (links, error) {
	l, err := readLinks(snapshot)
	list := withSockets(snapshot)
	if err != nil || len(list) == 0 || list[len(list)-1].Device != tables.TrunkDevice {
		return l, err
	}
	f.beginFlows(snapshot.GetNode())
	if err := f.prepareTrunk(snapshot, l); err != nil {
		f.degrade("trunk", "pods are cut off: "+err.Error())
		return nil, err
	}
	delete(f.degraded, "trunk")
	t := &f.trunk
	for _, made := range []host.Link{t.devices.Inner, t.devices.Outer, t.pair.Stack, t.pair.Hook} {
		if made.Name != "" && l[made.Name].ifindex != made.IfIndex {
			return readLinks(snapshot)
		}
	}
	return l, nil
}

// prepareTrunk makes the trunk, its hooks, and the host's pair. What is in force is not touched.
func (f *Forwarder) prepareTrunk(snapshot *api.Snapshot, l links) error {
	t := &f.trunk
	if t.stack == nil {
		release, err := process.ClaimInNamespace("viaduct-trunk")
		if err != nil {
			return fmt.Errorf("the trunk of this network namespace is another dataplane's, %w: stop that one", err)
		}
		stack, err := host.Open()
		if err != nil {
			release()
			return err
		}
		t.stack, t.release = stack, release
		f.hostInUse.Store(true)
	}
	devices, err := t.stack.EnsureTrunk(f.trunkQueues(snapshot, l), true)
	if err != nil {
		return err
	}
	t.devices = devices
	if err := f.prepareHooks(snapshot.GetNode()); err != nil {
		return err
	}
	if hostPort(snapshot) == nil {
		return nil
	}
	if f.snapshot == nil { // an earlier process's pair keeps its addresses
		return f.ensureHost(snapshot)
	}
	return f.ensureHost(f.snapshot)
}

// hostPort is the snapshot's port of the host, nil for none.
func hostPort(snapshot *api.Snapshot) *api.Port {
	for _, p := range snapshot.GetPorts() {
		if p.Attach == api.Port_ATTACH_HOST {
			return p
		}
	}
	return nil
}

// trunkQueues is one for each worker, of those that run, or that will; a trunk that has more is left as it is.
func (f *Forwarder) trunkQueues(snapshot *api.Snapshot, l links) int {
	n := len(f.workers)
	if n == 0 {
		n = min(wantedWorkers(snapshot), l.without(tables.TrunkDevice).fewestQueues(snapshot))
	}
	return max(n, l[host.TrunkInner].queues)
}

func (f *Forwarder) prepareHooks(node *api.NodeSettings) error {
	t := &f.trunk
	if t.hooks == nil {
		f.provideCarrier(node)
		options := xdpprog.TrunkOptions{Flows: f.carrier.kernel}
		if f.cfg.Pins != "" {
			if err := f.preparePins(); err != nil {
				return err
			}
			options.PinDir = filepath.Join(f.cfg.Pins, "trunk")
		}
		hooks, err := xdpprog.LoadTrunk(options)
		if err != nil {
			return err
		}
		t.hooks = hooks
	}
	return t.hooks.Attach(t.devices.Inner.IfIndex, t.devices.Inner.Queues)
}

// settleTrunk brings the hooks to the ports of the snapshot in force. Those of the devices in again are attached anew,
// or all of them where it is nil.
func (f *Forwarder) settleTrunk(links links, again map[int]bool) {
	t := &f.trunk
	if t.hooks == nil {
		return
	}
	wanted := make(map[packet.PortID]*api.Port)
	for _, p := range f.snapshot.GetPorts() {
		if p.Attach != api.Port_ATTACH_DIRECT {
			wanted[packet.PortID(p.Id)] = p
		}
	}
	known, err := t.hooks.Ports() // those of an earlier process among them
	if err != nil {
		f.log.Error("reading the trunk's ports", zap.Error(err))
	}
	for _, id := range known {
		if wanted[packet.PortID(id)] == nil {
			f.removeHook(packet.PortID(id))
		}
	}
	for id, p := range wanted {
		if is := t.ports[id]; again == nil || again[is.IfIndex] {
			delete(t.ports, id)
		}
		f.setHook(p, links)
	}
}

// updateTrunk is settleTrunk for what a delta touched.
func (f *Forwarder) updateTrunk(d *api.Delta, links links) {
	for _, id := range d.GetRemovedPorts() {
		f.removeHook(packet.PortID(id))
	}
	for _, p := range d.GetSet().GetPorts() {
		f.setHook(p, links)
	}
	if len(d.GetSet().GetHostRoutes())+len(d.GetRemovedHostRoutes()) > 0 {
		f.settleHost()
	}
}

// setHook brings the hook of one port to what the port is; without its device it has none.
func (f *Forwarder) setHook(p *api.Port, links links) {
	t, id := &f.trunk, packet.PortID(p.Id)
	facts, there := links[p.Device]
	if !there {
		f.removeHook(id)
		return
	}
	if p.Attach == api.Port_ATTACH_TRUNK && !facts.enabled {
		f.raisePod(p)
	}
	to := f.hookOf(p, facts)
	if is, set := t.ports[id]; set && sameHook(is, to) {
		return
	}
	f.forgive(id)
	if err := t.hooks.SetPort(to); err != nil {
		delete(t.ports, id)
		f.setEgress(id, nil)
		t.troubles[id] = trouble{p.Name, err.Error()}
		f.degrade("port "+p.Name, "it is closed: "+err.Error())
		return
	}
	t.ports[id] = to
	f.setEgress(id, &to)
}

// raisePod brings up a pod's device that somebody set down: what happens to it is the CNI plugin's and ours alone.
func (f *Forwarder) raisePod(p *api.Port) {
	link, err := netlink.LinkByName(p.Device)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	f.log.Warn("a pod's device was down", zap.String("port", p.Name), zap.String("device", p.Device),
		zap.NamedError("bringing it up", err))
}

// forgive takes back what was said to be wrong with a port's hook.
func (f *Forwarder) forgive(id packet.PortID) {
	if was, is := f.trunk.troubles[id]; is {
		delete(f.degraded, "port "+was.name)
		delete(f.trunk.troubles, id)
	}
}

func (f *Forwarder) hookOf(p *api.Port, facts linkFacts) xdpprog.TrunkPort {
	to := xdpprog.TrunkPort{ID: p.Id, IfIndex: facts.ifindex, Router: p.GetStation().GetRouter()}
	copy(to.MAC[:], p.GetStation().GetMac())
	for _, b := range p.GetStation().GetAddresses() {
		if a, ok := netip.AddrFromSlice(b); ok {
			to.Addresses = append(to.Addresses, a)
		}
	}
	if p.Attach == api.Port_ATTACH_HOST {
		to.Host, to.Addresses = true, nil // its sources are not checked
		to.IfIndex, to.HostIfIndex = f.trunk.pair.Hook.IfIndex, f.trunk.pair.Stack.IfIndex
		copy(to.MAC[:], f.trunk.pair.Stack.MAC)
	}
	return to
}

func sameHook(a, b xdpprog.TrunkPort) bool {
	if !slices.Equal(a.Addresses, b.Addresses) {
		return false
	}
	a.Addresses, b.Addresses = nil, nil
	return a.ID == b.ID && a.IfIndex == b.IfIndex && a.MAC == b.MAC && a.Router == b.Router && a.Host == b.Host &&
		a.HostIfIndex == b.HostIfIndex
}

func (f *Forwarder) removeHook(id packet.PortID) {
	delete(f.trunk.ports, id)
	f.setEgress(id, nil)
	f.forgive(id)
	if err := f.trunk.hooks.RemovePort(uint32(id)); err != nil {
		f.log.Warn("removing a port's hook", zap.String("port", f.lastName(id)), zap.Error(err))
	}
}

// trunkChanged says whether devices of ports at the trunk came, went or are others than before.
func (f *Forwarder) trunkChanged(links links) bool {
	ports := f.tables.Load().Ports
	for i := range ports {
		p := &ports[i]
		if !p.Trunk {
			continue
		}
		if facts, there := links[p.Device]; there != p.Present || there && facts.ifindex != p.IfIndex {
			return true
		}
	}
	return false
}

// only asks the kernel for the devices of the ports at the trunk; the trunk itself is as it was last seen.
func (f *Forwarder) only(ports []*api.Port) links {
	some := make(links, len(ports)+1)
	if d := f.devices[tables.TrunkDevice]; d != nil {
		some[tables.TrunkDevice] = d.link
	}
	for _, p := range ports {
		if l, err := netlink.LinkByName(p.Device); err == nil {
			some[p.Device] = factsOf(l.Attrs())
		}
	}
	return some
}

// closeTrunk lets go of the hooks, which stay with the pods' devices and hand what comes to nobody; with Cleanup it
// takes them away, and everything that is kept in the host's stack.
func (f *Forwarder) closeTrunk() error {
	t := &f.trunk
	var errs []error
	if t.hooks != nil && f.cfg.Cleanup {
		errs = append(errs, t.hooks.Detach())
	} else if t.hooks != nil {
		errs = append(errs, t.hooks.Close())
	}
	if t.stack != nil {
		if f.cfg.Cleanup {
			errs = append(errs, t.stack.Remove())
		}
		t.stack.Close()
		t.release()
	}
	t.hooks, t.stack, t.release = nil, nil, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the trunk: %w", err)
	}
	return nil
}

// hookCounters are those of a port at the trunk.
func (t *trunk) hookCounters(id packet.PortID) map[string]uint64 {
	if t.hooks == nil {
		return nil
	}
	list, err := t.hooks.Counters(uint32(id))
	if err != nil {
		return nil
	}
	counters := make(map[string]uint64, len(list))
	for _, c := range list {
		counters[c.Name] = c.Packets
	}
	return counters
}
