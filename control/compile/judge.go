// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/model"
)

// Judgement is what became of an object: it is in the snapshot when Error is nil and Gone is not set.
type Judgement struct {
	Object *model.Object
	Error  *model.Error
	// Gone: it was judged before and does not concern the node any more; whatever was said of it is to be taken back.
	// An object that was removed is judged no more, and has no such judgement.
	Gone bool
}

// look notes that an object was looked at.
func (w *work) look(key model.Key) {
	if key.Kind == "Route" || key.Kind == "NodeConfig" {
		w.looked[key] = struct{}{}
	}
}

// judgements are of the objects that were looked at, ordered by key.
func (c *Compiler) judgements(w *work) []Judgement {
	if c.last == nil { // what was removed before Resume is not said again
		maps.DeleteFunc(c.judged, func(key model.Key, _ struct{}) bool { return c.Said(key) == nil })
	}
	var list []Judgement
	for _, key := range slices.SortedFunc(maps.Keys(w.looked), model.Key.Compare) {
		o := c.Object(key)
		_, before := c.judged[key]
		delete(c.judged, key)
		if held := c.withheld.of[key]; held != nil {
			c.judged[key] = struct{}{}
			list = append(list, Judgement{Object: held.object, Error: held.err})
			continue
		}
		switch who, concerned := c.concerned(o); {
		case concerned:
			c.judged[key] = struct{}{}
			list = append(list, Judgement{Object: o, Error: c.routes.errorOf(who)})
		case o != nil && before:
			list = append(list, Judgement{Object: o, Gone: true})
		}
	}
	return list
}

// concerned says whether the object concerns the node, and as whom it claims destinations.
func (c *Compiler) concerned(o *model.Object) (claimant, bool) {
	switch {
	case o == nil:
		return claimant{}, false
	case o.Key.Kind == "Route":
		who := claimant{byObject, o.Key}
		return who, len(c.routes.byOwner[who]) > 0
	}
	return nodeClaimant(c.self.name), o == c.self.object
}

// Errors are what is left out of the last Snapshot because it does not fit the rest, ordered by object and field. What
// else such an object says is in it. The list is not to be changed, and is the same one, to the pointer, until a
// refusal comes, changes or goes; an Error that stands is the same one in each list.
func (c *Compiler) Errors() []*model.Error {
	fronts, unfit := &c.services.frontends, &c.services.unfit
	if !c.ports.judgedAnew && !c.routes.judgedAnew && !c.identities.judgedAnew && !fronts.judgedAnew &&
		!c.complaints.judgedAnew && !unfit.judgedAnew && !c.withheld.judgedAnew {
		return c.errors
	}
	c.ports.judgedAnew, c.routes.judgedAnew, c.identities.judgedAnew = false, false, false
	fronts.judgedAnew, unfit.judgedAnew, c.complaints.judgedAnew, c.withheld.judgedAnew = false, false, false, false
	list := slices.Collect(maps.Values(c.ports.refused))
	list = slices.AppendSeq(list, maps.Values(c.routes.refused))
	list = slices.AppendSeq(list, maps.Values(c.identities.refused))
	list = slices.AppendSeq(list, maps.Values(fronts.refused))
	for _, of := range []map[model.Key][]*model.Error{c.complaints.of, unfit.of} {
		for _, some := range of {
			list = append(list, some...)
		}
	}
	for _, held := range c.withheld.of {
		list = append(list, held.err)
	}
	slices.SortFunc(list, compareErrors)
	if !keep(list, c.errors) {
		c.errors = list
	}
	return c.errors
}

func compareErrors(a, b *model.Error) int {
	return cmp.Or(a.Key.Compare(b.Key), strings.Compare(a.Field, b.Field), strings.Compare(a.Reason, b.Reason))
}

// keep puts those of the former list in the place of those that equal them, and says whether that is all of both. The
// lists are ordered.
func keep(list, former []*model.Error) bool {
	all := len(list) == len(former)
	for i, e := range list {
		for len(former) > 0 && compareErrors(former[0], e) < 0 {
			former = former[1:]
		}
		if len(former) > 0 && *former[0] == *e {
			list[i], former = former[0], former[1:]
			continue
		}
		all = false
	}
	return all
}

// refuse says why the object is left out.
func refuse(o *model.Object, field, format string, args ...any) *model.Error {
	return model.NewError(o.Place, o.Key, field, fmt.Sprintf(format, args...))
}
