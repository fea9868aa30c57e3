// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"errors"
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// egressNumbers are the places of egresses. One that is changed gets another place, for hooks read several words of
// it. The place before leads nowhere, and is taken again once no record is left that leads there, and others have
// been taken before: a hook that has read a record may look at its egress a moment later.
type egressNumbers struct {
	numbers map[packet.PortID]uint32
	ports   []packet.PortID // by number: those that lead there; 0: none
	used    []uint32        // by number: how many directions of records lead there
	free    []uint32        // the first is taken first
	top     uint32          // those up to it were taken at some time
	most    uint32
}

// of is the number of a port's egress. No port, which is userspace, has 0.
func (x *egressNumbers) of(port packet.PortID) (uint32, bool) {
	if port == 0 {
		return 0, true
	}
	n, ok := x.numbers[port]
	return n, ok
}

// port is the one that a number leads to; 0: none, or userspace, which has a number without having a place.
func (x *egressNumbers) port(n uint32) packet.PortID {
	if n >= uint32(len(x.ports)) {
		return 0
	}
	return x.ports[n]
}

// uses counts the directions that lead to an egress.
func (x *egressNumbers) uses(n uint32, by int) {
	if n == 0 {
		return
	}
	x.used[n] += uint32(by)
	if x.used[n] == 0 && x.ports[n] == 0 {
		x.free = append(x.free, n)
	}
}

// grow has there be places up to a number.
func (x *egressNumbers) grow(n uint32) {
	for uint32(len(x.ports)) <= n {
		x.ports = append(x.ports, 0)
		x.used = append(x.used, 0)
	}
	x.top = max(x.top, n)
}

// take is a place that nothing leads to; 0: there is none.
func (x *egressNumbers) take() uint32 {
	if x.top+1 < x.most && len(x.free) < 64 {
		x.grow(x.top + 1)
		return x.top
	}
	if len(x.free) == 0 {
		return 0
	}
	n := x.free[0]
	x.free = x.free[1:]
	return n
}

// retire has a port lead nowhere.
func (x *egressNumbers) retire(port packet.PortID) {
	n := x.numbers[port]
	delete(x.numbers, port)
	x.ports[n] = 0
	if x.used[n] == 0 {
		x.free = append(x.free, n)
	}
}

// SetEgress says how a port's packets leave. Of None there is nothing that leads there any more. Records that lead to
// a port whose egress is changed lead to userspace, until they are entered anew.
func (t *Table) SetEgress(port packet.PortID, e Egress) error {
	if port == 0 || e.Kind > Wire || e.Kind != None && (e.IfIndex <= 0 || e.IfIndex > math.MaxInt32) {
		return errors.New("set egress: out of range")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	want := e.layout(port)
	n, known := t.ports.numbers[port]
	if known && t.egresses[n] == want {
		return nil
	}
	if known {
		t.egresses[n].lead(None)
		t.ports.retire(port)
	}
	if e.Kind == None {
		return nil
	}
	if n = t.ports.take(); n == 0 {
		return errors.New("set egress: all are taken")
	}
	x := &t.egresses[n]
	x.lead(None)
	x.ifindex, x.port, x.mac, x.tags = want.ifindex, want.port, want.mac, want.tags
	x.outer, x.inner = want.outer, want.inner
	x.lead(e.Kind)
	t.ports.numbers[port], t.ports.ports[n] = n, port
	return nil
}

// Egress is the port's; None where there is none.
func (t *Table) Egress(port packet.PortID) Egress {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.ports.numbers[port]
	if !ok {
		return Egress{}
	}
	x := &t.egresses[n]
	e := Egress{Kind: EgressKind(x.kind), IfIndex: int(x.ifindex), MAC: x.mac}
	if x.tags > 0 {
		e.VLANs.Outer = bits.ReverseBytes16(x.outer[1])
	}
	if x.tags > 1 {
		e.VLANs.Inner = bits.ReverseBytes16(x.inner[1])
	}
	return e
}

// layout is the egress as hooks have it. Its tags are those of packet.SetEthernet.
func (e *Egress) layout(port packet.PortID) egress {
	x := egress{ifindex: uint32(e.IfIndex), port: uint32(port), mac: e.MAC, kind: uint8(e.Kind)}
	tag := func(kind packet.EtherType, id uint16) [2]uint16 {
		return [2]uint16{bits.ReverseBytes16(uint16(kind)), bits.ReverseBytes16(id)}
	}
	switch {
	case e.VLANs.Inner != 0:
		x.tags, x.outer = 2, tag(packet.EtherTypeQinQ, e.VLANs.Outer)
		x.inner = tag(packet.EtherTypeVLAN, e.VLANs.Inner)
	case e.VLANs.Outer != 0:
		x.tags, x.outer = 1, tag(packet.EtherTypeVLAN, e.VLANs.Outer)
	}
	return x
}

// lead sets the kind of an egress, behind all that was written before.
func (x *egress) lead(kind EgressKind) {
	x.kind = uint8(kind)
	atomic.StoreUint32(&x.port, x.port)
}
