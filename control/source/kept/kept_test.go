// SPDX-License-Identifier: Apache-2.0

package kept

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

func route(name, file string) *model.Object {
	return &model.Object{
		Key: model.Key{Kind: "Route", Name: name}, Place: model.Place{File: file, Line: 1, Document: 1},
		Spec: &model.Route{Destination: netip.MustParsePrefix("10.0.0.0/8"), Type: "blackhole"},
	}
}

func refusal(o *model.Object) *model.Error {
	return &model.Error{Place: o.Place, Key: o.Key, Field: "spec", Reason: "wrong"}
}

// names are those of the event's objects: set, and removed with a minus.
func names(e source.Event) string {
	var list []string
	for _, o := range e.Set {
		list = append(list, o.Key.Name)
	}
	for _, k := range e.Removed {
		list = append(list, "-"+k.Name)
	}
	return strings.Join(list, " ")
}

// life is one process with the memory in dir.
type life struct{ *Source }

func begin(t *testing.T, dir string) life {
	t.Helper()
	return life{New(&memory.Source{}, dir, zaptest.NewLogger(t))}
}

func (l life) says(e source.Event) string {
	e = l.complete(e)
	l.save(e.Errors)
	return names(e)
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRefusedStaysOverRestarts(t *testing.T) {
	dir := t.TempDir()
	a, b := route("a", "a.yaml"), route("b", "b.yaml")
	first := begin(t, dir)
	expect(t, first.says(source.Event{Whole: true, Set: []*model.Object{a, b}}), "a b")
	expect(t, first.says(source.Event{Errors: []*model.Error{refusal(a)}}), "")

	second := begin(t, dir)
	expect(t, second.says(source.Event{Whole: true, Set: []*model.Object{b}, Errors: []*model.Error{refusal(a)}}), "b a")
	third := begin(t, dir)
	expect(t, third.says(source.Event{Whole: true, Set: []*model.Object{b}, Errors: []*model.Error{refusal(a)}}), "b a")
	expect(t, third.says(source.Event{Set: []*model.Object{a}}), "a") // right again
	expect(t, third.says(source.Event{Errors: []*model.Error{refusal(a)}}), "")
	expect(t, third.says(source.Event{Removed: []model.Key{a.Key}}), "-a")

	fourth := begin(t, dir)
	expect(t, fourth.says(source.Event{Whole: true, Set: []*model.Object{b}}), "b")
}

func TestWhatIsNoLongerRefusedGoes(t *testing.T) {
	dir := t.TempDir()
	a := route("a", "a.yaml")
	first := begin(t, dir)
	first.says(source.Event{Whole: true, Set: []*model.Object{a}})
	first.says(source.Event{Errors: []*model.Error{refusal(a)}})
	second := begin(t, dir)
	expect(t, second.says(source.Event{Whole: true, Errors: []*model.Error{refusal(a)}}), "a")
	expect(t, second.says(source.Event{}), "-a") // its file is gone, and with it the refusal
	third := begin(t, dir)
	expect(t, third.says(source.Event{Whole: true, Errors: []*model.Error{refusal(a)}}), "")
}

// A document that does not even say what it is may be any of its file's objects.
func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	a, b := route("a", "x.yaml"), route("b", "y.yaml")
	torn := &model.Error{Place: model.Place{File: "x.yaml", Line: 1, Document: 1}, Reason: "no YAML"}
	first := begin(t, dir)
	first.says(source.Event{Whole: true, Set: []*model.Object{a, b}})
	first.says(source.Event{Errors: []*model.Error{torn}})
	second := begin(t, dir)
	expect(t, second.says(source.Event{Whole: true, Set: []*model.Object{b}, Errors: []*model.Error{torn}}), "b a")
}

