// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"cmp"
	"net/netip"
	"slices"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api/attach"
	"github.com/viaduct-net/viaduct/control/lease"
	"github.com/viaduct-net/viaduct/control/push"
)

// linkMTU is that of every pod's link, in bytes: pods of one node exchange packets of any size.
const linkMTU = 65535

// family is what an interface with an address of it has.
type family struct {
	gateway  string
	rest     netip.Prefix // everything that is not the node's own
	leastMTU uint32
}

var families = []family{
	{gateway: "169.254.1.1", rest: netip.MustParsePrefix("0.0.0.0/0")},
	{gateway: "fe80::1", rest: netip.MustParsePrefix("::/0"), leastMTU: 1280}, // RFC 8200 5
}

// reply says what the attachment's interface is to be like.
func (s *Service) reply(a lease.Attachment) *attach.AddReply {
	settings := s.settings.Load()
	r := &attach.AddReply{Mtu: linkMTU}
	for _, address := range a.Addresses {
		r.Addresses = append(r.Addresses, address.String())
	}
	for _, f := range families {
		has := func(address netip.Addr) bool { return address.Is4() == f.rest.Addr().Is4() }
		if !slices.ContainsFunc(a.Addresses, has) {
			continue
		}
		r.Gateways = append(r.Gateways, f.gateway)
		for _, pool := range settings.Pools {
			if has(pool.Addr()) {
				r.Routes = append(r.Routes, &attach.Route{Destination: pool.String()})
			}
		}
		r.Routes = append(r.Routes, &attach.Route{
			Destination: f.rest.String(), Mtu: max(s.mtu(settings), f.leastMTU),
		})
	}
	return r
}

// mtu is that of what leaves the node, in bytes: as it is said, or else the uplink's.
func (s *Service) mtu(settings *push.Settings) uint32 {
	if settings.MTU != 0 {
		return settings.MTU
	}
	if s.cfg.Links == nil {
		return etherMTU
	}
	mtu, err := s.cfg.Links.MTU(settings.Uplink)
	if err != nil {
		s.log.Warn("pods' default routes have Ethernet's MTU", zap.Error(err))
	}
	return cmp.Or(mtu, etherMTU)
}

// etherMTU is Ethernet's (RFC 894), in bytes.
const etherMTU = 1500
