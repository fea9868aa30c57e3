// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"iter"
	"strings"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// Identities lists the identities that the request asks for.
func (f *Forwarder) Identities(r *api.IdentitiesRequest) (iter.Seq[*api.Identity], uint64, error) {
	t := f.tables.Load()
	if r.Address != "" {
		address, err := parseAddress(r.Address)
		if err != nil {
			return nil, 0, err
		}
		return identityOf(t, address, r.Namespace), t.Epoch, nil
	}
	return func(yield func(*api.Identity) bool) {
		prefixes := make(map[identity.ID][]identity.Prefix)
		for p := range t.Identities.Prefixes() {
			prefixes[p.Identity] = append(prefixes[p.Identity], p)
		}
		for i := range t.Identities.All() {
			if r.Namespace != "" && i.Namespace != r.Namespace {
				continue
			}
			if !yield(describeIdentity(t, i, prefixes[identity.ID(i.Id)])) {
				return
			}
		}
	}, t.Epoch, nil
}

// identityOf is the list of the one identity that an address has, if it is of the namespace.
func identityOf(t *tables.Tables, a packet.Addr, namespace string) iter.Seq[*api.Identity] {
	id := t.Identities.Of(a)
	i := t.Identities.Get(id)
	return func(yield func(*api.Identity) bool) {
		if i != nil && (namespace == "" || i.Namespace == namespace) {
			yield(describeIdentity(t, i, t.Identities.PrefixesOf(id)))
		}
	}
}

func describeIdentity(t *tables.Tables, i *controlapi.Identity, prefixes []identity.Prefix) *api.Identity {
	d := &api.Identity{
		Id: i.Id, Kind: strings.ToLower(strings.TrimPrefix(i.Kind.String(), "KIND_")), Namespace: i.Namespace,
		Labels: i.Labels, NamespaceLabels: i.NamespaceLabels,
	}
	for _, p := range prefixes {
		d.Prefixes = append(d.Prefixes, &api.IdentityPrefix{Prefix: p.Prefix.String(), Origin: origin(t, p.Origin)})
	}
	return d
}
