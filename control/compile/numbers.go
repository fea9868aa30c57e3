// SPDX-License-Identifier: Apache-2.0

package compile

import "slices"

// pool gives out numbers from 1, small ones first. What was released by the compilation of an epoch is given out again
// only when the dataplane has taken that epoch or a later one: it may miss epochs, and from no snapshot that it has to
// the next shall one thing become another. The zero value has given out none.
type pool struct {
	last     uint32   // the greatest that was ever given out
	free     []uint32 // below last, ordered
	released []uint32 // since the last rest
	waiting  []waiting
}

// waiting is a number that is free once the epoch is acked.
type waiting struct {
	number uint32
	epoch  uint64
}

// maxGaps bounds what a snapshot with strange numbers makes of a pool.
const maxGaps = 1 << 16

// taken returns a pool that has given out the numbers, which may be in any order.
func taken(numbers []uint32) pool {
	slices.Sort(numbers)
	var p pool
	for _, number := range numbers {
		for gap := p.last + 1; gap < number && len(p.free) < maxGaps; gap++ {
			p.free = append(p.free, gap)
		}
		p.last = max(p.last, number)
	}
	return p
}

func (p *pool) take() uint32 {
	if len(p.free) == 0 {
		p.last++
		return p.last
	}
	number := p.free[0]
	p.free = p.free[1:]
	return number
}

func (p *pool) release(number uint32) { p.released = append(p.released, number) }

// rest says that the compilation of the epoch, which is none below an earlier one, has released what it releases.
func (p *pool) rest(epoch uint64) {
	for _, number := range p.released {
		p.waiting = append(p.waiting, waiting{number, epoch})
	}
	p.released = p.released[:0]
}

// acked makes free what was released up to the epoch.
func (p *pool) acked(epoch uint64) {
	n := 0
	for n < len(p.waiting) && p.waiting[n].epoch <= epoch {
		p.free = append(p.free, p.waiting[n].number)
		n++
	}
	if n > 0 {
		p.waiting = slices.Clone(p.waiting[n:]) // it may have been long
		slices.Sort(p.free)
	}
}

// numbered are things that are equal when their contents are, each with a number for as long as something refers to
// it: groups of next hops, and identities.
type numbered[V any] struct {
	pool      pool
	byContent map[string]*thing[V]
	touched   []*thing[V] // since the last compilation; some of them twice
}

// thing is one of them.
type thing[V any] struct {
	content string
	value   V
	number  uint32 // 0: none yet
	said    bool   // the snapshot has it
	refs    int
}

// refer counts a reference to the thing with the content, which is made of value when there is none.
func (n *numbered[V]) refer(content string, value V) *thing[V] {
	t := n.byContent[content]
	if t == nil {
		t = &thing[V]{content: content, value: value}
		n.byContent[content] = t
	}
	t.refs++
	n.touched = append(n.touched, t)
	return t
}

// forget takes a reference back.
func (n *numbered[V]) forget(t *thing[V]) {
	t.refs--
	n.touched = append(n.touched, t)
}

// inherit gives to, which has no number, that of from, which nothing refers to any more.
func (n *numbered[V]) inherit(to, from *thing[V]) {
	if to.number == 0 && from.refs == 0 {
		to.number, from.number = from.number, 0
	}
}

// number returns the thing's number, and gives it one if it has none.
func (n *numbered[V]) number(t *thing[V]) uint32 {
	if t.number == 0 {
		t.number = n.pool.take()
	}
	return t.number
}

// resume makes a thing known under the number that it had.
func (n *numbered[V]) resume(content string, value V, number uint32) *thing[V] {
	if known := n.byContent[content]; known != nil {
		n.pool.release(number)
		return known
	}
	t := &thing[V]{content: content, value: value, number: number}
	n.byContent[content] = t
	n.touched = append(n.touched, t)
	return t
}

// settle calls set for each touched thing that is referred to, once or twice, and removed for the number of each that
// is no more and that the snapshot has.
func (n *numbered[V]) settle(set func(*thing[V]), removed func(number uint32)) {
	for _, t := range n.touched {
		switch {
		case t.refs > 0:
			set(t)
		case n.byContent[t.content] == t:
			delete(n.byContent, t.content)
			n.drop(t, removed)
		}
	}
	n.touched = nil
}

func (n *numbered[V]) drop(t *thing[V], removed func(number uint32)) {
	if t.number == 0 { // inherited
		return
	}
	n.pool.release(t.number)
	if t.said {
		removed(t.number)
	}
}
