// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"slices"

	"github.com/viaduct-net/viaduct/control/model"
)

// claims are who wants what: several objects may claim one key, a destination or an address, and the first of those
// who can have it does. The others wait: they get it when those before them are gone.
type claims[K comparable, V any] struct {
	compare func(a, b K) int
	// lost says why the loser does not get the key; nil when nobody need be told.
	lost func(key K, loser, winner *claim[V]) *model.Error

	byKey   map[K][]*claim[V] // ordered by claimant; none is empty
	byOwner map[claimant][]K
	touched map[K]struct{} // keys to be looked at
	refused map[refusal[K]]*model.Error
	// judgedAnew says that refused may say something else than when this was last unset.
	judgedAnew bool
}

// claimant is who claims. Order is what decides: by class, then by key.
type claimant struct {
	class class
	key   model.Key
}

type class uint8

const (
	byPlace    class = iota // addresses of attachments: who has an address is known best where it is
	byCluster               // services' own addresses
	byAllotted              // node ports, and addresses that load balancers gave: nobody takes these by naming them
	byObject                // Route objects; pods' and nodes' addresses; ports of the NodeConfig; frontends
	byHost                  // the node's own addresses, and its port
	byPort                  // attachments, and their host ports
	byNode                  // the pod CIDRs of nodes
	byService               // the host's ways to services
	byDefault               // whatever nobody else has
)

func (c claimant) compare(o claimant) int {
	return cmp.Or(cmp.Compare(c.class, o.class), c.key.Compare(o.key))
}

// claim is what one claimant wants to do with one key.
type claim[V any] struct {
	claimant claimant
	object   *model.Object // that says so
	value    V
	err      *model.Error // why it cannot be done, whoever else claims the key; nil when it can
}

type refusal[K comparable] struct {
	claimant claimant
	key      K
}

func newClaims[K comparable, V any](
	compare func(a, b K) int, lost func(key K, loser, winner *claim[V]) *model.Error,
) claims[K, V] {
	return claims[K, V]{
		compare: compare,
		lost:    lost,
		byKey:   map[K][]*claim[V]{},
		byOwner: map[claimant][]K{},
		touched: map[K]struct{}{},
		refused: map[refusal[K]]*model.Error{},

		judgedAnew: true,
	}
}

// withdraw takes all claims of the claimant back.
func (c *claims[K, V]) withdraw(who claimant) {
	for _, key := range c.byOwner[who] {
		c.touched[key] = struct{}{}
		c.refuse(refusal[K]{who, key}, nil)
		list := slices.DeleteFunc(c.byKey[key], func(other *claim[V]) bool { return other.claimant == who })
		if len(list) == 0 {
			delete(c.byKey, key)
		} else {
			c.byKey[key] = list
		}
	}
	delete(c.byOwner, who)
}

// add enters a claim. Of one claimant there is one for each key: the first.
func (c *claims[K, V]) add(key K, made *claim[V]) {
	list := c.byKey[key]
	at, there := slices.BinarySearchFunc(list, made.claimant, func(other *claim[V], who claimant) int {
		return other.claimant.compare(who)
	})
	if there {
		return
	}
	c.byKey[key] = slices.Insert(list, at, made)
	c.byOwner[made.claimant] = append(c.byOwner[made.claimant], key)
	c.touched[key] = struct{}{}
}

// touch has the claimant's keys looked at again.
func (c *claims[K, V]) touch(who claimant) {
	for _, key := range c.byOwner[who] {
		c.touched[key] = struct{}{}
	}
}

// settle decides each key that was touched, in order, and says who has it: nil when nobody does.
func (c *claims[K, V]) settle(decided func(key K, winner *claim[V], all []*claim[V])) {
	for _, key := range slices.SortedFunc(maps.Keys(c.touched), c.compare) {
		all := c.byKey[key]
		winner := c.winner(key)
		for _, one := range all {
			c.judge(key, one, winner)
		}
		decided(key, winner, all)
	}
	c.touched = map[K]struct{}{} // a cleared map costs as much to walk as when it was full
}

// winner is who has the key; nil: nobody.
func (c *claims[K, V]) winner(key K) *claim[V] {
	for _, one := range c.byKey[key] {
		if one.err == nil {
			return one
		}
	}
	return nil
}

func (c *claims[K, V]) judge(key K, one, winner *claim[V]) {
	err := one.err
	if err == nil && one != winner {
		err = c.lost(key, one, winner)
	}
	c.refuse(refusal[K]{one.claimant, key}, err)
}

// refuse notes why a claim is refused; nil: it is not.
func (c *claims[K, V]) refuse(which refusal[K], err *model.Error) {
	was := c.refused[which]
	switch {
	case err != nil && was != nil && *was == *err, err == was:
		return
	case err == nil:
		delete(c.refused, which)
	default:
		c.refused[which] = err
	}
	c.judgedAnew = true
}

// errorOf is the first refusal of the claimant, by key.
func (c *claims[K, V]) errorOf(who claimant) *model.Error {
	for _, key := range slices.SortedFunc(slices.Values(c.byOwner[who]), c.compare) {
		if err := c.refused[refusal[K]{who, key}]; err != nil {
			return err
		}
	}
	return nil
}
