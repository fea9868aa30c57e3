// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"math/rand/v2"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Source ports are tried one after the other from a random one on, and not all of them, for each costs a look into the
// table (nf_nat_l4proto_unique_tuple in nf_nat_core.c does as much). Where the first 128 are taken, most are.
const (
	portTries = 128
	firstPort = 1024 // what lies below is for servers (RFC 6056 3.2)
	lastPort  = 65535
)

// sourcePorts are those that a flow may try.
type sourcePorts struct {
	port uint16
	own  bool // comes first

	first, size, at uint32
	left            uint32 // tries
}

func (tr *Translation) ports(o *opening) (c sourcePorts) {
	if tr.Direct || !o.hasPorts() {
		return sourcePorts{own: true}
	}
	c = sourcePorts{own: !tr.Random, first: uint32(tr.FirstPort), size: 1}
	switch last := uint32(tr.LastPort); {
	case c.first == 0 && last == 0:
		c.first, c.size = firstPort, lastPort-firstPort+1
	case last > c.first:
		c.size = last - c.first + 1
	}
	c.left = min(c.size, portTries)
	return c
}

// hasPorts: the flow can be told from others by a source port, or an identifier, that Ends have.
func (o *opening) hasPorts() bool {
	switch o.proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
		return true
	}
	return o.s.kind == kindEcho
}

// next sets port to the next one, if there is one.
func (c *sourcePorts) next(own uint16) bool {
	switch {
	case c.own:
		c.own, c.port = false, own
		return true
	case c.left == 0:
		return false
	case c.left == min(c.size, portTries):
		c.at = rand.Uint32N(c.size)
	}
	c.left--
	c.port = uint16(c.first + c.at)
	if c.at++; c.at == c.size {
		c.at = 0
	}
	return true
}
