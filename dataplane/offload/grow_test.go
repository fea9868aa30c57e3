// SPDX-License-Identifier: Apache-2.0

package offload

import (
	"math/rand/v2"
	"testing"
)

// seen says whether a hook that has read some mask finds a slot.
func (t *Table) seen(hash, slot uint64, mask uint32) bool {
	for _, b := range placesOf(hash, mask) {
		for _, s := range t.buckets[b] {
			if s == slot {
				return true
			}
		}
	}
	return false
}

// TestIndexGrows enters and removes flows while the index doubles several times. After each step a hook finds all of
// them, and no two things are in one place.
func TestIndexGrows(t *testing.T) {
	r := newRig(t, 1<<14)
	random := rand.New(rand.NewPCG(1, 2))
	refs := make(map[Ref]Flow)
	masks := make(map[uint32]bool)
	check := func() {
		t.Helper()
		r.sound()
		for ref, f := range refs {
			hash := r.tab.control.hash(&f.Near, f.Proto, portA)
			if !r.tab.seen(hash, slotOf(hash, 0, ref.number()), r.tab.control.bucketMask) {
				t.Fatalf("%+v is not found", f)
			}
		}
	}
	all := flows(1 << 14)
	for n, f := range all {
		before := r.tab.control.bucketMask
		ref := r.enter(0, f, 0)
		r.enter(ref, f, 1)
		refs[ref] = f
		masks[r.tab.control.bucketMask] = true
		if random.IntN(4) == 0 {
			for old := range refs {
				r.tab.Remove(old)
				delete(refs, old)
				break
			}
		}
		if before != r.tab.control.bucketMask || n%1000 == 0 || r.tab.growth.from != 0 && n%100 == 0 {
			check()
		}
	}
	check()
	if len(masks) != 4 { // of 1024 to 8192 buckets
		t.Errorf("the index had masks %v", masks)
	}
	for ref := range refs {
		r.tab.Remove(ref)
		delete(refs, ref)
	}
	check()
}

// TestKilledWhileGrowing: whoever takes over an index that was about to grow has all flows, once.
func TestKilledWhileGrowing(t *testing.T) {
	r := newRig(t, 1<<13)
	all := flows(1 << 13)
	type moment struct {
		from   uint32
		copied bool
	}
	killed := map[moment]bool{} // once in either half of what growing is
	for n, f := range all {
		r.enter(r.enter(0, f, 0), f, 1)
		g := r.tab.growth
		at := moment{g.from, g.copied}
		if g.from == 0 || g.at < g.from/2 || killed[at] {
			continue
		}
		killed[at] = true
		r.restart()
		r.sound()
		if st := r.tab.Stats(); st.Records != uint32(n+1) {
			t.Fatalf("%d of %d flows are left", st.Records, n+1)
		}
		for _, f := range all[:n+1] {
			if ref, _ := r.tab.Find(f.Near, f.Proto, portA); ref == 0 {
				t.Fatalf("%+v is not found", f)
			}
		}
	}
	if len(killed) != 4 { // of 1024 to 4096 buckets
		t.Errorf("killed %v", killed)
	}
}

// TestFirstPlace: in a table that is full nearly all is where hooks look first, and nothing is refused for want of a
// place.
func TestFirstPlace(t *testing.T) {
	r := newRig(t, 1<<13)
	for _, f := range flows(1 << 13) {
		r.enter(r.enter(0, f, 0), f, 1)
	}
	first := 0
	for b := range r.tab.control.bucketMask + 1 {
		for i, s := range r.tab.buckets[b] {
			if s != 0 && !r.tab.isLeftOver(b, i) && placesOf(r.tab.hashOf(s), r.tab.control.bucketMask)[0] == b {
				first++
			}
		}
	}
	if all := r.tab.slots; all != 1<<14 || first < all*9/10 {
		t.Errorf("%d of %d slots are where hooks look first", first, all)
	}
}
