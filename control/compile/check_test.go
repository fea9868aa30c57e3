// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// checker is *testing.T or *rapid.T.
type checker interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// state is what a compiler has been told.
type state struct {
	objects     map[model.Key]*model.Object
	attachments map[string]*compile.Attachment // by port
}

func newState() state {
	return state{objects: map[model.Key]*model.Object{}, attachments: map[string]*compile.Attachment{}}
}

// compiler is one that is told all of it at once.
func (s state) compiler(node compile.Node) *compile.Compiler {
	c := compile.New(node)
	c.Replace(slices.Collect(maps.Values(s.objects)))
	c.Attach(slices.Collect(maps.Values(s.attachments)), nil)
	return c
}

// checkStep compares a step with its delta, and with a compilation of the same state from nothing.
func checkStep(
	t checker, node compile.Node, state state, c *compile.Compiler, before *api.Snapshot, step *compile.Step,
) {
	t.Helper()
	switch {
	case step.Delta != nil:
		checkDelta(t, before, step)
	case before != nil && step.Snapshot != before:
		t.Errorf("another snapshot without a delta")
	}
	fresh := state.compiler(node)
	want, err := fresh.Compile(1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(canonical(want.Snapshot), canonical(step.Snapshot)); diff != "" {
		t.Errorf("snapshot from nothing (-) and by steps (+):\n%s", diff)
	}
	if diff := cmp.Diff(texts(fresh.Errors()), texts(c.Errors())); diff != "" {
		t.Errorf("errors from nothing (-) and by steps (+):\n%s", diff)
	}
	if diff := cmp.Diff(fresh.HealthChecks(), c.HealthChecks()); diff != "" {
		t.Errorf("health checks from nothing (-) and by steps (+):\n%s", diff)
	}
}

// checkDelta: the delta makes the snapshot, and says no more than it needs to.
func checkDelta(t checker, before *api.Snapshot, step *compile.Step) {
	t.Helper()
	next, err := step.Delta.Apply(before)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(next, step.Snapshot) {
		t.Errorf("the delta makes another snapshot: %s", cmp.Diff(canonical(step.Snapshot), canonical(next)))
	}
	ordered := proto.CloneOf(step.Delta)
	if ordered.Order(); !proto.Equal(ordered, step.Delta) {
		t.Errorf("delta %v is not in order", step.Delta)
	}
	if least := api.Difference(before, step.Snapshot); proto.Size(least) != proto.Size(step.Delta) {
		t.Errorf("delta %v, the least is %v", step.Delta, least)
	}
}

func texts(errs []*model.Error) (list []string) {
	for _, e := range errs {
		list = append(list, e.Error())
	}
	return list
}

// checkNumbers: what is in both of two successive snapshots has one number. Groups may change their hops.
func checkNumbers(t checker, before, after *api.Snapshot) {
	t.Helper()
	ports, identities, groups := map[string]uint32{}, map[string]uint32{}, map[string]uint32{}
	content := func(g *api.NextHopGroup) string { return fmt.Sprint(g.GetKind(), g.GetHops()) }
	for _, p := range before.GetPorts() {
		ports[p.Name] = p.Id
	}
	for _, i := range before.GetIdentities() {
		identities[labels(i)] = i.Id
	}
	for _, g := range before.GetGroups() {
		groups[content(g)] = g.Id
	}
	services := map[string]uint32{}
	for _, s := range before.GetServices() {
		services[serviceName(s)] = s.Id
	}
	for _, s := range after.Services {
		if id, had := services[serviceName(s)]; had && id != s.Id && s.Frontends[0].Kind != api.Frontend_KIND_HOST_PORT {
			t.Errorf("service %s was %d and is %d", serviceName(s), id, s.Id)
		}
	}
	for _, p := range after.Ports {
		if id, had := ports[p.Name]; had && id != p.Id {
			t.Errorf("port %s was %d and is %d", p.Name, id, p.Id)
		}
	}
	for _, i := range after.Identities {
		if id, had := identities[labels(i)]; had && id != i.Id {
			t.Errorf("identity %s was %d and is %d", labels(i), id, i.Id)
		}
	}
	for _, g := range after.Groups {
		if id, had := groups[content(g)]; had && id != g.Id {
			t.Errorf("group %s was %d and is %d", content(g), id, g.Id)
		}
	}
}

func serviceName(s *api.Service) string { return fmt.Sprint(s.Name, s.Ipv6) }

// checkReuse: a number that is in what the dataplane has in force, and in what it is given, is of one thing.
func checkReuse(t checker, inForce, given *api.Snapshot) {
	t.Helper()
	ports, identities := map[uint32]string{}, map[uint32]string{}
	for _, p := range inForce.GetPorts() {
		ports[p.Id] = p.Name
	}
	for _, i := range inForce.GetIdentities() {
		identities[i.Id] = labels(i)
	}
	services := map[uint32]string{}
	for _, s := range inForce.GetServices() {
		services[s.Id] = serviceName(s)
	}
	for _, s := range given.Services {
		if name, had := services[s.Id]; had && name != serviceName(s) {
			t.Errorf("service %d was %s and is %s", s.Id, name, serviceName(s))
		}
	}
	for _, p := range given.Ports {
		if name, had := ports[p.Id]; had && name != p.Name {
			t.Errorf("port %d was %s and is %s", p.Id, name, p.Name)
		}
	}
	for _, i := range given.Identities {
		if text, had := identities[i.Id]; had && text != labels(i) {
			t.Errorf("identity %d was %s and is %s", i.Id, text, labels(i))
		}
	}
}

// checkNewSets: a set that is new has no number of one that the dataplane may have.
func checkNewSets(t checker, step *compile.Step, before ...*api.Snapshot) {
	t.Helper()
	for _, s := range step.Delta.GetSet().GetPeerSets() {
		for _, b := range before {
			if slices.ContainsFunc(b.GetPeerSets(), func(other *api.PeerSet) bool { return other.Id == s.Id }) {
				t.Errorf("peer set %d is new, and was another one", s.Id)
			}
		}
	}
}

// told is what somebody who takes every judgement believes of objects.
type told map[model.Key]string

// check takes the step's judgements: then of the objects that there are just those are believed judged, and so, that
// compiling them from nothing judges.
func (all told) check(t checker, node compile.Node, state state, step *compile.Step) {
	t.Helper()
	for _, j := range step.Judged {
		all[j.Object.Key] = fmt.Sprint(j.Error)
		if j.Gone {
			delete(all, j.Object.Key)
		}
	}
	maps.DeleteFunc(all, func(key model.Key, _ string) bool { return state.objects[key] == nil })
	first, err := state.compiler(node).Compile(1)
	if err != nil {
		t.Fatal(err)
	}
	want := told{}
	for _, j := range first.Judged {
		want[j.Object.Key] = fmt.Sprint(j.Error)
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("judged from nothing (-) and by steps (+):\n%s", diff)
	}
}
