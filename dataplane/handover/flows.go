// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"encoding/binary"
	"fmt"
	"iter"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// A flow in the file of flows: a length byte and the name of its state, and then fields of fixed size, big-endian,
// in the order in which AppendFlow has them. Numbers of backends are of one process: it says only whether there is one.

const flowSize = 2*36 + 1 + 1 + 4*4 + 1 + 4*8 + 2*8 + 6*4 + 2*2 + 5

const (
	flowTimestamp = 1 << iota
	flowTranslated
	flowDirect
	flowBackend
	flowForged
)

// AppendFlow appends a flow to the file.
func AppendFlow(b []byte, s *conntrack.Saved) []byte {
	b = append(append(b, byte(len(s.State))), s.State...)
	for _, e := range [2]*packet.Ends{&s.Near, &s.Far} {
		for _, a := range [2]packet.Addr{e.Src, e.Dst} {
			b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, a.Hi), a.Lo)
		}
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, e.SrcPort), e.DstPort)
	}
	flags := byte(0)
	for _, f := range [5]struct {
		bit byte
		set bool
	}{
		{flowTimestamp, s.Timestamp}, {flowTranslated, s.Translated}, {flowDirect, s.Direct}, {flowBackend, s.Backend != 0},
		{flowForged, s.TCP.Forged},
	} {
		if f.set {
			flags |= f.bit
		}
	}
	b = append(b, byte(s.Proto), flags)
	for _, n := range [4]uint32{uint32(s.In), uint32(s.Out), s.Generation, s.Rule} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = append(b, byte(s.Revoked))
	for _, n := range [6]uint64{s.Sent.Packets, s.Sent.Bytes, s.Replied.Packets, s.Replied.Bytes,
		uint64(s.Age), uint64(s.Expires)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	t := &s.TCP
	for _, n := range [6]uint32{t.Ends[0], t.Ends[1], t.Limits[0], t.Limits[1], t.Acks[0], t.Acks[1]} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, t.Windows[0]), t.Windows[1])
	return append(b, t.Scales[0], t.Scales[1], t.Adrift, t.Unknown, t.Fin)
}

// Flows is the file, of which it is known that it is whole.
type Flows struct {
	bytes []byte
	count int
}

// ReadFlows says whether the file is as long as so many flows.
func ReadFlows(b []byte, count int) (*Flows, error) {
	if count < 0 || count > len(b)/flowSize {
		return nil, fmt.Errorf("read flows: %d are not in %d bytes", count, len(b))
	}
	rest := b
	for i := range count {
		n := sizeOf(rest)
		if len(rest) < n {
			return nil, fmt.Errorf("read flow %d of %d: it is cut", i, count)
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("read flows: %d bytes are left over", len(rest))
	}
	return &Flows{b, count}, nil
}

// sizeOf is how many bytes the first flow has, all there are being some of its.
func sizeOf(b []byte) int {
	if len(b) == 0 {
		return 1
	}
	return 1 + int(b[0]) + flowSize
}

// Len is how many flows there are.
func (f *Flows) Len() int { return f.count }

// Parts are the flows in n parts or fewer, which may be iterated over at the same time. A Flow is valid until the next
// one of its part.
func (f *Flows) Parts(n int) []iter.Seq[*Flow] {
	var parts []iter.Seq[*Flow]
	each := (f.count + n - 1) / n
	for rest, left := f.bytes, f.count; left > 0; {
		some, size := min(each, left), 0
		for range some {
			size += sizeOf(rest[size:])
		}
		parts = append(parts, flowsOf(rest[:size]))
		rest, left = rest[size:], left-some
	}
	return parts
}

func flowsOf(b []byte) iter.Seq[*Flow] {
	return func(yield func(*Flow) bool) {
		f := new(Flow)
		for rest := b; len(rest) > 0; {
			*f = Flow{Saved: conntrack.Saved{State: f.State}}
			if rest = f.read(rest); !yield(f) {
				return
			}
		}
	}
}

// Flow is one of the file.
type Flow struct {
	conntrack.Saved
	Served bool // it has a backend, whose number is not known here
}

// read reads the first flow of b, and returns what is behind it. The name of the state is that which is there already
// where it is the same.
func (f *Flow) read(b []byte) []byte {
	if name := b[1 : 1+b[0]]; f.State != string(name) {
		f.State = string(name)
	}
	r := reader(b[1+b[0]:])
	for _, e := range [2]*packet.Ends{&f.Near, &f.Far} {
		for _, a := range [2]*packet.Addr{&e.Src, &e.Dst} {
			a.Hi, a.Lo = r.uint64(), r.uint64()
		}
		e.SrcPort, e.DstPort = r.uint16(), r.uint16()
	}
	f.Proto = packet.IPProto(r.byte())
	flags := r.byte()
	f.Timestamp, f.Translated = flags&flowTimestamp != 0, flags&flowTranslated != 0
	f.Direct, f.Served = flags&flowDirect != 0, flags&flowBackend != 0
	f.In, f.Out, f.Generation, f.Rule = packet.PortID(r.uint32()), packet.PortID(r.uint32()), r.uint32(), r.uint32()
	f.Revoked = verdict.Reason(r.byte())
	f.Sent.Packets, f.Sent.Bytes, f.Replied.Packets, f.Replied.Bytes = r.uint64(), r.uint64(), r.uint64(), r.uint64()
	f.Age, f.Expires = time.Duration(r.uint64()), time.Duration(r.uint64())
	t := &f.TCP
	t.Forged = flags&flowForged != 0
	for _, n := range [6]*uint32{&t.Ends[0], &t.Ends[1], &t.Limits[0], &t.Limits[1], &t.Acks[0], &t.Acks[1]} {
		*n = r.uint32()
	}
	t.Windows[0], t.Windows[1] = r.uint16(), r.uint16()
	t.Scales[0], t.Scales[1], t.Adrift, t.Unknown, t.Fin = r.byte(), r.byte(), r.byte(), r.byte(), r.byte()
	return r
}

// reader takes fields off bytes of which there are enough.
type reader []byte

func (r *reader) byte() byte {
	v := (*r)[0]
	*r = (*r)[1:]
	return v
}

func (r *reader) uint16() uint16 {
	v := binary.BigEndian.Uint16(*r)
	*r = (*r)[2:]
	return v
}

func (r *reader) uint32() uint32 {
	v := binary.BigEndian.Uint32(*r)
	*r = (*r)[4:]
	return v
}

func (r *reader) uint64() uint64 {
	v := binary.BigEndian.Uint64(*r)
	*r = (*r)[8:]
	return v
}
