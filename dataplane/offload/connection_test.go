// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// youngFlow is the n-th flow as its SYN has been sent on, and its ways.
func youngFlow(n int, answered bool) (Flow, [2]Way) {
	f := plain(2 * n)
	f.Proto, f.Whole = 6, true
	f.Young = Young{Is: true, Expects: 101 + uint32(n), Answered: answered}
	if answered {
		f.Scaled, f.Scale = true, 7
	}
	return f, [2]Way{{In: portA, Out: portB, MTU: 1500}, {In: portB, Out: portA, MTU: 1500}}
}

// A young record is what was entered, before and behind a restart, until it is grown.
func TestYoung(t *testing.T) {
	for _, answered := range []bool{false, true} {
		r := newRig(t, 64)
		f, ways := youngFlow(0, answered)
		ref := r.tab.EnterYoung(&f, &ways)
		if ref == 0 || r.tab.HasYoung() == answered {
			t.Fatalf("entered %d, of which one waits: %v", ref, r.tab.HasYoung())
		}
		same := func() {
			t.Helper()
			for is := range r.tab.All() {
				ref = is
			}
			got, gotWays, ok := r.tab.Flow(ref)
			if !ok || got != f || gotWays != ways {
				t.Errorf("%v: entered\n%+v %+v, got\n%+v %+v", ok, f, ways, got, gotWays)
			}
		}
		same()
		r.restart()
		if r.tab.HasYoung() == answered {
			t.Error("who has waited does not wait any more, or the other way round")
		}
		same()
		r.tab.Grown(ref)
		r.tab.Grown(ref)
		f.Young = Young{}
		same()
		if r.tab.HasYoung() {
			t.Error("a grown record waits")
		}
		r.tab.Remove(ref)
	}
}

// Flows that nobody has answered have a share of the table; those that are answered have all of it. Removed, they have
// none.
func TestYoungAreFew(t *testing.T) {
	r := newRig(t, 64)
	var refs []Ref
	for i := range 64 {
		f, ways := youngFlow(i, false)
		if ref := r.tab.EnterYoung(&f, &ways); ref != 0 {
			refs = append(refs, ref)
		}
	}
	if len(refs) != 64/youngShare {
		t.Errorf("%d flows without an answer are in a table of 64", len(refs))
	}
	f, ways := youngFlow(100, true)
	if r.tab.EnterYoung(&f, &ways) == 0 {
		t.Error("a flow that is answered is not")
	}
	r.tab.Remove(refs[0])
	f, ways = youngFlow(101, false)
	if r.tab.EnterYoung(&f, &ways) == 0 {
		t.Error("one that was removed still counts")
	}
}

// Where all records are taken one makes way that has waited for an answer for a second.
func TestYoungMakeWay(t *testing.T) {
	r := newRig(t, 16)
	f, ways := youngFlow(0, false)
	waits := r.tab.EnterYoung(&f, &ways)
	for i := 1; i < 16; i++ {
		f, ways = youngFlow(i, true)
		if r.tab.EnterYoung(&f, &ways) == 0 {
			t.Fatal("no room")
		}
	}
	f, ways = youngFlow(20, true)
	enter := func() Ref { return max(r.tab.EnterYoung(&f, &ways), r.tab.EnterYoung(&f, &ways)) } // the hand looks at 8
	if enter() != 0 {
		t.Fatal("one made way at once")
	}
	r.now += int64(1100 * time.Millisecond)
	r.tab.Beat()
	if enter() == 0 {
		t.Fatal("none made way")
	}
	if gone, _ := r.tab.NextEvicted(); gone != waits {
		t.Errorf("%x made way, want %x", gone, waits)
	}
}

// News are taken once, of records that are there.
func TestTakeNews(t *testing.T) {
	r := newRig(t, 200)
	var refs []Ref
	for i := range 150 {
		refs = append(refs, r.enter(0, plain(i), 0))
	}
	told := []Ref{refs[0], refs[63], refs[64], refs[149]}
	for _, ref := range append(told, refs[100]) {
		n := ref.number() - 1
		atomic.OrUint64(&r.tab.news[n/newsOfWord], 1<<(n%newsOfWord))
	}
	r.tab.Remove(refs[100])
	got := slices.Collect(r.tab.TakeNews())
	slices.Sort(got)
	slices.Sort(told)
	if !slices.Equal(got, told) {
		t.Errorf("news of %x, want %x", got, told)
	}
	if again := slices.Collect(r.tab.TakeNews()); len(again) != 0 {
		t.Errorf("news of %x twice", again)
	}
}
