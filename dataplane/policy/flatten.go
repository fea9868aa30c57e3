// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
)

// span is a range of protocol and port, both ends included, and the rank of a rule that matches there.
type span struct {
	first, last uint32
	rank        uint32
}

// flattener makes cells of spans that overlap: the lowest rank has its place. It keeps its memory.
type flattener struct {
	heap []span // that have begun, the lowest rank first; some of them have ended
}

// flatten appends the cells of spans in the order of their ranks. Every key has the bits of prefix.
func (f *flattener) flatten(cells []cell, prefix uint32, spans []span) []cell {
	if len(spans) == 0 {
		return cells
	}
	if s := spans[0]; s.first == 0 && s.last == everyPort { // nothing that follows has a place
		return append(cells, cell{prefix, s.rank})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	f.heap = f.heap[:0]
	last := none
	for at := spans[0].first; ; {
		for len(spans) > 0 && spans[0].first == at {
			f.push(spans[0])
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
