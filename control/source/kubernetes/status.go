// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// The status of our objects, as deploy/crds describes it. A node writes what it made of an object under its own name,
// by server-side apply, so that nodes do not know of each other. An object of one node (its NodeConfig, a Route with
// spec.node) always has that node's word, and a condition to wait for. Of an object for many nodes a node speaks only
// while it refuses it, and only when few have done so already: what 500 nodes refuse alike is not said 500 times, to
// 500 watchers each.

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

// ownStatus is what an object that the API server has says of us.
type ownStatus struct {
	entry      *entry // nil: nothing
	others     int    // nodes that have entries
	node       string // spec.node of a Route
	generation int64
}

// statusOf reads what d says of the node.
func statusOf(d *document, node string) *ownStatus {
	own := &ownStatus{generation: d.Generation}
	var spec struct {
		Spec struct {
			Node any `json:"node"` // what it is was not checked yet
		} `json:"spec"`
	}
	if json.Unmarshal(d.text, &spec) == nil {
		own.node, _ = spec.Spec.Node.(string)
	}
	var status struct {
		Nodes []entry `json:"nodes"`
	}
	if len(d.status) == 0 || json.Unmarshal(d.status, &status) != nil {
		return own // nobody's word, or not one of us
	}
	own.others = len(status.Nodes)
	for i := range status.Nodes {
		if status.Nodes[i].Name == node {
			e := status.Nodes[i]
			own.entry = &e
			own.others--
		}
	}
	return own
}

// word is what is to be said of an object.
type word struct {
	entry *entry // nil: nothing
	alone bool   // the object is this node's only
}

// wordOf words a status that control reports.
func wordOf(node string, epoch uint64, s source.Status) word {
	w := word{alone: alone(s.Object)}
	if s.Applied && !w.alone {
		return w
	}
	w.entry = &entry{Name: node, Applied: metav1.ConditionTrue, Reason: reasonApplied,
		Epoch: int64(epoch), ObservedGeneration: s.Object.Generation}
	if !s.Applied {
		w.entry.Applied, w.entry.Reason = metav1.ConditionFalse, reasonRefused
		w.entry.Message, w.entry.Field = s.Message, s.Field
	}
	return w
}

// refusalOf words what the source itself refuses.
func refusalOf(node string, i *item) word {
	return word{
		alone: i.key.Kind == "NodeConfig" || i.status.node != "",
		entry: &entry{Name: node, Applied: metav1.ConditionFalse, Reason: reasonRefused, Message: i.err.Reason,
			Field: i.err.Field, ObservedGeneration: i.status.generation},
	}
}

// alone says whether an object is one node's.
func alone(o *model.Object) bool {
	switch spec := o.Spec.(type) {
	case *model.NodeConfig:
		return true
	case *model.Route:
		return spec.Node != ""
	}
	return false
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

func patchOf(key model.Key, w word) *patch {
	p := &patch{APIVersion: model.APIVersion, Kind: key.Kind, Metadata: map[string]string{"name": key.Name}}
	if w.entry == nil {
		return p
	}
	p.Status = &statusPart{Nodes: []entry{*w.entry}}
	if w.alone {
		e := w.entry
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
