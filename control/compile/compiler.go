// SPDX-License-Identifier: Apache-2.0

// Package compile turns desired state into the snapshot of one node, and goes on from there: a change costs what it
// touches. It reads no files and no clock; equal objects give equal snapshots, but for the numbers of ports, groups,
// identities, peer sets and origins, which also depend on those given out before. In which order objects are said
// within what is compiled at once does not matter.
//
// What is compiled is of two kinds: objects, and the attachments of this node, interfaces of its pods.
//
// The flow of the files is that of a compilation: compiler.go takes changes and lists the stages, attachments.go says
// what an attachment is; node.go chooses the NodeConfig, ports.go numbers the ports, of which host.go and attached.go
// have some; offload.go says whose flows the kernel does not carry; routes.go, nodes.go, host.go and attached.go claim
// destinations, and groups.go settles them;
// hostroutes.go does the same for the host's own stack and identities.go for addresses; policies.go has the policies
// that speak of identities, peersets.go whom they speak of, and selectors.go how these are found; judge.go says what
// became of objects. claims.go, numbers.go, table.go and origins.go are what stages are made of.
//
// Services come last: frontends.go and hostports.go claim the places at which they take traffic, of which guard.go says
// which none may have, and budget.go how many; endpoints.go and podendpoints.go say who answers, topology.go which of
// those may be chosen here, and services.go enters what follows; servicecidrs.go leads the host's stack there,
// egress.go has the addresses of namespaces, healthchecks.go what load balancers ask, and complaints.go what of objects
// does not count. withheld.go leaves out what the dataplane refuses.
package compile

import (
	"fmt"
	"maps"
	"net/netip"
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

// Step is what a compilation made.
type Step struct {
	// Snapshot is immutable, and shares its lists with the one before. When nothing changed it is the one before,
	// with its epoch.
	Snapshot *api.Snapshot
	// Delta makes Snapshot of the Step before: its base is that one's epoch, and Delta.Apply gives what Snapshot is.
	// It is nil for the first Step, for the first after Resume, and when nothing changed.
	Delta *api.Delta
	// Judged are objects of viaduct.dev kinds that concern the node, and that were looked at, and those that do not
	// any more; ordered by key.
	Judged []Judgement
}

// Compiler holds the objects of desired state, and what follows from them for one node. It is not for concurrent use.
type Compiler struct {
	node    Node
	objects map[string]map[model.Key]*model.Object // by kind
	// changed has the keys of objects that changed since the last compilation, each with what it was then.
	changed map[model.Key]*model.Object

	attachments map[string]*model.Object // by port; the Spec of each is an *Attachment
	attached    map[string]struct{}      // ports whose attachments changed since the last compilation

	last       *api.Snapshot // nil: the next one is whole
	errors     []*model.Error
	judged     map[model.Key]struct{} // objects that somebody was told of
	self       self
	settings   *api.NodeSettings // that the snapshot has
	ports      ports
	routes     routes
	hostRoutes hostRoutes
	identities identities
	policies   policies
	services   services
	egress     map[string]*api.Egress // in force, by namespace
	wasAlone   bool                   // no other node was known when egress was looked at
	origins    origins

	addressed  map[netip.Addr]int // how many attachments have it
	attachedOf attachedOf
	complaints complaints
	withheld   withheld
}

// New returns a compiler for the node that holds no objects.
func New(node Node) *Compiler {
	c := &Compiler{
		node:    node,
		objects: map[string]map[model.Key]*model.Object{},
		changed: map[model.Key]*model.Object{},
		judged:  map[model.Key]struct{}{},

		attachments: map[string]*model.Object{},
		addressed:   map[netip.Addr]int{},
		attachedOf:  attachedOf{},
		withheld:    newWithheld(),
	}
	c.Resume(nil)
	return c
}

// Change adds or replaces the objects of set, and removes those with the keys. Of several with one key the last stays.
func (c *Compiler) Change(set []*model.Object, removed []model.Key) {
	for _, key := range removed {
		c.put(key, nil)
	}
	for _, o := range set {
		c.put(o.Key, o)
	}
}

// Replace makes the objects the whole state.
func (c *Compiler) Replace(objects []*model.Object) {
	left := map[model.Key]bool{}
	for _, held := range c.objects {
		for key := range held {
			left[key] = true
		}
	}
	for key := range c.withheld.of {
		left[key] = true
	}
	for _, o := range objects {
		delete(left, o.Key)
	}
	c.Change(objects, slices.Collect(maps.Keys(left)))
}

// put makes o the object with the key; nil: there is none. What is withheld stays so until it changes.
func (c *Compiler) put(key model.Key, o *model.Object) {
	if held := c.withheld.of[key]; held != nil {
		if equal(held.object, o) {
			return
		}
		c.withheld.drop(key)
	}
	c.enter(key, o)
}

// enter has o be compiled as the object with the key; nil: none.
func (c *Compiler) enter(key model.Key, o *model.Object) {
	was := c.Object(key)
	if equal(was, o) {
		return
	}
	c.withheld.note(key)
	if _, noted := c.changed[key]; !noted {
		c.changed[key] = was
	}
	if o == nil {
		delete(c.objects[key.Kind], key)
		return
	}
	if c.objects[key.Kind] == nil {
		c.objects[key.Kind] = map[model.Key]*model.Object{}
	}
	c.objects[key.Kind][key] = o
}

// equal says whether nothing follows from one object in the place of the other, not even a report.
func equal(a, b *model.Object) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || a.Place == b.Place && a.Generation == b.Generation && a.UID == b.UID && a.Same(b)
}

