// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// ports are names, which lead to ports: those of the NodeConfig, the host's and those of attachments. A name keeps its
// number for as long as it is in use.
type ports struct {
	// What is claimed is a port with its static neighbors and its limit, as a snapshot of these alone, without the
	// number and the origin.
	claims[string, *api.Snapshot]
	pool    pool
	inForce map[string]*port
}

// port is what one name leads to.
type port struct {
	number uint32
	said   *api.Snapshot // what the snapshot has of it; nil: nothing yet
	owner  claimant
	origin model.Key // of the object that says so
}

// written claims the ports of the NodeConfig.
var written = claimant{class: byObject}

func newPorts(p pool) ports {
	return ports{claims: newClaims(strings.Compare, nameLost), pool: p, inForce: map[string]*port{}}
}

func nameLost(name string, loser, winner *claim[*api.Snapshot]) *model.Error {
	return refuse(loser.object, "port", "the name %q is that of a port of %s", name, winner.object.Origin())
}

// number is that of the name; 0: it leads to no port.
func (p *ports) number(name string) uint32 {
	if one := p.inForce[name]; one != nil {
		return one.number
	}
	return 0
}

// compilePorts enters the ports that changed, with their static neighbors and limits.
func (c *Compiler) compilePorts(w *work) {
	if w.whole {
		c.claimWrittenPorts()
		c.claimHostPort()
	}
	c.claimAttachedPorts(w)
	c.ports.settle(func(name string, winner *claim[*api.Snapshot], _ []*claim[*api.Snapshot]) {
		w.ports = append(w.ports, name)
		c.enterPort(w.delta, name, winner)
	})
}

// claimWrittenPorts has the NodeConfig claim the names of its ports. They are numbered in the order in which they are
// written.
func (c *Compiler) claimWrittenPorts() {
	p := &c.ports
	p.withdraw(written)
	for i := range c.self.config.Ports {
		from := &c.self.config.Ports[i]
		p.add(from.Name, &claim[*api.Snapshot]{claimant: written, object: c.self.object, value: writtenPort(from)})
		if p.inForce[from.Name] == nil {
			p.inForce[from.Name] = &port{number: p.pool.take()}
		}
	}
}

func writtenPort(from *model.Port) *api.Snapshot {
	s := &api.Snapshot{Ports: []*api.Port{{
		Name: from.Name, Device: from.Device, Queues: from.Queues, Mtu: from.MTU,
		OuterVlan: uint32(from.OuterVLAN), InnerVlan: uint32(from.InnerVLAN),
	}}}
	for _, a := range from.Addresses {
		s.Ports[0].Addresses = append(s.Ports[0].Addresses, prefixOf(a))
	}
	for _, n := range from.Neighbors {
		s.Neighbors = append(s.Neighbors, &api.Neighbor{Address: n.Address.AsSlice(), Mac: n.MAC})
	}
	return s
}

// enterPort makes the winner's port the one of the name.
func (c *Compiler) enterPort(d *api.Delta, name string, winner *claim[*api.Snapshot]) {
	p := &c.ports
	was, is := p.inForce[name], &port{}
	if was == nil {
		was = &port{}
	}
	if winner != nil {
		if is.number = was.number; is.number == 0 {
			is.number = p.pool.take()
		}
		is.owner, is.origin = winner.claimant, winner.object.Key
		is.said = numberedPort(winner.value, is.number, c.origins.refer(winner.object))
	}
	if was.said != nil {
		c.origins.forget(was.origin)
	}
	add(d, api.Difference(was.said, is.said))
	if winner != nil {
		p.inForce[name] = is
		return
	}
	delete(p.inForce, name)
	if was.number != 0 {
		p.pool.release(was.number)
	}
}

// numberedPort is what was claimed, with the number and the origin.
func numberedPort(claimed *api.Snapshot, number, origin uint32) *api.Snapshot {
	s := proto.CloneOf(claimed)
	s.Ports[0].Id, s.Ports[0].Origin = number, origin
	for _, n := range s.Neighbors {
		n.Port, n.Origin = number, origin
	}
	for _, l := range s.Limits {
		l.Port, l.Origin = number, origin
	}
	s.Order()
	return s
}

// add adds what one port's delta says of ports.
func add(d, one *api.Delta) {
	d.Set.Ports = append(d.Set.Ports, one.Set.Ports...)
	d.Set.Neighbors = append(d.Set.Neighbors, one.Set.Neighbors...)
	d.Set.Limits = append(d.Set.Limits, one.Set.Limits...)
	d.RemovedPorts = append(d.RemovedPorts, one.RemovedPorts...)
	d.RemovedNeighbors = append(d.RemovedNeighbors, one.RemovedNeighbors...)
	d.RemovedLimits = append(d.RemovedLimits, one.RemovedLimits...)
}
