// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// view is what is on disk, for those who read.
type view struct {
	mu      sync.RWMutex
	entries map[Key]*entry
	pools   []size
}

// follow takes over what changed in the book, or the whole.
func (v *view) follow(b *book, whole bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pools = b.sizes
	if whole {
		v.entries = maps.Clone(b.entries)
		return
	}
	for _, key := range b.touched {
		if e := b.entries[key]; e != nil {
			v.entries[key] = e
		} else {
			delete(v.entries, key)
		}
	}
}

func (v *view) get(key Key) (Attachment, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	e := v.entries[key]
	if e == nil {
		return Attachment{}, false
	}
	return e.clone(), true
}

func (v *view) len() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.entries)
}

func (v *view) all() []*entry {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.SortedFunc(maps.Values(v.entries), func(a, b *entry) int { return strings.Compare(a.Port, b.Port) })
}

func attachments(entries []*entry) []Attachment {
	all := make([]Attachment, len(entries))
	for i, e := range entries {
		all[i] = e.clone()
	}
	return all
}

// owner is the index of the pool that an address is one of the size of; -1: none.
func (v *view) owner(address netip.Addr) int {
	at := slices.IndexFunc(v.pools, func(s size) bool { return s.Prefix.Contains(address) })
	if at < 0 {
		return -1
	}
	if _, blocked := v.pools[at].blocked.at(address); blocked {
		return -1
	}
	return at
}

func (v *view) usage() []Usage {
	v.mu.RLock()
	defer v.mu.RUnlock()
	usage := make([]Usage, 0, len(v.pools))
	for _, pool := range v.pools {
		usage = append(usage, pool.Usage)
	}
	retired := map[netip.Prefix]uint64{}
	for _, e := range v.entries {
		for i, address := range e.Addresses {
			if at := v.owner(address); at >= 0 {
				usage[at].Leased++ // a delegated one takes its place, too
			} else if i < len(e.pools) {
				retired[e.pools[i]]++
			}
		}
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(retired), comparePrefixes) {
		usage = append(usage, Usage{Prefix: prefix, Leased: retired[prefix], Retired: true})
	}
	return usage
}
