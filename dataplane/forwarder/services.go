// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// enterServices has the backends follow the tables that came into force, and reports frontends that two services ask
// for.
func (f *Forwarder) enterServices(t *tables.Tables) {
	t.Services.Enter(t.Backends, f.clock())
	conflicts := t.Services.Conflicts()
	if len(conflicts) == 0 {
		delete(f.degraded, "services")
		return
	}
	first := slices.MinFunc(conflicts, func(a, b service.Conflict) int {
		return cmp.Or(strings.Compare(a.Loser.Name, b.Loser.Name), cmp.Compare(a.Port, b.Port))
	})
	f.degrade("services", fmt.Sprintf("%d frontends are another service's as well: %s is left out at %s, which %s has",
		len(conflicts), first.Loser.Name, place(&first), first.Winner.Name))
}

// place is where a conflict is: "192.0.2.1:80/tcp", "node port 30080/tcp".
func place(c *service.Conflict) string {
	port := fmt.Sprintf("%d/%s", c.Port, explain.Protocol(c.Proto))
	switch {
	case !c.Address.IsUnspecified():
		return c.Address.String() + " port " + port
	case c.Kind == controlapi.Frontend_KIND_HOST_PORT:
		return "host port " + port
	}
	return "node port " + port
}

// Services lists the services that the request asks for, by name and family.
func (f *Forwarder) Services(r *api.ServicesRequest) (iter.Seq[*api.Service], error) {
	var address packet.Addr
	if r.Address != "" {
		var err error
		if address, err = parseAddress(r.Address); err != nil {
			return nil, err
		}
	}
	t := f.tables.Load()
	var list []*service.Service
	for s := range t.Services.All() {
		if isOfService(s.Name, r.Name) && (r.Address == "" || hasAddress(s.Config(), address)) {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *service.Service) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(familyOf(a), familyOf(b)))
	})
	gone := t.Backends.Gone()
	return func(yield func(*api.Service) bool) {
		for _, s := range list {
			if !yield(describeService(t, s, gone[s.ID])) {
				return
			}
		}
	}, nil
}

// isOfService says whether a port of a service, "default/web:http", is the one that is asked for, or one of its
// service. All are where none is said.
func isOfService(port, name string) bool {
	return name == "" || port == name || strings.HasPrefix(port, name+":")
}

func familyOf(s *service.Service) int {
	if s.Config().Ipv6 {
		return 6
	}
	return 4
}

// hasAddress says whether an address is a frontend's or a backend's of the service.
func hasAddress(s *controlapi.Service, a packet.Addr) bool {
	octets := a.Netip().AsSlice()
	front := func(f *controlapi.Frontend) bool { return slices.Equal(f.Address, octets) }
	back := func(b *controlapi.Backend) bool { return slices.Equal(b.Address, octets) }
	return slices.ContainsFunc(s.Frontends, front) || slices.ContainsFunc(s.Backends, back)
}

func describeService(t *tables.Tables, s *service.Service, gone []service.Backend) *api.Service {
	cfg, totals := s.Config(), t.Backends.TotalsOf(s)
	d := &api.Service{
		Name: s.Name, Ipv6: cfg.Ipv6, Protocol: explain.Protocol(packet.IPProto(cfg.Protocol)),
		Algorithm: inWords(cfg.Algorithm.String(), "ALGORITHM_"), AffinitySeconds: cfg.AffinitySeconds,
		Origin: origin(t, cfg.Origin), Opened: totals.Opened, Refused: totals.Refused + totals.NoLocal,
	}
	for _, f := range cfg.Frontends {
		d.Frontends = append(d.Frontends, describeFrontend(f))
	}
	for _, b := range append(s.Backends(), gone...) {
		d.Backends = append(d.Backends, &api.Backend{
			Address: text(b.Config.Address), Port: b.Config.Port, Weight: b.Config.Weight, State: stateOf(&b),
			Active: b.Active, Opened: b.Opened, Failed: b.Failed, Ejections: b.Ejections, HandshakeNanoseconds: b.Handshake,
		})
	}
	return d
}

func describeFrontend(f *controlapi.Frontend) *api.Frontend {
	d := &api.Frontend{
		Kind: inWords(f.Kind.String(), "KIND_"), Address: text(f.Address), Port: f.Port, TrafficPolicy: "cluster",
	}
	if f.LocalOnly {
		d.TrafficPolicy = "local"
	}
	for _, p := range prefixes(f.Sources) {
		d.Sources = append(d.Sources, p.String())
	}
	return d
}

func stateOf(b *service.Backend) string {
	switch {
	case !b.Config.Cluster && !b.Config.Local:
		return "draining"
	case b.Ejected:
		return "ejected"
	case !b.Config.Cluster:
		return "local"
	case !b.Config.Local:
		return "far"
	}
	return "ready"
}

// inWords makes "round-robin" of "ALGORITHM_ROUND_ROBIN".
func inWords(name, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, prefix)), "_", "-")
}

// text is an address of the snapshot as people write it, empty for none.
func text(address []byte) string {
	a, ok := netip.AddrFromSlice(address)
	if !ok {
		return ""
	}
	return a.String()
}
