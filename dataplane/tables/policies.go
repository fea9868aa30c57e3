// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
)

// buildPolicies makes the policies of a snapshot.
func (b *build) buildPolicies() (err error) {
	b.t.Policy, err = policy.Build(b.snap, b.t.Identities, b.locals())
	return b.invalidPolicy(err)
}

// updatePolicies makes the policies of the ones before and a delta.
func (b *build) updatePolicies(d *api.Delta) (err error) {
	b.t.Policy, err = b.prev.Policy.Update(b.snap, d, b.t.Identities, b.locals())
	return b.invalidPolicy(err)
}

// locals are the identities that stations of this node have: what judges their packets is made ready for them.
func (b *build) locals() []identity.ID {
	var list []identity.ID
	for i := range b.t.Ports {
		for _, a := range b.t.Ports[i].Station.Addrs {
			if id := b.t.Identities.Of(a); id != identity.World {
				list = append(list, id)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// invalidPolicy makes the error of policies one of the snapshot.
func (b *build) invalidPolicy(err error) error {
	var invalid *policy.InvalidError
	if errors.As(err, &invalid) {
		return b.invalid(invalid.Origin, invalid.Field, "%s", invalid.Reason)
	}
	return err
}

// Query is what policy is asked of a flow between two ports, of which the opener's may have a station that has its
// source, and the other one's a station that has its destination. A station that speaks to itself may do so by another
// port than its own: the host's, which has translated the destination.
func Query(opener, responder *Port, src, dst packet.Addr, proto packet.IPProto, port uint16) policy.Query {
	from, to := opener.Station.Has(src), responder.Station.Has(dst)
	return policy.Query{
		Src: src, Dst: dst, Proto: proto, DstPort: port,
		Egress: from, Ingress: to, FromNode: from && opener.Host, ToNode: to && responder.Host,
		Self: to && responder.Station.Has(src),
	}
}
