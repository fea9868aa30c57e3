// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Tables that follow deltas are those built from nothing, whatever the snapshots; a delta to a snapshot that is refused
// is refused, and changes nothing.
func TestUpdateEqualsBuild(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shared := neighbor.NewTable(neighbor.Config{})
		from := genState(t)
		from.Epoch = 1
		at, err := Build(nil, from, machine().links, shared)
		for err != nil { // begin with one that is valid
			from = lab()
			at, err = Build(nil, from, machine().links, shared)
		}
		for step := range rapid.IntRange(1, 6).Draw(t, "steps") {
			to := genState(t)
			to.Epoch = from.Epoch + 1
			delta := roundTrip(t, api.Difference(from, to))
			next, err := delta.Apply(from)
			if err != nil {
				t.Fatal(err)
			}
			if !Updatable(at, delta) {
				t.Fatalf("not updatable: %v", delta)
			}
			before := listing(at)
			updated, updateErr := Update(at, next, delta, machine().links)
			fresh, buildErr := Build(nil, to, machine().links, neighbor.NewTable(neighbor.Config{}))
			if (updateErr == nil) != (buildErr == nil) {
				t.Fatalf("step %d: update: %v, build: %v, delta %v", step, updateErr, buildErr, delta)
			}
			if got := listing(at); got != before {
				t.Fatalf("the tables before changed to\n%s\nfrom\n%s", got, before)
			}
			var invalid *InvalidError
			if updateErr != nil {
				if !errors.As(updateErr, &invalid) || invalid.Field == "" || invalid.Reason == "" {
					t.Fatalf("refused with %v", updateErr)
				}
				continue
			}
			if got, want := listing(updated), listing(fresh); got != want {
				t.Fatalf("step %d: updated:\n%s\nbuilt:\n%s\ndelta %v", step, got, want, delta)
			}
			relinked, err := Relink(updated, machine().links)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := listing(relinked), listing(fresh); got != want {
				t.Fatalf("relinked:\n%s\nbuilt:\n%s", got, want)
			}
			if from, at = next, updated; rapid.Bool().Draw(t, "relink") {
				at = relinked
			}
		}
	})
}

// roundTrip is the delta as the other end has it.
func roundTrip(t *rapid.T, d *api.Delta) *api.Delta {
	b, err := proto.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	other := new(api.Delta)
	if err := proto.Unmarshal(b, other); err != nil {
		t.Fatal(err)
	}
	return other
}

// listing is all that tables say of what deltas change: routes, lookups, groups with their routes, and identities.
func listing(t *Tables) string {
	var b strings.Builder
	origins := t.Origins
	for len(origins) > 0 && origins[len(origins)-1] == "" { // free: a delta leaves the list as long as it was
		origins = origins[:len(origins)-1]
	}
	fmt.Fprintln(&b, "epoch", t.Epoch, origins, t.FIB.Size())
	for r := range t.FIB.All() {
		fmt.Fprintln(&b, r.Prefix, r.Origin, hopsText(r.Group))
	}
	for id, g := range t.groups.All() {
		fmt.Fprintln(&b, "group", id, g.config.Origin, g.routes, hopsText(g.group))
	}
	for _, p := range t.Ports {
		if p.ID != 0 {
			fmt.Fprintln(
				&b,
				"port",
				p.ID,
				p.Name,
				p.Device,
				p.DeviceIndex,
				p.IfIndex,
				p.MAC,
				p.MTU,
				p.Up,
				p.Station,
				p.Trunk,
				p.Limit != nil,
				t.byName[p.Name],
				t.Demux(2, packet.VLANs{}, packet.TrunkMAC(p.ID)),
			)
		}
	}
	for i := range t.Identities.All() {
		fmt.Fprintln(&b, "identity", i.Id, i.Kind, i.Labels)
	}
	for p := range t.Identities.Prefixes() {
		fmt.Fprintln(&b, "prefix", p)
	}
	for s := range t.Services.All() {
		fmt.Fprintln(&b, "service", s.Name, s.Config().Origin, s.Config().Frontends, len(s.Backends()))
	}
	fmt.Fprintln(&b, "egress", t.egress, t.Tracking, t.node)
	for _, a := range interesting {
		text := "none"
		if g := t.FIB.Lookup(a); g != nil {
			text = hopsText(g)
		}
		id := t.Identities.Of(a)
		fmt.Fprintln(&b, "lookup", a, text, id, t.Identities.Get(id).GetLabels())
	}
	return b.String()
}

