// SPDX-License-Identifier: Apache-2.0

package fragment

import "github.com/viaduct-net/viaduct/dataplane/packet"

// maxSpans is how many runs of bytes with gaps between them a datagram may come in. One of 64 KiB has 45 fragments on
// an Ethernet, so that only every other one of most of them coming first would need more.
const maxSpans = 16

// span is a run of bytes that has come, in units of 8 bytes, which offsets are counted in.
type span struct{ from, to uint16 }

// seen is what of a datagram has come.
type seen struct {
	spans [maxSpans]span // in order, with gaps between them
	n     uint8
	last  bool   // the last fragment has come, and with it
	size  uint16 // the datagram's length, bytes
}

// fit is how a piece goes together with those that came before.
type fit uint8

const (
	fresh    fit = iota // it fills a gap
	repeated            // all of it is there already
	contrary            // it overlaps or contradicts the others, or too many gaps leave that open
)

// add enters a piece.
func (s *seen) add(p packet.Piece) fit {
	end := p.Offset + p.Len
	switch {
	case end > 0xffff:
		return contrary
	case s.last && (end > int(s.size) || !p.More && end != int(s.size)):
		return contrary // data behind the last, or another last
	case !s.last && !p.More:
		if p.Offset < s.reach() {
			return contrary // data behind it, or its own was not the last
		}
		s.last, s.size = true, uint16(end)
	case p.Len == 0:
		return repeated
	}
	if p.Len == 0 {
		return fresh // nothing but the datagram's length
	}
	return s.insert(span{uint16(p.Offset / 8), uint16((end + 7) / 8)})
}

// reach is where the bytes that have come end.
func (s *seen) reach() int {
	if s.n == 0 {
		return 0
	}
	return int(s.spans[s.n-1].to) * 8
}

// insert adds a run of bytes and joins it to those that it touches.
func (s *seen) insert(a span) fit {
	i := 0 // of the first that does not end in front of a
	for i < int(s.n) && s.spans[i].to < a.from {
		i++
	}
	left := i < int(s.n) && s.spans[i].to == a.from
	next := i
	if left {
		next++
	}
	if next < int(s.n) && s.spans[next].from < a.to {
		if o := s.spans[next]; o.from <= a.from && a.to <= o.to {
			return repeated
		}
		return contrary
	}
	right := next < int(s.n) && s.spans[next].from == a.to
	switch {
	case left && right:
		s.spans[i].to = s.spans[next].to
		s.n--
		copy(s.spans[next:s.n], s.spans[next+1:])
	case left:
		s.spans[i].to = a.to
	case right:
		s.spans[next].from = a.from
	case s.n == maxSpans:
		return contrary
	default:
		copy(s.spans[i+1:s.n+1], s.spans[i:s.n])
		s.spans[i] = a
		s.n++
	}
	return fresh
}

// whole says whether all of the datagram has come.
func (s *seen) whole() bool {
	return s.last && s.n == 1 && s.spans[0] == span{0, uint16((int(s.size) + 7) / 8)}
}
