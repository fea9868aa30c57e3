// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
)

// snapshot draws a small one, from few keys, so that two drawn ones have much in common.
func snapshot(t *rapid.T, epoch uint64) *api.Snapshot {
	ids := func(label string) []uint32 {
		list := rapid.SliceOfNDistinct(rapid.Uint32Range(1, 8), 0, 8, rapid.ID).Draw(t, label)
		slices.Sort(list)
		return list
	}
	value := rapid.Uint32Range(1, 3)
	s := &api.Snapshot{Epoch: epoch, Origins: []string{""}, Node: &api.NodeSettings{Mtu: value.Draw(t, "mtu")}}
	for _, id := range ids("origins") {
		for len(s.Origins) <= int(id) {
			s.Origins = append(s.Origins, "")
		}
		s.Origins[id] = fmt.Sprint("object ", value.Draw(t, "origin"))
	}
	for _, id := range ids("ports") {
		s.Ports = append(s.Ports, &api.Port{Id: id, Mtu: value.Draw(t, "port")})
	}
	for _, id := range ids("groups") {
		s.Groups = append(s.Groups, &api.NextHopGroup{Id: id, Origin: value.Draw(t, "group")})
	}
	for _, id := range ids("routes") {
		s.Routes = append(s.Routes, &api.Route{Prefix: []byte{10, byte(id), 0, 0}, Bits: 16, Group: value.Draw(t, "v4")})
	}
	for _, id := range ids("routes6") {
		s.Routes = append(s.Routes, &api.Route{
			Prefix: append(make([]byte, 15), byte(id)), Bits: 128, Group: value.Draw(t, "v6")})
	}
	for _, id := range ids("neighbors") {
		s.Neighbors = append(s.Neighbors, &api.Neighbor{
			Port: id, Address: []byte{10, 0, 0, byte(id)}, Origin: value.Draw(t, "n")})
	}
	for _, id := range ids("host routes") {
		s.HostRoutes = append(s.HostRoutes, &api.HostRoute{
			Prefix: &api.Prefix{Address: []byte{10, byte(id), 0, 0}, Bits: 16}, Origin: value.Draw(t, "host route")})
	}
	for _, id := range ids("identities") {
		s.Identities = append(s.Identities, &api.Identity{Id: id, Namespace: fmt.Sprint(value.Draw(t, "namespace"))})
	}
	for _, id := range ids("prefixes") {
		s.IdentityPrefixes = append(s.IdentityPrefixes, &api.IdentityPrefix{
			Prefix: &api.Prefix{Address: []byte{10, byte(id), 0, 0}, Bits: 16}, Identity: value.Draw(t, "identity")})
	}
	for _, id := range ids("policies") {
		s.Policies = append(s.Policies, &api.Policy{Name: fmt.Sprint("p", id), Origin: value.Draw(t, "policy")})
	}
	for _, id := range ids("peer sets") {
		s.PeerSets = append(s.PeerSets, &api.PeerSet{Id: id, Identities: ids("members"), Domains: []string{
			fmt.Sprint(value.Draw(t, "domain"))}})
	}
	for _, id := range ids("services") {
		s.Services = append(s.Services, &api.Service{Id: id, AffinitySeconds: value.Draw(t, "service")})
	}
	for _, id := range ids("egress") {
		s.Egress = append(s.Egress, &api.Egress{Namespace: fmt.Sprint("n", id), Origin: value.Draw(t, "egress")})
	}
	for _, id := range ids("tunnels") {
		s.Tunnels = append(s.Tunnels, &api.Tunnel{Port: id, Network: value.Draw(t, "tunnel")})
	}
	for _, id := range ids("mirrors") {
		s.Mirrors = append(s.Mirrors, &api.Mirror{Name: fmt.Sprint("m", id), Rate: value.Draw(t, "mirror")})
	}
	for _, id := range ids("limits") {
		s.Limits = append(s.Limits, &api.Limit{Port: id, Origin: value.Draw(t, "limit")})
	}
	return s
}

// TestDifferenceUndone: what Difference finds, Apply puts back, over the wire, and neither touches its input.
func TestDifferenceUndone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := snapshot(t, 1), snapshot(t, 2)
		before := proto.Clone(from)
		wire, err := proto.Marshal(api.Difference(from, to))
		if err != nil {
			t.Fatal(err)
		}
		d := &api.Delta{}
		if err := proto.Unmarshal(wire, d); err != nil {
			t.Fatal(err)
		}
		got, err := d.Apply(from)
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, to) {
			t.Fatalf("got %v\nwant %v\ndelta %v", got, to, d)
		}
		if !proto.Equal(from, before) {
			t.Fatal("the base was changed")
		}
	})
}

func TestGap(t *testing.T) {
	base := &api.Snapshot{Epoch: 3}
	var gap *api.GapError
	if _, err := (&api.Delta{Base: 2}).Apply(base); !errors.As(err, &gap) || gap.Base != 2 || gap.Have != 3 {
		t.Fatalf("error %v", err)
	}
	if _, err := (&api.Delta{Base: 3, RemovedPorts: []uint32{1}}).Apply(base); err == nil {
		t.Fatal("removed a port that is not there")
	}
	if _, err := (&api.Delta{Base: 3, Origins: map[uint32]string{1 << 30: "x"}}).Apply(base); err == nil {
		t.Fatal("an origin of any index was taken")
	}
}

func TestEmpty(t *testing.T) {
	s := &api.Snapshot{Epoch: 1, Ports: []*api.Port{{Id: 1}}}
	next := proto.CloneOf(s)
	next.Epoch = 2
	if d := api.Difference(s, next); !d.Empty() {
		t.Fatalf("not empty: %v", d)
	}
	next.Ports[0].Mtu = 1500
	if d := api.Difference(s, next); d.Empty() {
		t.Fatal("empty")
	}
}

// BenchmarkApply puts one identity prefix among 10,000 beside 20,000 routes.
func BenchmarkApply(b *testing.B) {
	base := &api.Snapshot{Epoch: 1}
	for i := range 20_000 {
		base.Routes = append(base.Routes, &api.Route{Prefix: []byte{20, byte(i >> 8), byte(i), 0}, Bits: 24, Group: 1})
	}
	for i := range 10_000 {
		base.IdentityPrefixes = append(base.IdentityPrefixes, &api.IdentityPrefix{
			Prefix: &api.Prefix{Address: []byte{10, byte(i >> 8), byte(i), 1}, Bits: 32}, Identity: 1})
	}
	d := &api.Delta{Base: 1, Set: &api.Snapshot{Epoch: 2, IdentityPrefixes: []*api.IdentityPrefix{
		{Prefix: &api.Prefix{Address: []byte{10, 9, 9, 1}, Bits: 32}, Identity: 2}}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Apply(base); err != nil {
			b.Fatal(err)
		}
	}
}
