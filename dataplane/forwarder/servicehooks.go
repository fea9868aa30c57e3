// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/host"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// serviceHooks is what the kernel does for services: hooks at the devices by which the host reaches the network, and at
// the cgroup of its sockets, which are there for as long as there are services.
//
// The hooks follow the tables. A frontend that is new to them is in force already; one that is gone is given back to
// the host by userspace, for as long as the hooks still take it.
type serviceHooks struct {
	frontends

	hooks    *xdpprog.Services // nil: there are none
	node     xdpprog.Node
	pods     []netip.Prefix
	hostRead bool // the addresses of the host's devices were read

	proxyAsked time.Time // when kube-proxy was last looked for
	proxy      string    // what was found of it
	proxySaid  bool      // that there is none
}

// pinnedServices is the hooks' directory among the pins.
const pinnedServices = "services"

// takesServices says whether a snapshot has something that the hooks are for.
func takesServices(s *api.Snapshot) bool {
	return hostPort(s) != nil && len(s.GetServices())+len(s.GetEgress()) > 0
}

// settleServices brings the hooks to the snapshot in force.
func (f *Forwarder) settleServices() {
	s := &f.services
	s.setAll(f.snapshot.GetServices())
	s.setEgress(f.snapshot.GetEgress())
	s.setNode(f.snapshot.GetNode())
	f.mendServices()
	if !f.anyShared() {
		return
	}
	var notes []host.Note
	if err := f.setHooks(); err != nil { // which take what comes to these addresses
		notes = []host.Note{{Subject: "shared uplink",
			Reason: "what comes to services by it is not all taken: " + err.Error()}}
	}
	f.say("shared uplink", notes)
}

// mendServices brings the hooks to what is known to be in force, with whatever it takes.
func (f *Forwarder) mendServices() {
	if f.trunk.hooks == nil || !takesServices(f.snapshot) {
		f.dropServiceHooks()
		return
	}
	if err := f.prepareServices(); err != nil {
		f.say("services", []host.Note{{Subject: "services",
			Reason: "what comes to the host for them is not taken: " + err.Error()}})
		return
	}
	var notes []host.Note
	if err := f.writeServices(); err != nil {
		notes = append(notes, host.Note{Subject: "services", Reason: "the hooks do not take all of them: " + err.Error()})
	}
	notes = append(append(notes, f.settleUplinks()...), f.settleCgroup()...)
	f.say("services", append(append(notes, f.egressNotes()...),
		append(f.ephemeralNotes(), f.lookForProxy()...)...))
}

// updateServices is settleServices for what a delta touched.
func (f *Forwarder) updateServices(d *api.Delta) {
	set := d.GetSet()
	if len(set.GetServices())+len(d.GetRemovedServices())+len(set.GetEgress())+len(d.GetRemovedEgress()) == 0 {
		return
	}
	s := &f.services
	if s.hooks == nil || !takesServices(f.snapshot) || len(set.GetEgress())+len(d.GetRemovedEgress()) > 0 {
		had := s.hooks != nil
		if f.settleServices(); had != (s.hooks != nil) {
			f.settleHost()
		}
		return
	}
	for _, service := range set.GetServices() {
		s.set(service)
	}
	for _, id := range d.GetRemovedServices() {
		s.remove(id)
	}
	silenced := !f.tables.Load().SameAnnouncements(f.hooked)
	if len(s.dirtyFrontends)+len(s.dirtyAddresses) == 0 && !silenced {
		return
	}
	err := f.writeServices()
	if err == nil && f.anyShared() {
		err = f.setHooks()
	}
	if err != nil {
		f.mendServices() // which says so
	}
}

// prepareServices loads the hooks.
func (f *Forwarder) prepareServices() error {
	s := &f.services
	if s.hooks != nil {
		return nil
	}
	pins := ""
	if f.cfg.Pins != "" {
		pins = filepath.Join(f.cfg.Pins, pinnedServices)
	}
	hooks, err := f.trunk.hooks.LoadServices(pins)
	if err != nil {
		return err
	}
	s.hooks, s.node, s.pods = hooks, xdpprog.Node{}, nil
	return s.takeOver(hooks)
}

// writeServices brings the hooks' maps to what is in force.
func (f *Forwarder) writeServices() error {
	s := &f.services
	node := xdpprog.Node{Dataplane: s.own}
	if p := hostPort(f.snapshot); p != nil {
		node.HostPort = p.GetId()
	}
	if pods := f.podsHere(); !slices.Equal(pods, s.pods) {
		if err := s.hooks.SetPods(pods); err != nil {
			return err
		}
		s.pods = pods
	}
	if node.HostPort != s.node.HostPort || !slices.Equal(node.Dataplane, s.node.Dataplane) {
		if err := s.hooks.SetNode(node); err != nil {
			return err
		}
		s.node = node
	}
	return s.write(s.hooks, f.log)
}

// readHost reads the addresses of the host's devices, for the tables and for the hooks. The lock must not be held.
func (f *Forwarder) readHost() {
	list, err := host.Addresses()
	if err != nil {
		f.log.Error("reading the host's addresses", zap.Error(err))
		return
	}
	addresses := make([]netip.Addr, len(list))
	for i, p := range list {
		addresses[i] = p.Addr()
	}
	f.setNodeAddresses(addresses)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.services.setHost(list)
	f.services.hostRead = true
}

// knowsHost says whether readHost was called.
func (f *Forwarder) knowsHost() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.services.hostRead
}

// dropServiceHooks takes the hooks away, also those that a process before left.
func (f *Forwarder) dropServiceHooks() {
	s := &f.services
	f.say("services", nil)
	if s.hooks == nil && !f.leftServices() {
		return
	}
	err := f.prepareServices()
	if err == nil {
		err = s.hooks.Detach()
	}
	if err != nil {
		f.log.Warn("taking the hooks of services off", zap.Error(err))
	}
	s.hooks = nil
}

// leftServices says whether hooks of services may be pinned.
func (f *Forwarder) leftServices() bool {
	if f.cfg.Pins == "" || f.trunk.hooks == nil {
		return false
	}
	_, err := os.Stat(filepath.Join(f.cfg.Pins, pinnedServices))
	return err == nil
}

// closeServices lets go of the hooks, which stay where they are pinned; with Cleanup it takes them away.
func (f *Forwarder) closeServices() error {
	s := &f.services
	if s.hooks == nil {
		return nil
	}
	hooks := s.hooks
	s.hooks = nil
	if f.cfg.Cleanup {
		return hooks.Detach()
	}
	return hooks.Close()
}

// hookCounters are those of a port at the trunk. What is taken for services at the host's devices is the host port's.
func (f *Forwarder) hookCounters(p *tables.Port) map[string]uint64 {
	counters := f.trunk.hookCounters(p.ID)
	if counters == nil || !p.Host || f.services.hooks == nil {
		return counters
	}
	list, err := f.services.hooks.Counters()
	if err != nil {
		f.log.Debug("reading counters of services' hooks", zap.Error(err))
	}
	for _, c := range list {
		counters[c.Name] = c.Packets
	}
	return counters
}
