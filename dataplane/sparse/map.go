// SPDX-License-Identifier: Apache-2.0

// Package sparse maps numbers to values, for tables of which the next version shares what has not changed.
package sparse

import (
	"iter"
	"maps"
	"math/bits"
	"slices"
)

// Map is an immutable map from numbers to values. The zero value is empty. Numbers that are close to each other share
// chunks; a change copies the chunks that it touches, and the list of chunks.
type Map[V any] struct {
	chunks map[uint32]*chunk[V] // by the upper bits of the number
	size   int
}

const chunkBits = 6

type chunk[V any] struct {
	used   uint64 // which of the values are there
	values [1 << chunkBits]V
}

func split(key uint32) (number uint32, bit uint64, index uint32) {
	index = key & (1<<chunkBits - 1)
	return key >> chunkBits, 1 << index, index
}

// Get returns the value of a number.
func (m *Map[V]) Get(key uint32) (v V, ok bool) {
	number, bit, index := split(key)
	if c := m.chunks[number]; c != nil && c.used&bit != 0 {
		return c.values[index], true
	}
	return v, false
}

// Len returns how many values there are.
func (m *Map[V]) Len() int { return m.size }

// All iterates over the values in the order of their numbers.
func (m *Map[V]) All() iter.Seq2[uint32, V] {
	return func(yield func(uint32, V) bool) {
		for _, number := range slices.Sorted(maps.Keys(m.chunks)) {
			c := m.chunks[number]
			for used := c.used; used != 0; used &= used - 1 {
				index := uint32(bits.TrailingZeros64(used))
				if !yield(number<<chunkBits|index, c.values[index]) {
					return
				}
			}
		}
	}
}

// Editor makes a map of another one, which stays as it is. One goroutine uses it.
type Editor[V any] struct {
	m   Map[V]
	own map[uint32]bool // chunks that are no other map's; nil before the first change
}

// Edit returns an editor that begins with what is in the map. It costs nothing before the first change.
func (m *Map[V]) Edit() *Editor[V] { return &Editor[V]{m: *m} }

// Get returns the value of a number as edited so far.
func (e *Editor[V]) Get(key uint32) (V, bool) { return e.m.Get(key) }

// Set adds a value or replaces it.
func (e *Editor[V]) Set(key uint32, v V) {
	number, bit, index := split(key)
	c := e.chunk(number)
	if c.used&bit == 0 {
		e.m.size++
	}
	c.used |= bit
	c.values[index] = v
}

// Delete removes a value and returns whether there was one.
func (e *Editor[V]) Delete(key uint32) bool {
	if _, ok := e.m.Get(key); !ok {
		return false
	}
	number, bit, index := split(key)
	c := e.chunk(number)
	var zero V
	c.values[index] = zero
	e.m.size--
	if c.used &^= bit; c.used == 0 {
		delete(e.m.chunks, number)
		delete(e.own, number)
	}
	return true
}

// Map returns what was made. The editor must not be used after it.
func (e *Editor[V]) Map() Map[V] { return e.m }

// chunk returns a chunk that may be changed.
func (e *Editor[V]) chunk(number uint32) *chunk[V] {
	if e.own == nil {
		e.own = make(map[uint32]bool)
		e.m.chunks = maps.Clone(e.m.chunks)
		if e.m.chunks == nil {
			e.m.chunks = make(map[uint32]*chunk[V])
		}
	}
	if e.own[number] {
		return e.m.chunks[number]
	}
	c := new(chunk[V])
	if was := e.m.chunks[number]; was != nil {
		*c = *was
	}
	e.m.chunks[number], e.own[number] = c, true
	return c
}

// Changed iterates, in no order, over the numbers whose values differ between two maps. Chunks that they share cost
// nothing.
func Changed[V comparable](from, to Map[V]) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for number, c := range to.chunks {
			if was := from.chunks[number]; was != c && !differ(was, c, number, yield) {
				return
			}
		}
		for number, c := range from.chunks {
			if to.chunks[number] == nil && !differ(c, nil, number, yield) {
				return
			}
		}
	}
}

// differ yields the numbers of a chunk, either version of which may be nil, until it is told to stop.
func differ[V comparable](was, is *chunk[V], number uint32, yield func(uint32) bool) bool {
	var none chunk[V]
	if was == nil {
		was = &none
	}
	if is == nil {
		is = &none
	}
	for used := was.used | is.used; used != 0; used &= used - 1 {
		index := uint32(bits.TrailingZeros64(used))
		if (was.used^is.used)>>index&1 == 0 && was.values[index] == is.values[index] {
			continue
		}
		if !yield(number<<chunkBits | index) {
			return false
		}
	}
	return true
}
