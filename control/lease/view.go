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
	pools   []Usage // nothing leased
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

func (v *view) usage() []Usage {
	v.mu.RLock()
	defer v.mu.RUnlock()
	usage := slices.Clone(v.pools)
	retired := map[netip.Prefix]uint64{}
	for _, e := range v.entries {
		for i, pool := range e.pools {
			in := func(u Usage) bool { return u.Prefix.Contains(e.Addresses[i]) }
			if at := slices.IndexFunc(v.pools, in); at >= 0 {
				usage[at].Leased++
			} else {
				retired[pool]++
			}
		}
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(retired), comparePrefixes) {
		usage = append(usage, Usage{Prefix: prefix, Leased: retired[prefix], Retired: true})
	}
	return usage
}
