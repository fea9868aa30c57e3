// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// TestTopology: which endpoints may be chosen, on node n1 of zone a. An endpoint is written NODE STATE ZONES NODES, its
// state r (ready), t (terminating and serving), e (terminating and not serving), s (serving and not ready) or n (none);
// what becomes of it as c (cluster), l (local), d (draining) or - (absent).
func TestTopology(t *testing.T) {
	for _, row := range []struct{ name, endpoints, want string }{
		{"none", "", ""},
		{"ready", "n1 r, n2 r, n2 n", "cl c -"},
		{"not ready", "n1 s, n2 r", "d c"},
		{"terminating beside ready", "n1 t, n2 r", "l c"},
		{"terminating here beside ready here", "n1 t, n1 r, n2 t", "d cl d"},
		{"terminating alone", "n1 t, n2 t, n2 e", "cl c d"},
		{"ended alone", "n1 e, n2 n", "d -"},
		{"zones", "n1 r b, n2 r a, n3 r b", "l c d"},
		{"zones of several", "n1 r a+b, n2 r b", "cl d"},
		{"a zone is missing", "n1 r b, n2 r a, n3 r", "cl c c"},
		{"no endpoint for the zone", "n1 r b, n2 r b", "cl c"},
		{"hints of those not ready do not count", "n1 n, n2 r a, n3 r b", "- c d"},
		{"terminating whatever hints say", "n2 t b, n3 t b", "c c"},
		{"nodes", "n1 r - n1, n2 r - n2", "cl d"},
		{"nodes before zones", "n1 r b n1, n2 r a n2", "cl d"},
		{"zones where no endpoint is for the node", "n2 r b n2, n3 r a n3", "d c"},
		{"a node is missing", "n1 r - n1, n2 r", "cl c"},
	} {
		slice := &model.EndpointSlice{Service: "s", Ports: []model.EndpointPort{{Protocol: "TCP", Port: 80}}}
		for i, text := range strings.Split(row.endpoints, ", ") {
			if text == "" {
				continue
			}
			word := append(strings.Fields(text), "-", "-")
			e := model.Endpoint{Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Node: word[0], Ready: word[1] == "r",
				Serving: strings.Contains("rts", word[1]), Terminating: strings.Contains("te", word[1])}
			if word[2] != "-" {
				e.Zones = strings.Split(word[2], "+")
			}
			if word[3] != "-" {
				e.Nodes = []string{word[3]}
			}
			slice.Endpoints = append(slice.Endpoints, e)
		}
		if got := become(t, slice); got != row.want {
			t.Errorf("%s: %s: got %q, want %q", row.name, row.endpoints, got, row.want)
		}
	}
}

// become says what the endpoints of a slice are on node n1.
func become(t *testing.T, slice *model.EndpointSlice) string {
	t.Helper()
	snapshot, errs, err := compile.Once([]*model.Object{
		{Key: model.Key{Kind: "Node", Name: "n1"}, Labels: map[string]string{model.ZoneLabel: "a"}, Spec: &model.Node{}},
		{Key: model.Key{Kind: "Service", Namespace: "x", Name: "s"}, Spec: &model.Service{Fronted: true,
			Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
			Ports:     []model.ServicePort{{Protocol: "TCP", Port: 80}}}},
		{Key: model.Key{Kind: "EndpointSlice", Namespace: "x", Name: "s-1"}, Spec: slice},
	}, compile.Node{Name: "n1"})
	if err != nil || len(errs) > 0 || len(snapshot.Services) != 1 {
		t.Fatal(snapshot, errs, err)
	}
	var all []string
	for _, e := range slice.Endpoints {
		what := "-"
		for _, b := range snapshot.Services[0].Backends {
			if !slices.Equal(b.Address, e.Address.AsSlice()) {
				continue
			}
			if what = ""; b.Cluster {
				what += "c"
			}
			if b.Local {
				what += "l"
			}
			if what == "" {
				what = "d"
			}
		}
		all = append(all, what)
	}
	return strings.TrimSpace(fmt.Sprint(strings.Join(all, " ")))
}
