// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// index finds frontends by their keys: a hash table of small buckets, which lie in pages. It is immutable: the next one
// shares the pages in which nothing has changed.
type index struct {
	pages     []*page
	mask      uint64 // of buckets, less one
	size      int    // entries
	contested int    // frontends that another service's of the same key goes before
	addresses filter // of keys that are clusterAddress
}

const pageBuckets = 64

type page [pageBuckets][]entry

// entry is one key: the frontend that has it, and those that would.
type entry struct {
	key    key
	front  *frontend
	losers []*frontend // in order of their services' names; of a cluster address, the others that have it
}

// Keys of the hash, so that no names of services can be made that all meet in one bucket.
var hashSeed, hashSeed2 = rand.Uint64(), rand.Uint64() | 1

// hash multiplies twice: after one fold addresses that follow each other may still go in step.
func (k key) hash() uint64 {
	low := k.addr.Lo ^ uint64(k.port)<<40 ^ uint64(k.proto)<<56
	hi, lo := bits.Mul64(low^hashSeed, bits.RotateLeft64(k.addr.Hi, 17)+hashSeed2+uint64(k.place)<<1)
	hi, lo = bits.Mul64(hi^hashSeed2, lo^hashSeed)
	return hi ^ lo
}

func (x *index) get(k key) *frontend {
	if x.size == 0 {
		return nil
	}
	at := k.hash() & x.mask
	bucket := x.pages[at/pageBuckets][at%pageBuckets]
	for i := range bucket {
		if e := &bucket[i]; e.key == k {
			return e.front
		}
	}
	return nil
}

// alone says whether an address is services' alone.
func (x *index) alone(a packet.Addr) bool {
	k := key{addr: a, place: clusterAddress}
	return x.addresses.may(k.hash()) && x.get(k) != nil
}

// indexEditor makes the next index. One goroutine uses it.
type indexEditor struct {
	index
	own       map[uint64]bool // pages that are no other index's; nil: all are
	ownFilter bool
}

// edit returns an editor that begins with what is in the index, with room for about so many entries more.
func (x *index) edit(more int) *indexEditor {
	e := &indexEditor{index: *x, own: map[uint64]bool{}}
	e.pages = slices.Clone(x.pages)
	// A bucket of eight costs less than to move everything does, unless much comes.
	const crowded = 8
	if want := x.size + more; len(x.pages) == 0 || want > crowded*pageBuckets*len(x.pages) || want > 2*x.size {
		e.grow(want)
	}
	e.filterFor(more)
	return e
}

// grow spreads the entries over as many buckets as there are to be entries, or more.
func (e *indexEditor) grow(entries int) {
	pages := 1 << bits.Len(uint(max(entries-1, 0)/pageBuckets))
	if pages <= len(e.pages) {
		return
	}
	was := e.pages
	e.pages, e.own, e.mask = make([]*page, pages), nil, uint64(pages*pageBuckets-1)
	for i := range e.pages {
		e.pages[i] = new(page)
	}
	for _, p := range was {
		for _, bucket := range p {
			for _, entry := range bucket {
				at := entry.key.hash() & e.mask
				to := &e.pages[at/pageBuckets][at%pageBuckets]
				*to = append(*to, entry)
			}
		}
	}
}

// bucket returns the bucket of a key, on a page that may be changed. The entries in it may not: see replace.
func (e *indexEditor) bucket(k key) *[]entry {
	at := k.hash() & e.mask
	n := at / pageBuckets
	if e.own != nil && !e.own[n] {
		p := *e.pages[n]
		e.pages[n], e.own[n] = &p, true
	}
	return &e.pages[n][at%pageBuckets]
}

// set enters a frontend. Of several with the same key the one has it whose service's name comes first.
func (e *indexEditor) set(k key, f *frontend) { e.change(k, f.service, f) }

// unset takes the frontend of a service out.
func (e *indexEditor) unset(k key, s *Service) { e.change(k, s, nil) }

// change takes what a service has at a key out, and puts f in its place unless it is nil.
func (e *indexEditor) change(k key, s *Service, f *frontend) {
	b := e.bucket(k)
	at := slices.IndexFunc(*b, func(o entry) bool { return o.key == k })
	var claims []*frontend
	if at >= 0 {
		claims = append([]*frontend{(*b)[at].front}, (*b)[at].losers...)
	}
	before := len(claims)
	claims = slices.DeleteFunc(claims, func(o *frontend) bool { return o.service.ID == s.ID })
	if f != nil {
		claims = append(claims, f)
		slices.SortFunc(claims, compareClaims)
	}
	if k.place != clusterAddress {
		e.contested += max(len(claims)-1, 0) - max(before-1, 0)
	}
	next := make([]entry, 0, len(*b)+1)
	for i := range *b {
		if i != at {
			next = append(next, (*b)[i])
		}
	}
	if at >= 0 {
		e.size--
	}
	if len(claims) > 0 {
		next = append(next, entry{k, claims[0], slices.Clip(claims[1:])})
		e.size++
		if k.place == clusterAddress {
			e.admit(k)
		}
	}
	if *b = nil; len(next) > 0 {
		*b = next
	}
}

func compareClaims(a, b *frontend) int {
	return cmp.Or(strings.Compare(a.service.Name, b.service.Name), cmp.Compare(a.service.ID, b.service.ID))
}
