// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// hostRoutes are the routes of the host's own stack. Nodes claim them with their pod CIDRs; who loses one has lost the
// dataplane's route as well, and that is said. Services claim what nobody else does.
type hostRoutes struct {
	claims[netip.Prefix, hostWay]
	inForce map[netip.Prefix]hostRoute
}

// hostWay is how the host's stack leads to a prefix.
type hostWay struct {
	via     netip.Addr // the next router; zero: by the dataplane
	service bool       // services are there
	none    bool       // it knows by itself
}

type hostRoute struct {
	said  *api.HostRoute
	owner model.Key
}

func newHostRoutes() hostRoutes {
	return hostRoutes{
		claims: newClaims(comparePrefixes, func(netip.Prefix, *claim[hostWay], *claim[hostWay]) *model.Error {
			return nil
		}),
		inForce: map[netip.Prefix]hostRoute{},
	}
}

// compileHostRoutes enters the host's routes that changed.
func (c *Compiler) compileHostRoutes(w *work) {
	r := &c.hostRoutes
	r.settle(func(to netip.Prefix, winner *claim[hostWay], _ []*claim[hostWay]) {
		was, had := r.inForce[to]
		if winner != nil && winner.value.none {
			winner = nil
		}
		if winner != nil {
			is := hostRoute{owner: winner.object.Key, said: &api.HostRoute{
				Prefix: prefixOf(to), Via: winner.value.via.AsSlice(), Origin: c.origins.refer(winner.object),
				Service: winner.value.service,
			}}
			r.inForce[to] = is
			if !had || !proto.Equal(was.said, is.said) {
				w.delta.Set.HostRoutes = append(w.delta.Set.HostRoutes, is.said)
			}
		}
		if !had {
			return
		}
		c.origins.forget(was.owner)
		if winner == nil {
			delete(r.inForce, to)
			w.delta.RemovedHostRoutes = append(w.delta.RemovedHostRoutes, was.said.Prefix)
		}
	})
}
