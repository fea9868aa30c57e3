// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// table is what keys lead to: destinations to groups, and addresses to identities. Objects claim keys, the winner's
// claim says what the key leads to, and what equal claims lead to is one thing with one number.
type table[K comparable, V any] struct {
	claims[K, V]
	things  numbered[V]
	inForce map[K]entry[V]
	// former says what keys led to in a snapshot that an earlier process made; nil after the first compilation.
	former map[K]*thing[V]
}

// entry is what one key leads to in the snapshot.
type entry[V any] struct {
	thing  *thing[V] // nil: the key is not there
	number uint32    // of the thing
	origin uint32
	owner  model.Key // of the object that the origin is of
}

// move is a key that was looked at, and may lead elsewhere than before.
type move[K comparable, V any] struct {
	key      K
	from, to entry[V]
}

func newTable[K comparable, V any](claims claims[K, V]) table[K, V] {
	return table[K, V]{
		claims:  claims,
		things:  numbered[V]{byContent: map[string]*thing[V]{}},
		inForce: map[K]entry[V]{},
		former:  map[K]*thing[V]{},
	}
}

// decide settles the claims, and returns the keys that were looked at, in order. meant says what a winner's claim
// leads to: a thing's content and value, or none.
func (t *table[K, V]) decide(
	c *Compiler, w *work, meant func(*claim[V]) (content string, value V, some bool),
) (moves []move[K, V]) {
	t.settle(func(key K, winner *claim[V], all []*claim[V]) {
		for _, one := range all {
			w.look(one.object.Key)
		}
		m := move[K, V]{key: key, from: t.inForce[key]}
		if winner != nil {
			if content, value, some := meant(winner); some {
				m.to = entry[V]{
					thing: t.things.refer(content, value), origin: c.origins.refer(winner.object), owner: winner.object.Key}
			}
		}
		if m.from.thing != nil {
			t.things.forget(m.from.thing)
			c.origins.forget(m.from.owner)
		}
		if m.from.thing != nil || m.to.thing != nil {
			moves = append(moves, m)
		}
	})
	return moves
}

// inherit gives things without a number that of what one of their keys led to, if nothing leads there any more.
func (t *table[K, V]) inherit(moves []move[K, V]) {
	for _, m := range moves {
		former := m.from.thing
		if former == nil {
			former = t.former[m.key]
		}
		if m.to.thing != nil && former != nil {
			t.things.inherit(m.to.thing, former)
		}
	}
}

// enter numbers what has no number yet, in the order of the keys, and calls set and removed for keys that lead
// elsewhere than before.
func (t *table[K, V]) enter(moves []move[K, V], set func(K, entry[V]), removed func(K)) {
	for _, m := range moves {
		if m.to.thing == nil {
			delete(t.inForce, m.key)
			removed(m.key)
			continue
		}
		m.to.number = t.things.number(m.to.thing)
		t.inForce[m.key] = m.to
		if m.from.thing == nil || m.from.number != m.to.number || m.from.origin != m.to.origin {
			set(m.key, m.to)
		}
	}
	t.former = nil
}

func prefixOf(p netip.Prefix) *api.Prefix {
	return &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}
