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
	wanted := t.Identities.All()
	if r.Address != "" {
		address, err := netip.ParseAddr(r.Address)
		if err != nil {
			return nil, 0, fmt.Errorf("address %q: %w", r.Address, err)
		}
		wanted = only(t.Identities.Get(t.Identities.Of(packet.AddrFrom(address.Unmap()))))
	}
	return func(yield func(*api.Identity) bool) {
		prefixes := make(map[identity.ID][]*api.IdentityPrefix)
		for i := range wanted {
			prefixes[identity.ID(i.Id)] = nil
		}
		for p := range t.Identities.Prefixes() {
			if of, asked := prefixes[p.Identity]; asked {
				prefixes[p.Identity] = append(of,
					&api.IdentityPrefix{Prefix: p.Prefix.String(), Origin: origin(t, p.Origin)})
			}
		}
		for i := range wanted {
			if r.Namespace != "" && i.Namespace != r.Namespace {
				continue
			}
			if !yield(describeIdentity(i, prefixes[identity.ID(i.Id)])) {
				return
			}
		}
	}, t.Epoch, nil
}

// only is a list of one, or of none where that is nil.
func only(i *controlapi.Identity) iter.Seq[*controlapi.Identity] {
	return func(yield func(*controlapi.Identity) bool) {
		if i != nil {
			yield(i)
		}
	}
}

func describeIdentity(i *controlapi.Identity, prefixes []*api.IdentityPrefix) *api.Identity {
	return &api.Identity{
		Id: i.Id, Kind: strings.ToLower(strings.TrimPrefix(i.Kind.String(), "KIND_")), Namespace: i.Namespace,
		Labels: i.Labels, NamespaceLabels: i.NamespaceLabels, Prefixes: prefixes,
	}
}
