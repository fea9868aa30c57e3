// SPDX-License-Identifier: Apache-2.0

package policy

import "slices"

// span is a range of protocol and port, both ends included, and the rank of a rule that matches there.
type span struct {
	first, last uint32
	rank        uint32
}

// flattener makes cells of spans that overlap: the lowest rank has its place. It keeps its memory.
type flattener struct {
	heap   []span // that have begun, the lowest rank first; some of them have ended
	order  []uint64
	sorted []span
	seen   [1 << 8]seen // by a hash of the span
	round  uint32
}

// seen is a span that came in a round.
type seen struct {
	first, last, round uint32
}

// sort returns the spans in the order in which they begin, without most of those that came before with a lower rank:
// many rules are for the same few ports.
func (f *flattener) sort(spans []span) []span {
	f.round++
	f.order = f.order[:0]
	for i := range spans {
		s := &spans[i]
		at := &f.seen[(s.first*0x9e3779b1^s.last*0x85ebca6b)>>24]
		if is := (seen{s.first, s.last, f.round}); *at != is {
			*at = is
			f.order = append(f.order, uint64(s.first)<<32|uint64(i))
		}
	}
	slices.Sort(f.order)
	f.sorted = f.sorted[:0]
	for _, o := range f.order {
		f.sorted = append(f.sorted, spans[uint32(o)])
	}
	return f.sorted
}

// flatten appends the cells of spans in the order of their ranks. Every key has the bits of prefix.
func (f *flattener) flatten(cells []cell, prefix uint32, spans []span) []cell {
	if len(spans) == 0 {
		return cells
	}
	if s := spans[0]; s.first == 0 && s.last == everyPort { // nothing that follows has a place
		return append(cells, cell{prefix, s.rank})
	}
	spans = f.sort(spans)
	f.heap = f.heap[:0]
	last := none
	for at := spans[0].first; ; {
		for len(spans) > 0 && spans[0].first == at {
			if s := spans[0]; len(f.heap) == 0 || s.rank < f.heap[0].rank || s.last > f.heap[0].last {
				f.push(s)
			}
			spans = spans[1:]
		}
		for len(f.heap) > 0 && f.heap[0].last < at {
			f.pop()
		}
		rank, next := none, uint32(everyPort+1)
		if len(f.heap) > 0 {
			rank, next = f.heap[0].rank, f.heap[0].last+1
		}
		if rank != last {
			cells, last = append(cells, cell{prefix | at, rank}), rank
		}
		if len(spans) > 0 {
			next = min(next, spans[0].first)
		}
		if at = next; at > everyPort {
			return cells
		}
	}
}

func (f *flattener) push(s span) {
	h := append(f.heap, s)
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if h[up].rank <= h[i].rank {
			break
		}
		h[up], h[i] = h[i], h[up]
		i = up
	}
	f.heap = h
}

func (f *flattener) pop() {
	h := f.heap
	h[0] = h[len(h)-1]
	h = h[:len(h)-1]
	for i := 0; ; {
		least := i
		for down := 2*i + 1; down <= 2*i+2 && down < len(h); down++ {
			if h[down].rank < h[least].rank {
				least = down
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	f.heap = h
}
