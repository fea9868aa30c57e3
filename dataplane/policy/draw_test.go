// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"cmp"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
)

func cmpStrings(a, b string) int { return cmp.Compare(a, b) }

type numbered interface{ GetId() uint32 }

func keysOf[T numbered](list []T) (ids []uint32) {
	for _, v := range list {
		ids = append(ids, v.GetId())
	}
	slices.Sort(ids)
	return ids
}

// redraw draws which of the numbers are there, and lets draw make what has them; it gets what had the number before.
func redraw[T numbered](t *rapid.T, was []T, ids []uint32, draw func(id uint32, was T) T) (list []T) {
	for _, id := range ids {
		if rapid.IntRange(0, 3).Draw(t, "there") == 0 {
			continue
		}
		var old T
		if i := slices.IndexFunc(was, func(v T) bool { return v.GetId() == id }); i >= 0 {
			old = was[i]
		}
		list = append(list, draw(id, old))
	}
	return list
}

// refersTo says whether a policy names a set that is not there any more.
func refersTo(p *api.Policy, _, s *api.Snapshot) bool {
	there := keysOf(s.PeerSets)
	for _, r := range p.Rules {
		for _, id := range r.Peers {
			if !slices.Contains(there, id) {
				return true
			}
		}
	}
	return false
}

// genPrefixes leads some addresses to identities: most of them to one of their own.
func genPrefixes(t *rapid.T, s *api.Snapshot, ids []uint32) {
	s.IdentityPrefixes = nil
	used := map[netip.Prefix]bool{}
	for range rapid.IntRange(0, 24).Draw(t, "prefixes") {
		if p := genPrefix(t, 24); len(ids) > 0 && !used[p] {
			used[p] = true
			s.IdentityPrefixes = append(s.IdentityPrefixes, &api.IdentityPrefix{Prefix: wire(p), Identity: pick(t, ids...)})
		}
	}
}

func localOf(t *rapid.T, s *api.Snapshot) (local []identity.ID) {
	for _, i := range s.Identities {
		if rapid.IntRange(0, 3).Draw(t, "local") > 0 {
			local = append(local, identity.ID(i.Id))
		}
	}
	return local
}
