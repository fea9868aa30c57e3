// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// applyDelta puts the difference to a snapshot in force from within the forwarder's namespace.
func (s *site) applyDelta(to *api.Snapshot) error {
	d := api.Difference(s.f.InForce(), to)
	return s.middle.Do(func() error { return s.f.ApplyDelta(s.t.Context(), d) })
}

// Ports come and go by deltas, and with them routes and identities; traffic that they have nothing to do with goes on.
func TestDeltas(t *testing.T) {
	s := newSite(t, Config{})
	whole := s.snapshot()
	one := proto.CloneOf(whole)
	one.Ports = one.Ports[:1]
	s.must(s.apply(one))
	two := proto.CloneOf(whole)
	two.Epoch = 2
	s.must(s.applyDelta(two))
	s.must(s.echo("10.2.0.2:7000", 1<<20))

	three := proto.CloneOf(two)
	three.Epoch = 3
	three.Origins = []string{"", "Route closed"}
	three.Groups = []*api.NextHopGroup{{Id: 1, Kind: api.NextHopGroup_KIND_UNREACHABLE}}
	three.Routes = []*api.Route{{Prefix: []byte{10, 2, 0, 2}, Bits: 32, Group: 1, Origin: 1}}
	three.Identities = []*api.Identity{
		{Id: 1, Kind: api.Identity_KIND_POD, Namespace: "default", Labels: []string{"app=a"}},
		{Id: 2, Kind: api.Identity_KIND_NODE},
	}
	three.IdentityPrefixes = []*api.IdentityPrefix{
		{Prefix: &api.Prefix{Address: []byte{10, 2, 0, 2}, Bits: 32}, Identity: 1, Origin: 1}}
	// From another namespace: a delta without ports must not ask the kernel about devices, which here are not there.
	s.must(s.f.ApplyDelta(t.Context(), api.Difference(two, three)))
	if err := s.echo("10.2.0.2:7000", 1); err == nil {
		t.Error("the route of a delta is not in force")
	}
	s.must(s.echo("[fd00:2::2]:7000", 1<<20))
	s.must(s.applyDelta(&api.Snapshot{Epoch: 4, Origins: []string{""}, Ports: two.Ports, Node: two.Node}))
	s.must(s.echo("10.2.0.2:7000", 1<<20))
	s.checkLedger()
	if st := s.f.Status(); st.Epoch != 4 || st.ApplyNanoseconds == 0 || st.LastNack != nil {
		t.Errorf("status %v", st)
	}
}

