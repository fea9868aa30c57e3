// SPDX-License-Identifier: Apache-2.0

package push

import (
	"maps"
	"strings"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
)

// statuses says back to the source what became of its objects: what the compiler judged is said once the dataplane
// has it in force.
type statuses struct {
	publisher source.Publisher // nil: nobody wants to know
	compiler  *compile.Compiler
	judged    map[model.Key]compile.Judgement // and not said yet
	live      int                             // of them at the last look
	said      uint64                          // epoch of the last report
}

func newStatuses(from source.Source, c *compile.Compiler) statuses {
	publisher, _ := from.(source.Publisher)
	return statuses{publisher: publisher, compiler: c, judged: map[model.Key]compile.Judgement{}}
}

// note takes judgements of a compilation that knows no dataplane, or one that has it to come. What is gone since is
// forgotten: while no dataplane acks there may be many of those.
func (s *statuses) note(judged []compile.Judgement) {
	if s.publisher == nil {
		return
	}
	for _, j := range judged {
		s.judged[j.Object.Key] = j
	}
	if len(s.judged) > 2*s.live+sweepAt {
		maps.DeleteFunc(s.judged, func(key model.Key, j compile.Judgement) bool { return s.compiler.Said(key) != j.Object })
		s.live = len(s.judged)
	}
}

// sweepAt is as many judgements as are never worth a look at whether their objects are gone.
const sweepAt = 64

// applied says what stands in the snapshot that is in force, and what was left out of it.
func (s *statuses) applied(inForce *api.Snapshot) {
	if s.publisher == nil || len(s.judged) == 0 && s.said == inForce.GetEpoch() {
		return
	}
	s.said = inForce.GetEpoch()
	r := source.Report{Node: inForce.GetNode().GetName(), Epoch: inForce.GetEpoch()}
	for key, j := range s.judged {
		if now := s.compiler.Said(key); now != j.Object && !(j.Gone && now == nil) {
			continue // it is another one since, or none
		}
		status := source.Status{Object: j.Object, Applied: j.Error == nil && !j.Gone, Gone: j.Gone}
		if j.Error != nil {
			status.Field, status.Message = j.Error.Field, j.Error.Reason
		}
		r.Statuses = append(r.Statuses, status)
	}
	clear(s.judged)
	s.live = 0
	s.publisher.Publish(r)
}

// refused says which object is why the dataplane refused a snapshot. It is said again once a snapshot is in force.
func (s *statuses) refused(snapshot *api.Snapshot, inForce uint64, nack *api.Nack) {
	o := s.compiler.Said(keyOf(nack.Object))
	if s.publisher == nil || o == nil {
		return
	}
	if _, noted := s.judged[o.Key]; !noted {
		s.judged[o.Key] = compile.Judgement{Object: o, Error: s.compiler.Withheld(o.Key)}
	}
	s.publisher.Publish(source.Report{
		Node: snapshot.GetNode().GetName(), Epoch: inForce,
		Statuses: []source.Status{{Object: o, Field: nack.Field, Message: nack.Reason}},
	})
}

// keyOf reads the key out of an origin as Object.Origin writes it: "Route a (routes.yaml:12)".
func keyOf(origin string) model.Key {
	text, _, _ := strings.Cut(origin, " (")
	kind, name, _ := strings.Cut(text, " ")
	if namespace, rest, found := strings.Cut(name, "/"); found {
		return model.Key{Kind: kind, Namespace: namespace, Name: rest}
	}
	return model.Key{Kind: kind, Name: name}
}
