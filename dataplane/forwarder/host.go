// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/host"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// linkMTU is the MTU of devices inside the node, in bytes; what leaves it has its route's.
const linkMTU = 65535

// ensureHost makes the pair of devices by which the host's stack is a port, with the addresses that a snapshot gives
// it.
func (f *Forwarder) ensureHost(snapshot *api.Snapshot) error {
	var addresses []netip.Addr
	pods := prefixes(snapshot.GetNode().GetPodPrefixes())
	for _, b := range hostPort(snapshot).GetStation().GetAddresses() {
		a, ok := netip.AddrFromSlice(b)
		if ok && slices.ContainsFunc(pods, func(p netip.Prefix) bool { return p.Contains(a) }) { // others are other devices'
			addresses = append(addresses, a)
		}
	}
	pair, notes, err := f.trunk.stack.EnsurePair(linkMTU, addresses, packet.GatewayMAC[:])
	if err != nil {
		return err
	}
	f.trunk.pair = pair
	f.hostHook.Store(int64(pair.Hook.IfIndex))
	f.say("pair", notes)
	return nil
}

// settleHost brings the host's own stack to what the snapshot in force asks of it.
func (f *Forwarder) settleHost() {
	if f.trunk.stack == nil {
		return
	}
	if hostPort(f.snapshot) != nil {
		if err := f.ensureHost(f.snapshot); err != nil {
			f.say("pair", []host.Note{{Subject: "host", Reason: err.Error()}})
		}
	}
	node := f.snapshot.GetNode()
	cfg := host.Config{Forward: hostPort(f.snapshot) != nil, Services: f.services.hooks != nil}
	for _, r := range f.snapshot.GetHostRoutes() {
		list := prefixes([]*api.Prefix{r.GetPrefix()})
		if len(list) == 0 {
			continue
		}
		route := host.Route{Prefix: list[0]}
		if via, ok := netip.AddrFromSlice(r.GetVia()); ok {
			route.Via = via
		}
		cfg.Routes = append(cfg.Routes, route)
		if !r.GetService() { // where pods' packets are never for the host's stack
			cfg.Direct = append(cfg.Direct, list[0])
		}
	}
	cfg.Routes = f.toDataplane(cfg.Routes)
	if hostPort(f.snapshot) != nil {
		cfg.Pods, cfg.Masquerade = f.podsHere(), node.GetMasquerade()
		cfg.Direct = append(cfg.Direct, prefixes(node.GetUnmasqueraded())...)
	}
	notes, err := f.trunk.stack.Apply(cfg)
	if err != nil {
		notes = append(notes, host.Note{Subject: "host", Reason: err.Error()})
	}
	f.say("stack", notes)
	if was := f.tables.Load(); was.WithHostAnswers(f.trunk.stack.Answers()) != was {
		f.tables.Store(was.WithHostAnswers(f.trunk.stack.Answers()))
	}
}

// podsHere are the prefixes of this node's pods: its pod CIDRs, and the addresses of pods that are of none.
func (f *Forwarder) podsHere() []netip.Prefix {
	pods := prefixes(f.snapshot.GetNode().GetPodPrefixes())
	for _, r := range f.snapshot.GetHostRoutes() {
		list := prefixes([]*api.Prefix{r.GetPrefix()})
		if len(r.GetVia()) == 0 && !r.GetService() && len(list) > 0 && list[0].IsSingleIP() {
			pods = append(pods, list[0])
		}
	}
	return pods
}

// toDataplane adds to the host's routes those to the dataplane's own addresses, where none leads there: answers to it
// come by them.
func (f *Forwarder) toDataplane(routes []host.Route) []host.Route {
	for _, b := range f.snapshot.GetNode().GetDataplaneAddresses() {
		a, ok := netip.AddrFromSlice(b)
		if !ok || slices.ContainsFunc(routes, func(r host.Route) bool { return !r.Via.IsValid() && r.Prefix.Contains(a) }) {
			continue
		}
		routes = append(routes, host.Route{Prefix: netip.PrefixFrom(a, a.BitLen())})
	}
	return routes
}

// say has the notes shown for as long as the next call about the same thing does not leave them out.
func (f *Forwarder) say(about string, notes []host.Note) {
	said := f.trunk.said[about]
	f.trunk.said[about] = nil
	for _, n := range notes {
		f.degrade(n.Subject, n.Reason)
		f.trunk.said[about] = append(f.trunk.said[about], n.Subject)
	}
	for _, subject := range said {
		if !slices.Contains(f.trunk.said[about], subject) {
			delete(f.degraded, subject)
		}
	}
}

func prefixes(list []*api.Prefix) (all []netip.Prefix) {
	for _, p := range list {
		if a, ok := netip.AddrFromSlice(p.GetAddress()); ok {
			all = append(all, netip.PrefixFrom(a, int(p.GetBits())).Masked())
		}
	}
	return all
}