// interesting are the addresses around all that genState makes.
var interesting = func() (list []packet.Addr) {
	for _, net := range []string{"10.1.0.", "10.2.0.", "10.5.0.", "10.6.1.", "10.244.1."} {
		for _, host := range []int{0, 1, 2, 3, 7, 9, 254, 255} {
			list = append(list, addr(fmt.Sprint(net, host)))
		}
	}
	for _, a := range []string{"8.8.8.8", "fd00:1::1", "fd00:1::2", "fd00:2::2", "fd00:9::9", "fd00:10::1", "2001::1"} {
		list = append(list, addr(a))
	}
	return list
}()

// genState is the lab with random pods, groups, routes, identities and origins, not always valid. The other ports and
// the neighbours are always the same.
func genState(t *rapid.T) *api.Snapshot {
	s := lab()
	genOrigins(t, s)
	genPods(t, s)
	genGroups(t, s)
	genRoutes(t, s)
	genIdentities(t, s)
	genServices(t, s)
	return s
}

// seldom is true for one in 60 or so, to make what is not valid.
func seldom(t *rapid.T, label string) bool { return rapid.IntRange(0, 60).Draw(t, label) == 37 }

func genOrigins(t *rapid.T, s *api.Snapshot) {
	for i := range rapid.IntRange(0, 3).Draw(t, "origins") {
		s.Origins = append(s.Origins, fmt.Sprint("origin ", i, rapid.IntRange(0, 2).Draw(t, "line")))
	}
}

// genPods adds ports at the trunk, each at most once with its own name, and limits of some.
func genPods(t *rapid.T, s *api.Snapshot) {
	for id := uint32(7); id <= 9; id++ {
		if rapid.Bool().Draw(t, "pod there") {
			continue
		}
		p := pod(id)
		p.Name = fmt.Sprint("default/", rapid.SampledFrom([]uint32{id, id + 10}).Draw(t, "pod name"))
		if rapid.Bool().Draw(t, "second address") {
			p.Station.Addresses = append(p.Station.Addresses, bytesOf(fmt.Sprint("fd00:10::", id)))
		}
		if seldom(t, "no station") {
			p.Station = nil
		}
		s.Ports = append(s.Ports, p)
		if rapid.Bool().Draw(t, "limit") {
			s.Limits = append(
				s.Limits,
				&api.Limit{Port: id, ToPortBitsPerSecond: rapid.Uint64Range(990, 1e6).Draw(t, "rate")},
			)
		}
	}
}

// genServices adds services, and addresses that pods of a namespace go out with.
func genServices(t *rapid.T, s *api.Snapshot) {
	for id := range rapid.Uint32Range(0, 3).Draw(t, "services") {
		cfg := &api.Service{
			Id: id + 1, Name: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "service name"), Protocol: 6, Algorithm: 1,
			Frontends: []*api.Frontend{
				{Kind: 1, Address: bytesOf("10.96.0.1"), Port: rapid.Uint32Range(80, 82).Draw(t, "service port")},
			},
			Origin: rapid.Uint32Range(0, 3).Draw(t, "service origin"),
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "backends") {
			at := bytesOf(fmt.Sprint("10.244.1.", i+1))
			cfg.Backends = append(cfg.Backends, &api.Backend{Address: at, Port: 8080, Weight: 1})
		}
		if seldom(t, "no algorithm") {
			cfg.Algorithm = 0
		}
		s.Services = append(s.Services, cfg)
	}
	if rapid.Bool().Draw(t, "egress") {
		a := rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2"}).Draw(t, "egress address")
		s.Egress = []*api.Egress{{Namespace: "default", Addresses: [][]byte{bytesOf(a)}}}
		if seldom(t, "no egress address") {
			s.Egress[0].Addresses = nil
		}
	}
}

