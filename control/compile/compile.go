// SPDX-License-Identifier: Apache-2.0

// Package compile turns desired state into the snapshot of one node. It is a pure function: no files, no clock, no
// randomness; equal input gives equal output, byte for byte.
package compile

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// whole returns the node's snapshot. An object that does not fit the others is left out and named in
// output.errors; there is an error only when it is not known which node this is.
func whole(in input) (output, error) {
	object, err := selectNode(in.state, in.node)
	if err != nil {
		return output{}, err
	}
	c := &compiler{
		state:   in.state,
		object:  object,
		config:  object.Spec.(*model.NodeConfig),
		origins: map[string]uint32{"": 0},
		snap:    &api.Snapshot{Epoch: in.epoch, Origins: []string{""}},
		out:     newNumbers(),
	}
	c.node()
	c.ports(in.previous)
	c.groups(in.previous, c.routes())
	return output{c.snap, c.out, c.errs}, nil
}

type compiler struct {
	state   state
	object  *model.Object // the NodeConfig
	config  *model.NodeConfig
	origins map[string]uint32
	snap    *api.Snapshot
	out     numbers
	errs    []*model.Error
}

// ErrNoNode is wrapped by errors that say why it is not known which node this is, and what to do.
var ErrNoNode = errors.New("it is not known which node this is")

// selectNode finds the NodeConfig that is the node's.
func selectNode(s state, node Node) (*model.Object, error) {
	name := node.Name
	configs := s.of("NodeConfig")
	if node.Sole && len(configs) == 1 {
		return configs[0], nil
	}
	var names []string
	for _, o := range configs {
		if o.Key.Name == name {
			return o, nil
		}
		names = append(names, o.Key.Name)
	}
	return nil, fmt.Errorf("%w: --node is %q, and there are the NodeConfigs %q", ErrNoNode, name, names)
}

// origin returns the index of the object's origin.
func (c *compiler) origin(o *model.Object) uint32 {
	text := o.Origin()
	i, known := c.origins[text]
	if !known {
		i = uint32(len(c.snap.Origins))
		c.origins[text] = i
		c.snap.Origins = append(c.snap.Origins, text)
	}
	return i
}

func (c *compiler) refuse(o *model.Object, field, format string, args ...any) {
	c.errs = append(c.errs, &model.Error{Place: o.Place, Key: o.Key, Field: field, Reason: fmt.Sprintf(format, args...)})
}

var uplinkModes = map[string]api.Uplink_Mode{
	"kernel": api.Uplink_MODE_KERNEL,
	"shared": api.Uplink_MODE_SHARED,
	"owned":  api.Uplink_MODE_OWNED,
}

func (c *compiler) node() {
	n := &api.NodeSettings{
		Name:       c.object.Key.Name,
		Origin:     c.origin(c.object),
		Workers:    c.config.Workers,
		Mtu:        c.config.MTU,
		Offload:    c.config.Offload,
		Masquerade: c.config.Masquerade,
	}
	if c.config.OnAbsence == "pass" {
		n.OnAbsence = api.OnAbsence_ON_ABSENCE_PASS
	}
	for _, p := range c.config.PodCIDRs {
		n.PodPrefixes = append(n.PodPrefixes, prefix(p))
	}
	if u := c.config.Uplink; u != nil {
		n.Uplink = &api.Uplink{Device: u.Device, Mode: uplinkModes[u.Mode]}
	}
	c.snap.Node = n
}

// ports numbers the ports and compiles them, their static neighbours included.
func (c *compiler) ports(previous numbers) {
	names := make([]string, len(c.config.Ports))
	for i, p := range c.config.Ports {
		names[i] = p.Name
	}
	c.out.ports = numberPorts(previous.ports, names)
	origin := c.origin(c.object)
	for _, p := range c.config.Ports {
		id := c.out.ports[p.Name]
		port := &api.Port{
			Id: id, Name: p.Name, Device: p.Device, Queues: p.Queues, Mtu: p.MTU, Origin: origin,
			OuterVlan: uint32(p.OuterVLAN), InnerVlan: uint32(p.InnerVLAN),
		}
		for _, a := range p.Addresses {
			port.Addresses = append(port.Addresses, prefix(a))
		}
		c.snap.Ports = append(c.snap.Ports, port)
		for _, n := range p.Neighbors {
			c.snap.Neighbors = append(c.snap.Neighbors,
				&api.Neighbor{Port: id, Address: n.Address.AsSlice(), Mac: n.MAC, Origin: origin})
		}
	}
	slices.SortFunc(c.snap.Ports, func(a, b *api.Port) int { return cmp.Compare(a.Id, b.Id) })
	slices.SortFunc(c.snap.Neighbors, func(a, b *api.Neighbor) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(len(a.Address), len(b.Address)),
			slices.Compare(a.Address, b.Address))
	})
}

func prefix(p netip.Prefix) *api.Prefix {
	return &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}
