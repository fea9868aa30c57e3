// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
)

// What a dataplane has learned of the network, for the next one: by State it is handed over, and it is beside the last
// good snapshot for one that was killed. Fields are of fixed size, big-endian, in the order in which Append has them.
// Whoever could write the file may have written anything: nothing of it is believed but what its form says, and nothing
// is allocated that its length does not bear.

// Learned is of one boot of the machine: times and numbers of devices are that one's.
type Learned struct {
	Boot  [16]byte // /proc/sys/kernel/random/boot_id
	Ports []LearnedPort
}

// LearnedPort is what was learned by a port. A number may be another port's by now: it is the same if name and device
// are.
type LearnedPort struct {
	ID        packet.PortID
	IfIndex   int
	Name      string
	Names     []names.Learned // by who is behind it; Expires is of CLOCK_MONOTONIC
	Neighbors []Neighbor      // on its link
}

const (
	learnedName     = 16 + 8 + 8
	learnedNeighbor = 16 + 6
	learnedPort     = 4 + 4 + 2 + 4 + 4 // less its name
)

// Append appends it to bytes. A name of more than 64 KiB is none of a port.
func (l *Learned) Append(b []byte) []byte {
	b = append(b, l.Boot[:]...)
	for i := range l.Ports {
		p := &l.Ports[i]
		if len(p.Name) > 1<<16-1 {
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(p.ID))
		b = binary.BigEndian.AppendUint32(b, uint32(p.IfIndex))
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(p.Name))), p.Name...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(p.Names)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(p.Neighbors)))
		for _, n := range p.Names {
			b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, n.Addr.Hi), n.Addr.Lo)
			b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, n.Pattern), uint64(n.Expires))
		}
		for _, n := range p.Neighbors {
			b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, n.Addr.Hi), n.Addr.Lo)
			b = append(b, n.MAC[:]...)
		}
	}
	return b
}

var errCut = errors.New("it is cut")

// ReadLearned reads what Append has written.
func ReadLearned(b []byte) (*Learned, error) {
	l := &Learned{}
	if len(b) < len(l.Boot) {
		return nil, fmt.Errorf("read what was learned: %w", errCut)
	}
	copy(l.Boot[:], b)
	for r := reader(b[len(l.Boot):]); len(r) > 0; {
		p, err := r.learnedPort()
		if err != nil {
			return nil, fmt.Errorf("read what port %d has learned: %w", p.ID, err)
		}
		l.Ports = append(l.Ports, p)
	}
	return l, nil
}

func (r *reader) learnedPort() (p LearnedPort, err error) {
	if len(*r) < learnedPort {
		return p, errCut
	}
	p.ID, p.IfIndex = packet.PortID(r.uint32()), int(int32(r.uint32()))
	size := int(r.uint16())
	if len(*r) < size+8 {
		return p, errCut
	}
	p.Name = string((*r)[:size])
	*r = (*r)[size:]
	learned, neighbors := uint64(r.uint32()), uint64(r.uint32())
	if learned*learnedName+neighbors*learnedNeighbor > uint64(len(*r)) {
		return p, errCut
	}
	p.Names, p.Neighbors = make([]names.Learned, learned), make([]Neighbor, neighbors)
	for i := range p.Names {
		n := &p.Names[i]
		n.Addr.Hi, n.Addr.Lo, n.Pattern, n.Expires = r.uint64(), r.uint64(), r.uint64(), int64(r.uint64())
	}
	for i := range p.Neighbors {
		n := &p.Neighbors[i]
		n.Port, n.Addr.Hi, n.Addr.Lo = p.ID, r.uint64(), r.uint64()
		*r = (*r)[copy(n.MAC[:], *r):]
	}
	return p, nil
}
