// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"errors"
	"fmt"
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
	twin, service := *pod, &model.Object{Key: model.Key{Kind: "Service", Name: "s"}, Spec: model.Raw("{}")}
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
