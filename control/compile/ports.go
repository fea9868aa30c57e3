// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// ports number the ports: a name keeps its number for as long as it is in use.
type ports struct {
	pool    pool
	numbers map[string]uint32
	said    *api.Snapshot // the settings, ports and static neighbors that are in the snapshot
}

// compile enters ports and their static neighbors, all from the object with the origin.
func (p *ports) compile(next *api.Snapshot, list []model.Port, origin uint32) {
	p.number(list)
	for i := range list {
		from := &list[i]
		id := p.numbers[from.Name]
		port := &api.Port{
			Id: id, Name: from.Name, Device: from.Device, Queues: from.Queues, Mtu: from.MTU, Origin: origin,
			OuterVlan: uint32(from.OuterVLAN), InnerVlan: uint32(from.InnerVLAN),
		}
		for _, a := range from.Addresses {
			port.Addresses = append(port.Addresses, prefixOf(a))
		}
		next.Ports = append(next.Ports, port)
		for _, n := range from.Neighbors {
			next.Neighbors = append(next.Neighbors,
				&api.Neighbor{Port: id, Address: n.Address.AsSlice(), Mac: n.MAC, Origin: origin})
		}
	}
	slices.SortFunc(next.Ports, func(a, b *api.Port) int { return cmp.Compare(a.Id, b.Id) })
	slices.SortFunc(next.Neighbors, func(a, b *api.Neighbor) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(len(a.Address), len(b.Address)),
			slices.Compare(a.Address, b.Address))
	})
}

func (p *ports) number(list []model.Port) {
	former := p.numbers
	p.numbers = make(map[string]uint32, len(list))
	for i := range list {
		name := list[i].Name
		number, had := former[name]
		if !had {
			number = p.pool.take()
		}
		p.numbers[name] = number
		delete(former, name)
	}
	for _, number := range former {
		p.pool.release(number)
	}
}