func TestDeltasRefused(t *testing.T) {
	s := newSite(t, Config{})
	apply := func(d *api.Delta) error {
		return s.middle.Do(func() error { return s.f.ApplyDelta(t.Context(), d) })
	}
	var gap *api.GapError
	if err := apply(&api.Delta{Set: &api.Snapshot{Epoch: 1}}); !errors.As(err, &gap) {
		t.Errorf("a delta onto nothing: %v", err)
	}
	s.must(s.apply(s.snapshot()))
	if err := apply(&api.Delta{Base: 7, Set: &api.Snapshot{Epoch: 8}}); !errors.As(err, &gap) || gap.Have != 1 {
		t.Errorf("a delta onto another epoch: %v", err)
	}
	var invalid *tables.InvalidError
	for name, d := range map[string]*api.Delta{
		"same epoch":  {Base: 1, Set: &api.Snapshot{Epoch: 1}},
		"nothing set": {Base: 1},
		"no name":     {Base: 1, Set: &api.Snapshot{Epoch: 2, Ports: []*api.Port{{Id: 9, Device: "nosuch"}}}},
		"policy":      {Base: 1, Set: &api.Snapshot{Epoch: 2, Policies: []*api.Policy{{Name: "p", Subjects: []uint32{4}}}}},
		"service":     {Base: 1, Set: &api.Snapshot{Epoch: 2, Services: []*api.Service{{Id: 1}}}},
	} {
		if err := apply(d); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.apply(&api.Snapshot{}); !errors.As(err, &invalid) {
		t.Errorf("epoch 0: %v", err)
	}
	if s.f.Epoch() != 1 || s.f.Status().LastNack == nil {
		t.Error("something that was refused is in force, or not said")
	}
	s.must(s.echo("10.2.0.2:7000", 1<<20))
}

// A snapshot is taken without its devices, each of which opens its ports when it appears.
func TestDevicesAppear(t *testing.T) {
	s := newSite(t, Config{})
	for _, device := range []string{"l0", "r0"} {
		link, err := s.middle.Links().LinkByName(device)
		s.must(err)
		s.must(s.middle.Links().LinkDel(link))
	}
	s.must(s.apply(s.snapshot()))
	if st := s.f.Status(); len(st.Degraded) != 2 || !strings.Contains(st.Degraded[0].Reason, "not there") {
		t.Errorf("degraded: %v", st.Degraded)
	}
	s.follow()
	s.wire(s.left, "l0", "10.1.0.2/24", "fd00:1::2/64")
	s.eventually("the left port to open", func() bool {
		return s.f.Ports("left").Ports[0].State == dataplaneapi.PortState_PORT_STATE_UP
	})
	s.must(s.ping("10.1.0.1"))
	s.must(s.apply(s.snapshot())) // what is in force may be without its device
	s.wire(s.right, "r0", "10.2.0.2/24", "fd00:2::2/64")
	s.eventually("the right port to open", func() bool {
		return s.f.Ports("right").Ports[0].State == dataplaneapi.PortState_PORT_STATE_UP
	})
	s.must(s.echo("10.2.0.2:7000", 1<<20))
	if st := s.f.Status(); len(st.Degraded) != 0 {
		t.Errorf("degraded: %v", st.Degraded)
	}
}

func TestIdentitiesListed(t *testing.T) {
	s := newSite(t, Config{})
	snapshot := s.snapshot()
	snapshot.Origins = []string{"", "Pod default/a"}
	snapshot.Identities = []*api.Identity{
		{Id: 1, Kind: api.Identity_KIND_POD, Namespace: "default", Labels: []string{"app=a"}},
		{Id: 2, Kind: api.Identity_KIND_NODE, Labels: []string{"zone=b"}},
	}
	prefix := func(text string, id, origin uint32) *api.IdentityPrefix {
		p := netip.MustParsePrefix(text)
		return &api.IdentityPrefix{Prefix: &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())},
			Identity: id, Origin: origin}
	}
	snapshot.IdentityPrefixes = []*api.IdentityPrefix{
		prefix("10.2.0.0/24", 2, 0), prefix("10.2.0.2/32", 1, 1), prefix("fd00:2::2/128", 1, 1)}
	s.must(s.apply(snapshot))
	for _, row := range []struct{ address, namespace, want string }{
		{"", "", "1 pod default [app=a] 10.2.0.2/32 fd00:2::2/128|2 node  [zone=b] 10.2.0.0/24|"},
		{"10.2.0.2", "", "1 pod default [app=a] 10.2.0.2/32 fd00:2::2/128|"},
		{"::ffff:10.2.0.3", "", "2 node  [zone=b] 10.2.0.0/24|"},
		{"10.9.0.1", "", ""},
		{"", "default", "1 pod default [app=a] 10.2.0.2/32 fd00:2::2/128|"},
		{"10.2.0.3", "default", ""},
	} {
		list, epoch, err := s.f.Identities(&dataplaneapi.IdentitiesRequest{Address: row.address, Namespace: row.namespace})
		s.must(err)
		var b strings.Builder
		for i := range list {
			b.WriteString(strings.Join([]string{string('0' + rune(i.Id)), i.Kind, i.Namespace,
				"[" + strings.Join(i.Labels, " ") + "]"}, " "))
			for _, p := range i.Prefixes {
				b.WriteString(" " + p.Prefix)
			}
			b.WriteString("|")
		}
		if b.String() != row.want || epoch != 1 {
			t.Errorf("%q of %q: %s, want %s", row.address, row.namespace, b.String(), row.want)
		}
	}
	if _, _, err := s.f.Identities(&dataplaneapi.IdentitiesRequest{Address: "x"}); err == nil {
		t.Error("no address was taken")
	}
}
