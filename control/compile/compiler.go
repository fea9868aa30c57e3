// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// Node says which node is compiled for.
type Node struct {
	Name string
	// Sole: where there is one NodeConfig, it is this node's whatever its name.
	Sole bool
}

// Step is what a Compile made.
type Step struct {
	// Snapshot is immutable, and shares its lists with the one before. When nothing changed it is the one before,
	// its epoch with it.
	Snapshot *api.Snapshot
	// Delta makes Snapshot of the Step before: its base is that one's epoch, and Delta.Apply gives what Snapshot is.
	// It is nil for the first Step, and when nothing changed.
	Delta *api.Delta
	// Judged are objects of viaduct.dev kinds that concern the node, and that this step looked at; ordered by key.
	Judged []Judgement
}

// Judgement is what became of an object: it is in the snapshot when Error is nil.
type Judgement struct {
	Object *model.Object
	Error  *model.Error
}

// Compiler holds the objects of desired state, and what follows from them for one node. It is not for concurrent use.
type Compiler struct {
	node    Node
	objects map[model.Key]*model.Object
	numbers numbers
	last    *api.Snapshot
	errs    []*model.Error
}

// New returns a compiler for the node that holds no objects.
func New(node Node) *Compiler { return &Compiler{node: node, objects: map[model.Key]*model.Object{}} }

// Resume takes over the numbers that a snapshot gives to ports, groups and identities: one that an earlier process
// made, and that is in force. The next Compile gives a whole snapshot.
func (c *Compiler) Resume(s *api.Snapshot) {}

// Change adds or replaces objects, and removes those with the keys.
func (c *Compiler) Change(set []*model.Object, removed []model.Key) {
	for _, k := range removed {
		delete(c.objects, k)
	}
	for _, o := range set {
		c.objects[o.Key] = o
	}
}

// Replace makes the objects the whole state.
func (c *Compiler) Replace(objects []*model.Object) {
	clear(c.objects)
	c.Change(objects, nil)
}

// Compile returns what follows from the changes since the last one. The epoch is the Snapshot's, if anything changed;
// it is greater than those before. There is an error only when it is not known which node this is: ErrNoNode.
func (c *Compiler) Compile(epoch uint64) (*Step, error) {
	out, err := whole(input{state: c.objects, node: c.node, epoch: epoch, previous: c.numbers})
	if err != nil {
		return nil, err
	}
	step := &Step{Snapshot: out.snapshot}
	if c.last != nil {
		step.Delta = api.Difference(c.last, out.snapshot)
		if step.Delta.Empty() {
			step.Delta, step.Snapshot = nil, c.last
		}
	}
	c.numbers, c.last, c.errs = out.numbers, step.Snapshot, out.errors
	return step, nil
}

// Errors are the objects that are not in the snapshot because they do not fit the others, ordered by key.
func (c *Compiler) Errors() []*model.Error { return c.errs }

// Objects says how many objects of each kind the compiler holds.
func (c *Compiler) Objects() map[string]int {
	counts := map[string]int{}
	for k := range c.objects {
		counts[k.Kind]++
	}
	return counts
}

// Once compiles the whole state once, as epoch 1.
func Once(objects []*model.Object, node Node) (*api.Snapshot, []*model.Error, error) {
	c := New(node)
	c.Replace(objects)
	step, err := c.Compile(1)
	if err != nil {
		return nil, nil, err
	}
	return step.Snapshot, c.Errors(), nil
}

type input struct {
	state    state
	node     Node
	epoch    uint64
	previous numbers
}

type output struct {
	snapshot *api.Snapshot
	numbers  numbers
	errors   []*model.Error
}

type state map[model.Key]*model.Object

func (s state) get(k model.Key) *model.Object { return s[k] }

func (s state) of(kind string) []*model.Object {
	var list []*model.Object
	for k, o := range s {
		if k.Kind == kind {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b *model.Object) int { return a.Key.Compare(b.Key) })
	return list
}
