// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

func (r *rig) untracked() (list []Untracked) {
	for u := range r.tab.Untracked() {
		list = append(list, u)
	}
	return list
}

// Both directions of a flow that nobody tracks are one record, which lives while it is used, and survives a restart.
func TestUntracked(t *testing.T) {
	r := newRig(t, 16)
	f := plain(1)
	there, back := r.way(0), r.way(1)
	e, answer := f.Near, f.Near.Reverse()
	for range 2 { // again it is no other flow
		if !r.tab.EnterUntracked(&e, f.Proto, 3, there) || !r.tab.EnterUntracked(&answer, f.Proto, 3, back) {
			t.Fatal("it was not entered")
		}
	}
	list := r.untracked()
	if len(list) != 1 || list[0].Flow.Near != e || list[0].Flow.Generation != 3 || list[0].Ways != [2]Way{*there, *back} {
		t.Fatalf("there are %+v", list)
	}
	r.sound()
	r.restart()
	if list := r.untracked(); len(list) != 1 || r.tab.Stats().Untracked != 1 {
		t.Fatalf("after a restart there are %+v", list)
	}
	r.now += int64(50 * time.Second)
	r.tab.Beat()
	for d := range r.tab.records[0].way {
		for i := range r.tab.records {
			if x := &r.tab.records[i].way[d]; x.from != 0 {
				x.used = uint32(r.now >> tickShift)
			}
		}
	}
	r.now += int64(50 * time.Second)
	r.tab.Beat()
	if len(r.untracked()) != 1 {
		t.Error("a flow that was used within a minute is gone")
	}
	r.now += int64(20 * time.Second)
	r.tab.Beat()
	if len(r.untracked()) != 0 || r.tab.Stats().Records != 0 || r.tab.Stats().Untracked != 0 {
		t.Error("a flow that was not used for a minute is there")
	}
	r.sound()
}

// What somebody tracks stays his.
func TestUntrackedLeavesTracked(t *testing.T) {
	r := newRig(t, 16)
	f := plain(1)
	ref := r.enter(0, f, 0)
	if r.tab.EnterUntracked(&f.Near, f.Proto, 3, r.way(0)) {
		t.Error("a flow that is tracked was entered as one that is not")
	}
	back := f.Near.Reverse()
	if !r.tab.EnterUntracked(&back, f.Proto, 3, r.way(1)) {
		t.Fatal("the other direction was not entered")
	}
	if _, ways, ok := r.tab.Flow(ref); !ok || ways[1] != (Way{}) {
		t.Error("the record that is tracked has got a direction")
	}
	if r.tab.EnterUntracked(&back, packet.ProtoTCP, 3, &Way{In: r.way(1).In, Out: 9999}) {
		t.Error("a way to no egress was entered")
	}
	r.sound()
}

// Of records that make way those that nobody tracks are told to nobody.
func TestUntrackedMakeWay(t *testing.T) {
	r := newRig(t, 8)
	for n := range 8 {
		e := plain(n).Near
		if !r.tab.EnterUntracked(&e, packet.ProtoUDP, 0, r.way(0)) {
			t.Fatal("no room")
		}
	}
	r.now += int64(minUnused) + int64(time.Second)
	r.tab.Beat()
	e := plain(99).Near
	if !r.tab.EnterUntracked(&e, packet.ProtoUDP, 0, r.way(0)) {
		t.Error("none made way")
	}
	if ref, _ := r.tab.NextEvicted(); ref != 0 || r.tab.Stats().Evicted != 1 {
		t.Errorf("%d is to be told of, %+v", ref, r.tab.Stats())
	}
	r.sound()
}
