// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"

	"github.com/viaduct-net/viaduct/control/model"
)

// One object that the dataplane does not take would keep all others from coming into force: it takes a snapshot whole,
// or not at all. So what it names is withheld from the snapshot until it changes. What only adds is left out. A policy
// is not, as what it denies would be open then: its last good form stays, or else its subjects are isolated.

// withheld are the objects that are not compiled as the source says them.
type withheld struct {
	of map[model.Key]*withholding
	// good are policies in the forms in which the dataplane has last had them in force, and changed those that may have
	// others since.
	good       map[model.Key]*model.Object
	changed    map[model.Key]struct{}
	judgedAnew bool // of may say something else than when this was last unset
}

// withholding is why an object is withheld, and what stands in its place.
type withholding struct {
	object   *model.Object // as the source says it
	standIn  *model.Object // that is compiled in its place; nil: nothing
	isolates bool          // standIn is no form that the object had
	err      *model.Error
}

func newWithheld() withheld {
	return withheld{
		of: map[model.Key]*withholding{}, good: map[model.Key]*model.Object{}, changed: map[model.Key]struct{}{},
	}
}

// Withhold has the object with the key, which the dataplane refuses for the reason, not be compiled any more until it
// changes, or Retry. It returns false where that cannot be: there is no such object, it was withheld already, or
// something would be open without it that is not meant to be.
func (c *Compiler) Withhold(key model.Key, field, reason string) bool {
	h := &c.withheld
	said, was := c.Said(key), h.of[key]
	if said == nil {
		return false
	}
	standIn, isolates, what := c.standInFor(said, was)
	if what == "" {
		return false
	}
	err := refuse(said, field, "%s", fmt.Sprintf("the dataplane refuses it: %s; %s until it changes", reason, what))
	h.of[key] = &withholding{said, standIn, isolates, err}
	h.judgedAnew = true
	c.enter(key, standIn)
	return true
}

// standInFor is what is compiled in the place of an object that was refused, or, where it was withheld before, whose
// stand-in was. what says so; empty: there is nothing.
func (c *Compiler) standInFor(
	said *model.Object, was *withholding,
) (standIn *model.Object, isolates bool, what string) {
	switch spec := said.Spec.(type) {
	case *model.Service, *model.Route:
		if was == nil {
			return nil, false, "it is left out"
		}
	case *model.Namespace:
		if was == nil && len(spec.Egress) > 0 { // its labels stay: policies go by them
			o, bare := *said, *spec
			bare.Egress, o.Spec = nil, &bare
			return &o, false, "its egress addresses are left out"
		}
	case *model.Policy:
		good := c.withheld.good[said.Key]
		switch {
		case was == nil && good != nil && !equal(good, said):
			return good, false, "its last good form stays in force"
		case was == nil || !was.isolates:
			if standIn = isolating(said, spec); standIn == nil {
				return nil, true, "it is left out, as it denies nothing,"
			}
			return standIn, true, "its subjects are isolated in the directions in which it denies"
		}
	}
	return nil, false, ""
}

// isolating is a policy that denies its subjects everything in the directions in which spec denies anything, or leads
// past rules that may; nil: there are none.
func isolating(said *model.Object, spec *model.Policy) *model.Object {
	if spec.Staged {
		return nil
	}
	shut := *spec
	shut.Rules = nil
	for _, egress := range []bool{false, true} {
		for _, rule := range spec.Rules {
			if rule.Egress == egress && rule.Action != model.Allow {
				shut.Rules = append(shut.Rules, model.PolicyRule{
					Name: rule.Name + " (withheld)", Egress: egress, Action: model.Deny, Any: true,
				})
				break
			}
		}
	}
	if len(shut.Rules) == 0 && !shut.Ingress && !shut.Egress {
		return nil
	}
	o := *said
	o.Spec = &shut
	return &o
}

// Said returns the object with the key as the source says it, withheld or not; nil: there is none.
func (c *Compiler) Said(key model.Key) *model.Object {
	if held := c.withheld.of[key]; held != nil {
		return held.object
	}
	return c.Object(key)
}

// Withheld says why the object with the key is withheld; nil: it is not.
func (c *Compiler) Withheld(key model.Key) *model.Error {
	if held := c.withheld.of[key]; held != nil {
		return held.err
	}
	return nil
}

// Retry has what is withheld compiled as it is said.
func (c *Compiler) Retry() {
	for key, held := range c.withheld.of {
		c.withheld.drop(key)
		c.enter(key, held.object)
	}
}

// InForce says that the dataplane has in force what was compiled last.
func (c *Compiler) InForce() {
	h := &c.withheld
	for key := range h.changed {
		o := c.Object(key)
		switch held := h.of[key]; {
		case held != nil && held.isolates: // it may have a good form yet
		case o == nil:
			delete(h.good, key)
		default:
			h.good[key] = o
		}
	}
	h.changed = map[model.Key]struct{}{} // a cleared map costs as much to walk as when it was full
}

// drop forgets that the object with the key was withheld.
func (h *withheld) drop(key model.Key) {
	delete(h.of, key)
	h.judgedAnew = true
}

// note takes note of an object that changed.
func (h *withheld) note(key model.Key) {
	if key.Kind == "NetworkPolicy" || key.Kind == "ClusterNetworkPolicy" {
		h.changed[key] = struct{}{}
	}
}
