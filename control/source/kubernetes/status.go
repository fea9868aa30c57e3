// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// The status of our objects, as deploy/crds describes it. A node writes what it made of an object under its own name,
// by server-side apply, so that nodes do not know of each other. An object of one node (its NodeConfig, a Route with
// spec.node) always has that node's word, and a condition to wait for. Of an object for many nodes (the NodeConfig for
// all without their own, a Route without spec.node) a node speaks only while it refuses it, and only when few have done
// so already: what 500 nodes refuse alike is not said 500 times, to 500 watchers each.

// maxRefusals is how many nodes' refusals an object for many nodes has, more or less.
const maxRefusals = 16

const (
	reasonApplied = "Applied"
	reasonRefused = "Refused"
)

// entry is one node's word: an element of status.nodes.
type entry struct {
	Name               string                 `json:"name"`
	Applied            metav1.ConditionStatus `json:"applied"`
	Reason             string                 `json:"reason"`
	Message            string                 `json:"message,omitempty"`
	Field              string                 `json:"field,omitempty"`
	Epoch              int64                  `json:"epoch,omitempty"` // when the word was written
	ObservedGeneration int64                  `json:"observedGeneration,omitempty"`
	LastTransitionTime metav1.Time            `json:"lastTransitionTime"`
}

// same says whether b says nothing else than a: what was true of an earlier epoch is true of a later one.
func (a *entry) same(b *entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Applied == b.Applied && a.Message == b.Message && a.Field == b.Field &&
		a.ObservedGeneration == b.ObservedGeneration
}

// everyone is the NodeConfig of the nodes that have none of their own.
const everyone = "default"

// concern is whom an object concerns.
type concern uint8

const (
	many    concern = iota // nodes, perhaps this one
	own                    // this node alone
	another                // another node alone
)

func (w *statusWriter) concern(kind, name, node string) concern {
	switch {
	case kind == "NodeConfig" && name != everyone:
		node = name
	case kind == "NodeConfig" && name == w.node: // a node may be named so
		node = name
	}
	switch node {
	case "":
		return many
	case w.node:
		return own
	}
	return another
}

// seen is an object as the API server has it.
type seen struct {
	entry      *entry // what it says of us; nil: nothing
	others     int32  // nodes that have entries
	concern    concern
	generation int64
	uid        types.UID
}

// outdated says whether the object says something of us that is of an earlier form, and that nobody may come to say
// anything else of: the object may not concern the node any more.
func (s *seen) outdated() bool {
	return s.concern == many && s.entry != nil && s.entry.ObservedGeneration < s.generation
}

// read reads what d, of the kind, is, and says of the node. The document itself has lost its kind: client-go's decoder
// takes it away.
func (w *statusWriter) read(kind string, d *document) *seen {
	s := &seen{generation: d.Generation, uid: d.UID}
	var spec struct {
		Spec struct {
			Node any `json:"node"` // what it is was not checked yet
		} `json:"spec"`
	}
	if kind == "Route" && json.Unmarshal(d.text, &spec) != nil {
		spec.Spec.Node = nil
	}
	node, _ := spec.Spec.Node.(string)
	s.concern = w.concern(kind, d.Name, node)
	var status struct {
		Nodes []entry `json:"nodes"`
	}
	if len(d.status) == 0 || json.Unmarshal(d.status, &status) != nil {
		return s // nobody's word, or not one of us
	}
	for i := range status.Nodes {
		if status.Nodes[i].Name == w.node {
			e := status.Nodes[i]
			s.entry = &e
		} else {
			s.others++
		}
	}
	return s
}

// wordOf words a status that control reports; nil: nothing is to be said.
func (w *statusWriter) wordOf(epoch uint64, s source.Status, to concern) *entry {
	if s.Gone || s.Applied && to != own {
		return nil
	}
	e := &entry{Name: w.node, Applied: metav1.ConditionTrue, Reason: reasonApplied,
		Epoch: int64(epoch), ObservedGeneration: s.Object.Generation}
	if !s.Applied {
		e.Applied, e.Reason, e.Message, e.Field = metav1.ConditionFalse, reasonRefused, s.Message, s.Field
	}
	return e
}

// refusalOf words what the source itself refuses.
func (w *statusWriter) refusalOf(i *item) *entry {
	return &entry{Name: w.node, Applied: metav1.ConditionFalse, Reason: reasonRefused, Message: i.err.Reason,
		Field: i.err.Field, ObservedGeneration: i.seen.generation}
}

// patch is what is applied: all that the node says of the object. What it said before and is not in it goes.
type patch struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]string `json:"metadata"`
	// Status is nil for nothing: of an empty one the API server makes null, which it then refuses.
	Status *statusPart `json:"status,omitempty"`
}

type statusPart struct {
	Nodes      []entry            `json:"nodes"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// patchOf makes e, or nothing, what the node says of the object.
func patchOf(key model.Key, at seen, e *entry) *patch {
	p := &patch{APIVersion: model.APIVersion, Kind: key.Kind, Metadata: map[string]string{"name": key.Name}}
	if at.uid != "" { // what was judged was this object, and not one that has come in its place
		p.Metadata["uid"] = string(at.uid)
	}
	if e == nil {
		return p
	}
	p.Status = &statusPart{Nodes: []entry{*e}}
	if at.concern == own {
		p.Status.Conditions = []metav1.Condition{{
			Type: "Applied", Status: e.Applied, Reason: e.Reason, Message: joined(e.Field, e.Message),
			ObservedGeneration: e.ObservedGeneration, LastTransitionTime: e.LastTransitionTime,
		}}
	}
	return p
}

func joined(field, message string) string {
	if field == "" {
		return message
	}
	return field + ": " + message
}

// fieldManager is the name under which the node owns what it says: at most 128 bytes, which a node's name may exceed
// (k8s.io/apimachinery/pkg/apis/meta/v1/validation).
func fieldManager(node string) string {
	node = cmp.Or(node, "unnamed")
	name := "viaduct-" + node
	if len(name) <= 128 {
		return name
	}
	h := fnv.New64a()
	h.Write([]byte(node))
	return fmt.Sprintf("%s-%016x", name[:111], h.Sum64())
}