func genGroups(t *rapid.T, s *api.Snapshot) {
	s.Groups = nil
	vias := map[uint32][]string{1: {"", "10.1.0.2", "10.1.0.3", "fd00:1::2"}, 2: {"", "10.2.0.2", "fe80::2"}}
	for _, p := range s.Ports {
		if p.Attach == api.Port_ATTACH_TRUNK {
			vias[p.Id] = []string{""}
		}
	}
	if seldom(t, "no such port") {
		vias[8] = []string{""}
	}
	for id := uint32(1); id <= 6; id++ {
		if rapid.IntRange(0, 4).Draw(t, "group there") == 0 {
			continue
		}
		g := &api.NextHopGroup{Id: id, Origin: rapid.Uint32Range(0, 3).Draw(t, "group origin")}
		if rapid.Bool().Draw(t, "forward") {
			for port, list := range vias {
				for _, via := range rapid.SliceOfNDistinct(rapid.SampledFrom(list), 0, 3, rapid.ID).Draw(t, "vias") {
					hop := &api.NextHop{Port: port, Weight: rapid.Uint32Range(0, 3).Draw(t, "weight")}
					if via != "" {
						hop.Via = bytesOf(via)
					}
					g.Hops = append(g.Hops, hop)
				}
			}
			slices.SortFunc(g.Hops, func(a, b *api.NextHop) int { return int(a.Port) - int(b.Port) })
		}
		if len(g.Hops) == 0 {
			g.Kind = api.NextHopGroup_KIND_BLACKHOLE
		}
		if seldom(t, "kind") {
			g.Kind = 9
		}
		s.Groups = append(s.Groups, g)
	}
}

func genRoutes(t *rapid.T, s *api.Snapshot) {
	s.Routes = nil
	candidates := []string{ // around the ports' own addresses, which hide and are hidden
		"0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.1.0.0/25", "10.1.0.0/32", "10.1.0.1/32", "10.1.0.2/32",
		"10.1.0.255/32", "10.2.0.0/23", "10.2.0.0/24", "10.2.0.1/32", "10.2.0.255/32", "10.5.0.0/31", "10.5.0.0/32",
		"10.5.0.1/32", "10.6.1.0/24", "10.6.1.0/26", "::/0", "fd00::/16", "fd00:1::/64", "fd00:1::1/128", "fd00:1::2/128",
		"fd00:2::/32", "fd00:9::/48",
	}
	for _, p := range candidates {
		if rapid.IntRange(0, 2).Draw(t, "route there") == 0 {
			continue
		}
		id := rapid.Uint32Range(1, 6).Draw(t, "to")
		if there := slices.ContainsFunc(s.Groups, func(g *api.NextHopGroup) bool { return g.Id == id }); !there &&
			!seldom(t, "to no group") {
			continue
		}
		r := routeTo(p, id)
		r.Origin = rapid.Uint32Range(0, 3).Draw(t, "route origin")
		s.Routes = append(s.Routes, r)
	}
	if seldom(t, "multicast") {
		s.Routes = append(s.Routes, routeTo("ff02::/16", 1))
	}
	slices.SortFunc(s.Routes, compareRoutes)
}

func genIdentities(t *rapid.T, s *api.Snapshot) {
	s.Identities, s.IdentityPrefixes = nil, nil
	some := rapid.SampledFrom([]uint32{1, 2, 63, 64, 65, 1000, 1 << 31})
	ids := rapid.SliceOfNDistinct(some, 0, 6, rapid.ID).Draw(t, "ids")
	slices.Sort(ids)
	for _, id := range ids {
		i := &api.Identity{Id: id, Kind: rapid.SampledFrom([]api.Identity_Kind{1, 2}).Draw(t, "identity kind"),
			Labels: []string{fmt.Sprint("v=", rapid.IntRange(0, 2).Draw(t, "label"))}}
		if seldom(t, "no kind") {
			i.Kind = 0
		}
		s.Identities = append(s.Identities, i)
	}
	for _, p := range []string{"10.244.0.0/16", "10.244.1.0/24", "10.244.1.7/32", "10.244.1.9/32", "10.1.0.2/32",
		"fd00:10::/64", "fd00:10::1/128"} {
		if len(ids) == 0 || rapid.Bool().Draw(t, "prefix there") {
			continue
		}
		cfg := &api.IdentityPrefix{Prefix: prefix(p), Identity: rapid.SampledFrom(ids).Draw(t, "who"),
			Origin: rapid.Uint32Range(0, 3).Draw(t, "prefix origin")}
		if seldom(t, "who is not there") {
			cfg.Identity = 7
		}
		s.IdentityPrefixes = append(s.IdentityPrefixes, cfg)
	}
	slices.SortFunc(s.IdentityPrefixes, compareIdentityPrefixes)
}

