// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
)

// nodeConfig has its place in the list for its MTU, so that it can be told.
func nodeConfig(name string, mtu uint32) *model.Object {
	config := model.DefaultNodeConfig()
	config.MTU = mtu
	return &model.Object{Key: model.Key{Kind: "NodeConfig", Name: name}, Spec: config}
}

func TestWhichNode(t *testing.T) {
	for _, c := range []struct {
		node    compile.Node
		configs string // names, with MTUs 1, 2, …
		nodes   string
		want    string
	}{
		{compile.Node{Name: "a", Sole: true}, "", "", `there is no NodeConfig, and no Node "a"`},
		{compile.Node{Name: "a"}, "", "b", `there is no NodeConfig, and no Node "a"`},
		{compile.Node{Name: "a"}, "", "a", "a 0"},
		{compile.Node{Name: "a"}, "b a default", "a", "a 2"},
		{compile.Node{Name: "a"}, "b default", "", "a 2"},
		{compile.Node{Name: "a"}, "b", "a", "a 0"},
		{compile.Node{Name: "a"}, "b", "", `--node is "a", and there are the NodeConfigs ["b"]`},
		{compile.Node{Name: "a"}, "b c d e f g h", "", `["b" "c" "d" "e" "f"] and 2 more`},
		{compile.Node{Name: "a", Sole: true}, "b", "a", "b 1"},
		{compile.Node{Name: "a", Sole: true}, "default", "", "a 1"},
		{compile.Node{Sole: true}, "default", "", "default 1"},
		{compile.Node{Name: "a", Sole: true}, "b c", "", `["b" "c"]`},
	} {
		var objects []*model.Object
		for i, name := range strings.Fields(c.configs) {
			objects = append(objects, nodeConfig(name, uint32(i+1)))
		}
		for _, name := range strings.Fields(c.nodes) {
			objects = append(objects, &model.Object{Key: model.Key{Kind: "Node", Name: name}, Spec: &model.Node{}})
		}
		s, _, err := compile.Once(objects, c.node)
		if err != nil {
			if !errors.Is(err, compile.ErrNoNode) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: error %v, want %q", c, err, c.want)
			}
			continue
		}
		if got := fmt.Sprint(s.Node.Name, " ", s.Node.Mtu); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

// TestNothing: what comes to nothing uses up no epoch and gives the same snapshot, to the pointer.
func TestNothing(t *testing.T) {
	pod := large.pod(1, "1")
	c := compile.New(compile.Node{Sole: true})
	c.Replace([]*model.Object{nodeConfig("a", 0), pod})
	first, err := c.Compile(1)
	if err != nil || first.Delta != nil {
		t.Fatal(first, err)
	}
	twin, service := *pod, &model.Object{Key: model.Key{Kind: "Service", Name: "s"}, Spec: &model.Service{}}
	for name, change := range map[string]func(){
		"none":           func() {},
		"equal":          func() { c.Change([]*model.Object{&twin}, nil) },
		"generation":     func() { twin.Generation++; c.Change([]*model.Object{&twin}, nil) },
		"back and forth": func() { c.Change(nil, []model.Key{pod.Key}); c.Change([]*model.Object{pod}, nil) },
		"there and gone": func() { c.Change([]*model.Object{large.pod(2, "1")}, nil); c.Replace(objectsOf(c, pod)) },
		"of no use":      func() { c.Change([]*model.Object{service}, nil) },
		"no such":        func() { c.Change(nil, []model.Key{{Kind: "Pod", Name: "x"}}) },
	} {
		change()
		step, err := c.Compile(2)
		if err != nil || step.Delta != nil || step.Snapshot != first.Snapshot {
			t.Errorf("%s: %+v, %v", name, step, err)
		}
	}
}

func objectsOf(c *compile.Compiler, more ...*model.Object) []*model.Object {
	return append(more, c.Object(model.Key{Kind: "NodeConfig", Name: "a"}))
}

// TestLost: while it is not known which node this is, what is in force stays, and changes are kept.
func TestLost(t *testing.T) {
	config := nodeConfig("a", 0)
	c := compile.New(compile.Node{Name: "a"})
	c.Replace([]*model.Object{config})
	first, err := c.Compile(1)
	if err != nil {
		t.Fatal(err)
	}
	c.Change([]*model.Object{large.pod(1, "1")}, []model.Key{config.Key})
	if _, err := c.Compile(2); !errors.Is(err, compile.ErrNoNode) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"Pod": 1}, c.Objects()); diff != "" {
		t.Error(diff)
	}
	c.Change([]*model.Object{config}, nil)
	step, err := c.Compile(2)
	if err != nil || step.Delta.GetBase() != first.Snapshot.Epoch || len(step.Snapshot.IdentityPrefixes) != 1 {
		t.Errorf("%+v, %v", step, err)
	}
}

// TestErrorsStand: the list of what is refused is the same one until something about it changes, and an error that
// stands is the same one in each.
func TestErrorsStand(t *testing.T) {
	refused := func(name string) *model.Object {
		return &model.Object{Key: model.Key{Kind: "Route", Name: name}, Spec: &model.Route{Type: "forward",
			Destination: netip.MustParsePrefix("20.0.0.0/8"), NextHops: []model.NextHop{{Port: "none", Weight: 1}}}}
	}
	c := compile.New(compile.Node{Name: "a"})
	c.Replace([]*model.Object{nodeConfig("a", 0), refused("b"), refused("d")})
	compileErrors := func(epoch uint64, set []*model.Object, removed ...model.Key) []*model.Error {
		c.Change(set, removed)
		if _, err := c.Compile(epoch); err != nil {
			t.Fatal(err)
		}
		return c.Errors()
	}
	first := compileErrors(1, nil)
	for i, object := range []*model.Object{large.pod(1, "1"), nodeConfig("a", 1500)} {
		if same := compileErrors(uint64(i+2), []*model.Object{object}); len(same) != 2 || &same[0] != &first[0] {
			t.Errorf("%s changed: %v became %v", object.Key, first, same)
		}
	}
	more := compileErrors(4, []*model.Object{refused("c")})
	if len(first) != 2 || len(more) != 3 || more[0] != first[0] || more[2] != first[1] {
		t.Errorf("%v, then %v", first, more)
	}
	if less := compileErrors(5, nil, more[0].Key); len(less) != 2 || less[0] != more[1] || less[1] != more[2] {
		t.Errorf("%v, then %v", more, less)
	}
}