// stages are what a compilation consists of, in order. What the first ones find is used by those below.
var stages = []func(*Compiler, *work){
	(*Compiler).compileNode,
	(*Compiler).compilePorts,
	(*Compiler).claimRoutes,
	(*Compiler).claimHost,
	(*Compiler).claimAttached,
	(*Compiler).claimNodes,
	(*Compiler).claimServices,
	(*Compiler).compileRoutes,
	(*Compiler).compileHostRoutes,
	(*Compiler).compileIdentities,
	(*Compiler).compilePolicies,
	(*Compiler).compileServices,
	(*Compiler).compileEgress,
	(*Compiler).compileComplaints,
	func(c *Compiler, w *work) { c.origins.compile(w.delta) },
}

// work is one compilation: what changed, and what is made of it.
type work struct {
	changed map[string][]model.Key // by kind
	former  self
	whole   bool // the node itself changed: everything that depends on it is looked at
	delta   *api.Delta
	ports   []string               // names of those that were looked at
	looked  map[model.Key]struct{} // objects of kinds that are judged
	born    []*api.Identity        // that the snapshot has from now on
	died    []uint32               // numbers of identities that it has no more
}

// Compile returns what follows from the changes since the last compilation. The epoch is that of the Snapshot if
// anything changed, and greater than those before. It fails only when it is not known which node this is: ErrNoNode;
// the changes are kept until it is.
func (c *Compiler) Compile(epoch uint64) (*Step, error) {
	me, err := c.choose()
	if err != nil {
		return nil, err
	}
	w := &work{changed: map[string][]model.Key{}, former: c.self, whole: c.self != me,
		looked: map[model.Key]struct{}{}}
	for key, was := range c.changed {
		if !equal(was, c.Object(key)) {
			w.changed[key.Kind] = append(w.changed[key.Kind], key)
		}
	}
	c.changed = map[model.Key]*model.Object{} // a cleared map costs as much to walk as when it was full
	c.self = me
	base := c.last
	if base == nil {
		base = &api.Snapshot{Origins: []string{""}}
	}
	w.delta = &api.Delta{Base: base.Epoch, Set: &api.Snapshot{Epoch: epoch}}
	for _, stage := range stages {
		stage(c, w)
	}
	for _, p := range c.pools() {
		p.rest(epoch)
	}
	return c.step(w, base), nil
}

// step makes a Step of finished work.
func (c *Compiler) step(w *work, base *api.Snapshot) *Step {
	w.delta.Order()
	step := &Step{Snapshot: base, Judged: c.judgements(w)}
	if c.last != nil && w.delta.Empty() {
		return step
	}
	next, err := w.delta.Apply(base)
	if err != nil { // the stages and the snapshot disagree about what is in force
		panic(fmt.Sprintf("compile: %v", err))
	}
	step.Snapshot = next
	if c.last != nil {
		step.Delta = w.delta
	}
	c.last = next
	return step
}

// Acked says that the dataplane has taken the epoch: numbers that it and those before it freed may be given out again.
// Until then they are not, since what the dataplane has in force may still have them. Where none of the compiler's
// snapshots was ever sent, that may be said of each as soon as it is compiled: a dataplane with something in force is
// then one to Resume from. The same goes for one that comes with an epoch before the one last acked.
func (c *Compiler) Acked(epoch uint64) {
	for _, p := range c.pools() {
		p.acked(epoch)
	}
}

// pools are those whose numbers the dataplane remembers things by.
func (c *Compiler) pools() []*pool {
	return []*pool{&c.ports.pool, &c.routes.things.pool, &c.identities.things.pool, &c.policies.sets.pool,
		&c.services.pool}
}

// keys are those of the kind that have to be looked at: of objects that changed, and are perhaps gone, or of all.
func (c *Compiler) keys(w *work, kind string) []model.Key {
	keys := slices.Clip(w.changed[kind])
	if !w.whole || c.last == nil { // before the first, all have changed
		return keys
	}
	return slices.AppendSeq(keys, maps.Keys(c.objects[kind]))
}

// Object returns the object with the key, as it is compiled; nil: there is none.
func (c *Compiler) Object(key model.Key) *model.Object { return c.objects[key.Kind][key] }

// Objects says how many objects of each kind the compiler holds.
func (c *Compiler) Objects() map[string]int {
	counts := make(map[string]int, len(c.objects))
	for key, held := range c.withheld.of {
		if held.standIn == nil {
			counts[key.Kind]++
		}
	}
	for kind, held := range c.objects {
		if len(held) > 0 {
			counts[kind] += len(held)
		}
	}
	return counts
}

// Once compiles a whole state once, as epoch 1.
func Once(objects []*model.Object, node Node) (*api.Snapshot, []*model.Error, error) {
	c := New(node)
	c.Replace(objects)
	step, err := c.Compile(1)
	if err != nil {
		return nil, nil, err
	}
	return step.Snapshot, c.Errors(), nil
}