// What a delta does not touch is not made anew, and what it sets takes over the flows.
func TestUpdateKeepsGroups(t *testing.T) {
	n := neighbor.NewTable(neighbor.Config{})
	from := lab()
	first := mustBuild(t, nil, from, machine(), n)
	to := lab()
	to.Epoch++
	to.Groups[0].Hops = append(to.Groups[0].Hops, &api.NextHop{Port: 2, Via: bytesOf("10.2.0.3"), Weight: 1})
	second := mustUpdate(t, first, from, to)
	if first.FIB.Lookup(addr("10.3.0.1")) != second.FIB.Lookup(addr("10.3.0.1")) {
		t.Error("an unchanged group was made anew")
	}
	was, is := first.FIB.Lookup(addr("8.8.8.8")), second.FIB.Lookup(addr("8.8.8.8"))
	if was == is || len(is.Hops()) != 3 {
		t.Fatal("the changed group is the same")
	}
	for hash := range uint32(10000) {
		if hop := is.Select(hash); hop.Via != was.Select(hash).Via && hop.Via != addr("10.2.0.3") {
			t.Fatal("a flow moved between hops that both stayed")
		}
	}
	to.Epoch++
	if third := mustUpdate(t, second, &api.Snapshot{Epoch: to.Epoch - 1}, &api.Snapshot{Epoch: to.Epoch}); third.FIB !=
		second.FIB || third.Identities != second.Identities {
		t.Error("an empty delta made tables anew")
	}
}

func mustUpdate(t *testing.T, prev *Tables, from, to *api.Snapshot) *Tables {
	t.Helper()
	updated, err := Update(prev, to, api.Difference(from, to), machine().links)
	if err != nil {
		t.Fatal(err)
	}
	return updated
}

func TestUpdatable(t *testing.T) {
	from := lab()
	at := mustBuild(t, nil, from, machine(), neighbor.NewTable(neighbor.Config{}))
	for name, row := range map[string]struct {
		want   bool
		change func(s *api.Snapshot)
	}{
		"nothing":  {true, func(*api.Snapshot) {}},
		"routes":   {true, func(s *api.Snapshot) { s.Routes = s.Routes[1:] }},
		"identity": {true, func(s *api.Snapshot) { s.IdentityPrefixes = nil }},
		"port":     {false, func(s *api.Snapshot) { s.Ports = s.Ports[:3] }},
		"pod":      {true, func(s *api.Snapshot) { s.Ports = append(s.Ports, pod(7)) }},
		"host": {false, func(s *api.Snapshot) {
			p := pod(7)
			p.Attach = api.Port_ATTACH_HOST
			s.Ports = append(s.Ports, p)
		}},
		"limit":    {true, func(s *api.Snapshot) { s.Limits = []*api.Limit{{Port: 1, ToPortBitsPerSecond: 1e6}} }},
		"mtu":      {false, func(s *api.Snapshot) { s.Ports[0].Mtu = 1400 }},
		"neighbor": {false, func(s *api.Snapshot) { s.Neighbors = nil }},
		"node":     {false, func(s *api.Snapshot) { s.Node.Workers = 3 }},
		"many routes": {false, func(s *api.Snapshot) {
			for i := range 2000 {
				s.Routes = append(s.Routes, routeTo(fmt.Sprintf("fd00:77:%x::/48", i), 1))
			}
		}},
	} {
		to := lab()
		row.change(to)
		if got := Updatable(at, api.Difference(from, to)); got != row.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// The pins of a group's neighbours come and go with the group, also by deltas, and a refused one leaves none.
func TestPinsFollowGroups(t *testing.T) {
	n := neighbor.NewTable(neighbor.Config{})
	from := lab()
	at := mustBuild(t, nil, from, machine(), n)
	to := lab()
	to.Epoch++
	to.Groups[0].Hops[1].Via = bytesOf("10.2.0.7")
	bad := proto.CloneOf(to)
	bad.Routes[0].Group = 99
	bad.Groups[0].Hops[1].Via = bytesOf("10.2.0.8")
	if _, err := Update(at, bad, api.Difference(from, bad), machine().links); err == nil ||
		n.Lookup(2, addr("10.2.0.8")) != nil {
		t.Errorf("a refused delta left a neighbour pinned: %v", err)
	}
	at = mustUpdate(t, at, from, to)
	for deadline := time.Now().Add(10 * time.Second); n.Lookup(2, addr("10.2.0.2")) != nil; {
		runtime.GC()
		if time.Now().After(deadline) {
			t.Fatal("still pinned after the group that named it is gone")
		}
		time.Sleep(time.Millisecond)
	}
	if n.Lookup(2, addr("10.2.0.7")) == nil || n.Lookup(1, addr("10.1.0.2")) == nil {
		t.Error("unpinned while a group names it")
	}
	runtime.KeepAlive(at)
}

// cluster is a snapshot of so many pods, each with an identity of a few, beside 20,000 routes and 500 groups.
func cluster(pods int) *api.Snapshot {
	s := lab()
	s.Groups, s.Routes, s.Identities, s.IdentityPrefixes = nil, nil, nil, nil
	for i := range 500 {
		via := netip.AddrFrom4([4]byte{10, 1, 0, byte(2 + i%250)})
		s.Groups = append(s.Groups, &api.NextHopGroup{Id: uint32(i + 1), Hops: []*api.NextHop{
			{Port: 1, Via: via.AsSlice(), Weight: 1 + uint32(i)/250}}})
	}
	for i := range 20000 {
		s.Routes = append(s.Routes, &api.Route{Prefix: []byte{11, byte(i >> 8), byte(i), 0}, Bits: 24,
			Group: 1 + uint32(i%500)})
	}
	for i := range pods / 10 {
		s.Identities = append(s.Identities, &api.Identity{Id: uint32(i + 1), Kind: api.Identity_KIND_POD,
			Labels: []string{fmt.Sprint("app=", i)}})
	}
	for i := range pods {
		s.IdentityPrefixes = append(s.IdentityPrefixes, &api.IdentityPrefix{
			Prefix: &api.Prefix{Address: []byte{10, 244, byte(i >> 8), byte(i)}, Bits: 32}, Identity: uint32(i/10 + 1)})
	}
	return s
}

// BenchmarkUpdate is what one change costs: the delta onto the snapshot, and the tables of it.
func BenchmarkUpdate(b *testing.B) {
	for _, pods := range []int{1000, 10000} {
		s := cluster(pods)
		base, err := Build(nil, s, machine().links, neighbor.NewTable(neighbor.Config{}))
		if err != nil {
			b.Fatal(err)
		}
		one := s.IdentityPrefixes[pods/2]
		for name, set := range map[string]*api.Snapshot{
			"prefix": {IdentityPrefixes: []*api.IdentityPrefix{{Prefix: one.Prefix, Identity: 1}}},
			"route":  {Routes: []*api.Route{{Prefix: []byte{11, 2, 3, 0}, Bits: 24, Group: 7}}},
			"group": {Groups: []*api.NextHopGroup{{Id: 7, Hops: []*api.NextHop{
				{Port: 1, Via: bytesOf("10.1.0.99"), Weight: 1}}}}},
		} {
			b.Run(fmt.Sprintf("%s/pods=%d", name, pods), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					set.Epoch = s.Epoch + 1
					d := &api.Delta{Base: s.Epoch, Set: set}
					next, err := d.Apply(s)
					if err != nil {
						b.Fatal(err)
					}
					t, err := Update(base, next, d, machine().links)
					if err != nil {
						b.Fatal(err)
					}
					if t.Identities.Of(addr("10.244.0.1")) == identity.World {
						b.Fatal("nobody")
					}
				}
			})
		}
	}
}

