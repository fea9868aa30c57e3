// SPDX-License-Identifier: Apache-2.0

package push

import (
	"fmt"
	"testing"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

const podA = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nstatus: {podIP: 10.9.0.1}"

// The source is told the epoch that is in force (PREFIX/status/NODE of etcd says it).
func TestPublisherKnowsTheEpoch(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	d.take()
	var reports []source.Report
	eventually(t, "a report", func() bool { reports = append(reports, s.Reports()...); return len(reports) > 0 })
	s.Set(objects(t, podA)...)
	got, _ := d.take()
	eventually(t, "acked", func() bool { return c.status(t).Dataplane.GetEpoch() == got.Epoch })
	reports = append(reports, s.Reports()...)
	if last := reports[len(reports)-1].Epoch; last != got.Epoch {
		t.Errorf("epoch %d is in force, and the source was told last of %d", got.Epoch, last)
	}
}

// The same where the node has no NodeConfig.
func TestPublisherKnowsTheEpochWithoutNodeConfig(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, "apiVersion: v1\nkind: Node\nmetadata: {name: lab}"))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	got, _ := d.take()
	eventually(t, "acked", func() bool { return c.status(t).Dataplane.GetEpoch() == got.Epoch })
	if len(s.Reports()) == 0 {
		t.Errorf("epoch %d is in force, and the source was told of none", got.Epoch)
	}
}

// What was judged and is gone does not stay in memory while no dataplane follows.
func TestJudgedIsBounded(t *testing.T) {
	var s memory.Source
	c := New(Config{Source: &s, Node: compile.Node{Name: "lab"}, Logger: zap.NewNop()})
	p := newPusher(c)
	p.inStep = true
	c.intake.put(eventOf(true, objects(t, node("a")), nil))
	p.turn()
	for i := range 1000 {
		name := fmt.Sprintf("r%d", i)
		c.intake.put(eventOf(false, objects(t, blackhole(name, "10.0.0.0/8")), nil))
		p.turn()
		c.intake.put(eventOf(false, nil, []model.Key{key(name)}))
		p.turn()
	}
	if n := len(p.statuses.judged); n > 2*sweepAt {
		t.Errorf("one object is held, and %d judgements of objects that are gone", n)
	}
}

func eventOf(whole bool, set []*model.Object, removed []model.Key) source.Event {
	return source.Event{Whole: whole, Set: set, Removed: removed}
}