// TestEveryKind: what is written is what is read.
func TestEveryKind(t *testing.T) {
	dir := t.TempDir()
	address := netip.MustParseAddr("10.0.0.1")
	objects := []*model.Object{
		{Key: model.Key{Kind: "NodeConfig", Name: "n"}, Labels: map[string]string{"a": "b"}, Spec: &model.NodeConfig{
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("fd00::/64")}, Uplink: &model.Uplink{Device: "d", Mode: "kernel"},
			Ports: []model.Port{{Name: "p", Device: "d", Neighbors: []model.Neighbor{
				{Address: address, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}}}}},
		{Key: model.Key{Kind: "Route", Name: "r"}, Generation: 3, Spec: &model.Route{
			Destination: netip.MustParsePrefix("0.0.0.0/0"), Type: "forward",
			NextHops: []model.NextHop{{Via: address, Weight: 1}, {Port: "p", Weight: 2, MTU: 1400}}}},
		{Key: model.Key{Kind: "Pod", Namespace: "x", Name: "p"}, Spec: &model.Pod{Node: "n", Addresses: []netip.Addr{address},
			Ports: []model.ContainerPort{{Name: "http", Protocol: "TCP", Port: 80}}}},
		{Key: model.Key{Kind: "Namespace", Name: "x"}, Spec: &model.Namespace{}},
		{Key: model.Key{Kind: "Node", Name: "n"}, Spec: &model.Node{Addresses: []netip.Addr{address}}},
		{Key: model.Key{Kind: "Deployment.apps", Namespace: "x", Name: "s"}, Spec: model.Raw(`{"a":1}`)},
		{Key: model.Key{Kind: "Service", Namespace: "x", Name: "s"}, Complaints: []model.Complaint{{Field: "a", Reason: "b"}},
			Spec: &model.Service{Fronted: true, Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
				Selector: model.Selector{{Key: "app", Values: []string{"web"}}}}},
		{Key: model.Key{Kind: "EndpointSlice", Namespace: "x", Name: "s"}, Spec: &model.EndpointSlice{Service: "s",
			Endpoints: []model.Endpoint{{Address: netip.MustParseAddr("10.9.0.1"), Ready: true}}}},
		{Key: model.Key{Kind: "ServiceCIDR", Name: "s"}, Spec: &model.ServiceCIDR{
			Prefixes: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}},
		{Key: model.Key{Kind: "NetworkPolicy", Namespace: "x", Name: "p"}, Spec: &model.Policy{
			Tier: model.TierNamespace, Egress: true, Staged: true,
			Subject: model.Peer{Namespace: "x",
				Selector: model.Selector{{Key: "a", Operator: model.NotIn, Values: []string{"b"}}}},
			Rules: []model.PolicyRule{{Name: "spec.egress[0]", Egress: true, Action: model.Pass,
				Peers: []model.Peer{{Kind: model.Blocks, Blocks: []model.Block{{
					Prefix: netip.MustParsePrefix("10.0.0.0/8"), Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}}}},
				Ports: []model.PortRange{{Protocol: "TCP", First: 1, Last: 65535}}}}}},
		{Key: model.Key{Kind: "ClusterNetworkPolicy", Name: "p"}, Spec: &model.Policy{Priority: 7,
			Subject: model.Peer{Kind: model.Nodes}, Rules: []model.PolicyRule{{Name: "r", Any: true, Action: model.Deny}}}},
	}
	path := filepath.Join(dir, name)
	if err := write(path, objects); err != nil {
		t.Fatal(err)
	}
	got, err := read(path)
	if err != nil || len(got) != len(objects) {
		t.Fatal(err, len(got))
	}
	for i, o := range got {
		if !o.Same(objects[i]) || o.Generation != objects[i].Generation {
			t.Errorf("%s is read as %+v", o.Key, o.Spec)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left beside it: %v", left)
	}
}

// TestNewFields: what an earlier program has not written means what it means when nobody writes it.
func TestNewFields(t *testing.T) {
	path := filepath.Join(t.TempDir(), name)
	text := `{"version":1,"objects":[{"Key":{"Kind":"NodeConfig","Name":"n"},"Spec":{"MTU":1400}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := read(path)
	if err != nil {
		t.Fatal(err)
	}
	want := model.DefaultNodeConfig()
	if got := list[0].Spec.(*model.NodeConfig); got.MTU != 1400 || len(got.FailSafe.Ingress) == 0 ||
		!slices.Equal(got.FailSafe.Ingress, want.FailSafe.Ingress) {
		t.Errorf("read %+v", got)
	}
}

func TestDamagedFile(t *testing.T) {
	a := route("a", "a.yaml")
	for _, text := range []string{
		"", "{", `{"version":9}`, `{"version":1,"objects":[{"Key":{"Kind":"Route"},"Spec":7}]}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l := begin(t, dir)
		expect(t, l.says(source.Event{Whole: true, Errors: []*model.Error{refusal(a)}}), "")
		expect(t, l.says(source.Event{Set: []*model.Object{a}}), "a")
		expect(t, l.says(source.Event{Errors: []*model.Error{refusal(a)}}), "")
		expect(t, begin(t, dir).says(source.Event{Whole: true, Errors: []*model.Error{refusal(a)}}), "a")
	}
}

// A directory that cannot be written costs the memory, and nothing else.
func TestNowhereToWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := route("a", "a.yaml")
	l := begin(t, filepath.Join(file, "state"))
	expect(t, l.says(source.Event{Whole: true, Set: []*model.Object{a}}), "a")
	expect(t, l.says(source.Event{Errors: []*model.Error{refusal(a)}}), "")
	expect(t, l.says(source.Event{Set: []*model.Object{a}}), "a")
}
