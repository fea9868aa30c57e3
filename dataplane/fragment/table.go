// SPDX-License-Identifier: Apache-2.0

package fragment

import (
	"hash/maphash"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// The bounds of a worker's table. A port's part is one in shareOf, so that no pod can push the others' out on its own.
const (
	maxDatagrams = 4096
	maxHeld      = 512 // fragments that wait
	shareOf      = 8
	sharePorts   = 1024 // shares, taken by remainder
)

// limits are the bounds as a table has them.
type limits struct{ datagrams, datagramsPort, held, heldPort int }

var defaults = limits{maxDatagrams, maxDatagrams / shareOf, maxHeld, maxHeld / shareOf}

// Table is what a worker knows of datagrams in fragments. Its zero value is ready; the memory, which never grows, is
// taken when the first fragment comes. It is not safe for concurrent use.
type Table struct {
	now       int64 // nanoseconds, monotonic
	due       queue
	waiting   list // by age: those whose first has not come
	settled   list // by age: the others
	limits    limits
	seed      maphash.Seed
	datagrams []datagram // by Datagram
	buckets   []Datagram // by hash, a power of two of them
	unused    Datagram   // the first of those that are free, chained
	opened    Datagram   // how many were ever in use
	inUse     int
	shares    []share

	waits        []wait // by Ticket
	spare        Ticket // the first of those that are free, chained
	issued       Ticket // how many were ever in use
	held, frames int    // that wait or are due

	translated Addresses // see Translated
}

// Datagram numbers a datagram in its table; 0 is none.
type Datagram uint16

type datagram struct {
	key    key
	since  int64 // when it came to its list, monotonic nanoseconds
	links  [2]links
	chain  Datagram // the next of its bucket, or of those that are free
	waits  queue
	state  state
	reason verdict.Reason
	seen   seen

	translated Addresses
}

// share is what of the table is a port's.
type share struct {
	datagrams    list
	count        int
	held, frames int
}

func shareOfPort(in packet.PortID) uint16 { return uint16(in % sharePorts) }

// list is datagrams in the order in which they came to it.
type list struct{ oldest, newest Datagram }

// links are a datagram's neighbours in a list.
type links struct{ older, newer Datagram }

// The lists that a datagram is in.
const (
	byAge  = iota // of all datagrams that wait, or of all others
	byPort        // of its port
)

// make takes the table's memory.
func (t *Table) make() {
	if t.limits == (limits{}) {
		t.limits = defaults
	}
	t.seed = maphash.MakeSeed()
	t.datagrams = make([]datagram, t.limits.datagrams+1)
	t.buckets = make([]Datagram, 2*maxDatagrams)
	t.shares = make([]share, sharePorts)
	t.waits = make([]wait, t.limits.held+1)
}

// bucket is where the datagram's chain begins. The hash has a secret, or a sender could have all its datagrams there.
func (t *Table) bucket(k key) *Datagram {
	return &t.buckets[maphash.Comparable(t.seed, k)%uint64(len(t.buckets))]
}

func (t *Table) find(k key) Datagram {
	if t.datagrams == nil {
		return 0
	}
	n := *t.bucket(k)
	for n != 0 && t.datagrams[n].key != k {
		n = t.datagrams[n].chain
	}
	return n
}

// open begins a datagram. Where its port has its share, or all are in use, the oldest goes for it.
func (t *Table) open(k key) Datagram {
	if t.datagrams == nil {
		t.make()
	}
	s := &t.shares[shareOfPort(k.in)]
	switch {
	case s.count == t.limits.datagramsPort:
		t.pushOut(s.datagrams.oldest)
	case t.inUse == t.limits.datagrams:
		t.pushOut(t.oldest())
	}
	n := t.unused
	if n != 0 {
		t.unused = t.datagrams[n].chain
	} else {
		t.opened++
		n = t.opened
	}
	bucket := t.bucket(k)
	t.datagrams[n] = datagram{key: k, since: t.now, chain: *bucket}
	*bucket = n
	t.link(&t.waiting, byAge, n)
	t.link(&s.datagrams, byPort, n)
	s.count++
	t.inUse++
	return n
}

// oldest is the datagram that came to its list before all others.
func (t *Table) oldest() Datagram {
	a, b := t.waiting.oldest, t.settled.oldest
	if a == 0 || b != 0 && t.datagrams[b].since <= t.datagrams[a].since {
		return b
	}
	return a
}

// pushOut forgets a datagram for want of room. What waits for its first would wait in vain.
func (t *Table) pushOut(n Datagram) {
	t.settle(n, lost, verdict.FragmentQueueFull)
	t.remove(n)
}

// remove forgets a datagram that nothing waits for.
func (t *Table) remove(n Datagram) {
	d := &t.datagrams[n]
	at := t.bucket(d.key)
	for *at != n {
		at = &t.datagrams[*at].chain
	}
	*at = d.chain
	age := &t.settled
	if d.state == waiting {
		age = &t.waiting
	}
	s := &t.shares[shareOfPort(d.key.in)]
	t.unlink(age, byAge, n)
	t.unlink(&s.datagrams, byPort, n)
	s.count--
	t.inUse--
	d.chain, t.unused = t.unused, n
}

// link puts the datagram behind the newest of a list.
func (t *Table) link(l *list, which int, n Datagram) {
	t.datagrams[n].links[which] = links{older: l.newest}
	if l.newest == 0 {
		l.oldest = n
	} else {
		t.datagrams[l.newest].links[which].newer = n
	}
	l.newest = n
}

// unlink takes the datagram out of a list.
func (t *Table) unlink(l *list, which int, n Datagram) {
	at := t.datagrams[n].links[which]
	if at.older == 0 {
		l.oldest = at.newer
	} else {
		t.datagrams[at.older].links[which].newer = at.newer
	}
	if at.newer == 0 {
		l.newest = at.older
	} else {
		t.datagrams[at.newer].links[which].older = at.older
	}
}