// Arbitrary bytes as a delta: refused, or the tables that Build makes of what results; never a panic.
func FuzzUpdate(f *testing.F) {
	other := lab()
	other.Epoch, other.Routes, other.Identities[0].Id = 8, other.Routes[:2], 2
	other.IdentityPrefixes[0].Identity, other.Groups = 2, other.Groups[:2]
	for _, d := range []*api.Delta{api.Difference(lab(), other), {}, {Base: 7, RemovedGroups: []uint32{1}},
		{Base: 7, Set: &api.Snapshot{Routes: []*api.Route{routeTo("10.1.0.1/32", 2), routeTo("10.1.0.0/24", 3)}}},
		{Base: 7, RemovedIdentities: []uint32{1}}} {
		b, err := proto.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	from := lab()
	base, err := Build(nil, from, machine().links, neighbor.NewTable(neighbor.Config{Limit: 64}))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := new(api.Delta)
		if proto.Unmarshal(b, d) != nil {
			return
		}
		for i := range d.Origins {
			if i > 1000 {
				return // a large table, and nothing else
			}
		}
		next, err := d.Apply(from)
		if err != nil || !Updatable(base, d) {
			return
		}
		updated, err := Update(base, next, d, machine().links)
		var invalid *InvalidError
		if err != nil {
			if !errors.As(err, &invalid) {
				t.Fatalf("untyped refusal: %v", err)
			}
			return
		}
		fresh, err := Build(nil, next, machine().links, neighbor.NewTable(neighbor.Config{Limit: 64}))
		if err != nil {
			t.Fatalf("updated, but not to be built: %v", err)
		}
		if got, want := listing(updated), listing(fresh); got != want {
			t.Fatalf("updated:\n%s\nbuilt:\n%s", got, want)
		}
	})
}
