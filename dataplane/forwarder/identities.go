// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"iter"
	"net/netip"
	"strings"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Identities lists the identities that the request asks for.
func (f *Forwarder) Identities(r *api.IdentitiesRequest) (iter.Seq[*api.Identity], uint64, error) {
	t := f.tables.Load()
	wanted := func(i *controlapi.Identity) bool { return r.Namespace == "" || i.Namespace == r.Namespace }
	if r.Address != "" {
		address, err := netip.ParseAddr(r.Address)
		if err != nil {
			return nil, 0, fmt.Errorf("address %q: %w", r.Address, err)
		}
		id := t.Identities.Of(packet.AddrFrom(address.Unmap()))
		within := wanted
		wanted = func(i *controlapi.Identity) bool { return i.Id == uint32(id) && within(i) }
	}
	return func(yield func(*api.Identity) bool) {
		prefixes := make(map[identity.ID][]*api.IdentityPrefix)
		for p := range t.Identities.Prefixes() {
			prefixes[p.Identity] = append(prefixes[p.Identity],
				&api.IdentityPrefix{Prefix: p.Prefix.String(), Origin: origin(t, p.Origin)})
		}
		for i := range t.Identities.All() {
			if wanted(i) && !yield(describeIdentity(i, prefixes[identity.ID(i.Id)])) {
				return
			}
		}
	}, t.Epoch, nil
}

func describeIdentity(i *controlapi.Identity, prefixes []*api.IdentityPrefix) *api.Identity {
	return &api.Identity{
		Id: i.Id, Kind: strings.ToLower(strings.TrimPrefix(i.Kind.String(), "KIND_")), Namespace: i.Namespace,
		Labels: i.Labels, NamespaceLabels: i.NamespaceLabels, Prefixes: prefixes,
	}
}
