// SPDX-License-Identifier: Apache-2.0

package push

import (
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
)

// Settings are what those who attach pods know of the node.
type Settings struct {
	Pools    []netip.Prefix // the node's pod CIDRs
	Excluded []netip.Prefix // addresses that no pod is to have
	MTU      uint32         // of what leaves the node, in bytes; 0: not said
	Uplink   string         // the device by which it does; empty: not said
	Workers  uint32         // of the dataplane; 0: half of the cores, at least one
}

func (s Settings) equal(o Settings) bool {
	return slices.Equal(s.Pools, o.Pools) && slices.Equal(s.Excluded, o.Excluded) && s.MTU == o.MTU &&
		s.Uplink == o.Uplink && s.Workers == o.Workers
}

func settingsOf(n *api.NodeSettings, excluded []netip.Prefix) Settings {
	s := Settings{Excluded: excluded, MTU: n.GetMtu(), Uplink: n.GetUplink().GetDevice(), Workers: n.GetWorkers()}
	for _, p := range n.GetPodPrefixes() {
		address, _ := netip.AddrFromSlice(p.GetAddress())
		s.Pools = append(s.Pools, netip.PrefixFrom(address, int(p.GetBits())))
	}
	return s
}

// set tells about the node's settings, at first and when they changed.
func (p *pusher) set() {
	if p.s.cfg.Settings == nil {
		return
	}
	s := settingsOf(p.latest.GetNode(), p.compiler.Excluded())
	if p.settings == nil || !p.settings.equal(s) {
		p.settings = &s
		p.s.cfg.Settings(s)
	}
}

// tellChecks tells what load balancers ask of services, when that changed. The latest snapshot is in force.
func (p *pusher) tellChecks() {
	checks := p.compiler.HealthChecks()
	if p.s.cfg.HealthChecks != nil && !slices.Equal(p.checks, checks) {
		p.checks = checks
		p.s.cfg.HealthChecks(checks)
	}
}

// Healthy says whether a dataplane follows that has taken something: whether services are forwarded.
func (s *Server) Healthy() bool {
	follower := s.state.Load().follower
	return follower != nil && follower.Epoch != 0
}
