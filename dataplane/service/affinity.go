// SPDX-License-Identifier: Apache-2.0

package service

import (
	"sync"
	"sync/atomic"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// affinity remembers which backend a client's last flow went to: a table of fixed size that all workers share. A place
// has room for some clients; of more, the one is forgotten whose time is over first.
type affinity struct {
	places    []affinityPlace
	evictions atomic.Uint64 // of clients whose time was not over
}

const (
	affinityPlaces = 1 << 13
	affinityWays   = 8 // 65,536 clients, 2.2 MB
)

type affinityPlace struct {
	mu   sync.Mutex
	ways [affinityWays]affinityEntry
}

type affinityEntry struct {
	key    affinityKey
	number uint32 // the backend's; 0: none
	until  int64  // monotonic nanoseconds
}

type affinityKey struct {
	client  packet.Addr
	service uint32
}

func newAffinity() *affinity { return &affinity{places: make([]affinityPlace, affinityPlaces)} }

func (a *affinity) place(k affinityKey) *affinityPlace {
	h := mix(hashAddr(k.client) ^ uint64(k.service) ^ hashSeed)
	return &a.places[h%affinityPlaces]
}

// get returns the number of the client's backend, 0 for none.
func (a *affinity) get(k affinityKey, now int64) uint32 {
	p := a.place(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.ways {
		if e := &p.ways[i]; e.key == k && e.until > now {
			return e.number
		}
	}
	return 0
}

// put remembers a client's backend.
func (a *affinity) put(k affinityKey, number uint32, now, until int64) {
	p := a.place(k)
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := &p.ways[0]
	for i := range p.ways {
		e := &p.ways[i]
		if e.number != 0 && e.key == k {
			e.number, e.until = number, until
			return
		}
		if e.until < oldest.until {
			oldest = e
		}
	}
	if oldest.until > now {
		a.evictions.Add(1)
	}
	*oldest = affinityEntry{k, number, until}
}

// size counts the clients whose time is not over.
func (a *affinity) size(now int64) (n int) {
	for i := range a.places {
		p := &a.places[i]
		p.mu.Lock()
		for j := range p.ways {
			if p.ways[j].until > now {
				n++
			}
		}
		p.mu.Unlock()
	}
	return n
}
