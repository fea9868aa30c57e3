// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
)

// TestPairOpenings: what is noted is read, of several ports, and what is forgotten is not there any more; the next
// process finds it too.
func TestPairOpenings(t *testing.T) {
	dir := filepath.Join(bpffs(t), "flows")
	f := loadFlows(t, FlowTableOptions{Records: 16, PinDir: dir})
	if list, err := f.PairOpenings(); len(list) != 0 || err != nil {
		t.Fatalf("of an empty table: %v, %v", list, err)
	}
	if err := f.NotePairOpenings(nil); err != nil {
		t.Fatal(err)
	}
	const many = 4000
	want := map[PairOpening]bool{}
	var list []PairOpening
	for i := range many {
		o := PairOpening{
			Src: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Dst: netip.MustParseAddr("10.0.0.1"),
			SrcPort: uint16(40000 + i), DstPort: 80, Port: uint32(i%7 + 1), Used: uint32(i),
		}
		if i%2 == 1 {
			o.Src, o.Dst = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
		}
		want[o] = true
		list = append(list, o)
	}
	if err := f.NotePairOpenings(list); err != nil {
		t.Fatal(err)
	}
	expectOpenings(t, f, want)

	gone := slices.Concat(list[:1000], list[:10], []PairOpening{{Src: list[0].Dst, Dst: list[0].Src}}, list[2000:2500])
	for _, o := range gone {
		delete(want, o)
	}
	if err := f.ForgetPairOpenings(gone); err != nil {
		t.Fatal(err)
	}
	expectOpenings(t, f, want)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = loadFlows(t, FlowTableOptions{Records: 16, PinDir: dir})
	expectOpenings(t, f, want)
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
}

func expectOpenings(t *testing.T, f *FlowTable, want map[PairOpening]bool) {
	t.Helper()
	list, err := f.PairOpenings()
	if err != nil {
		t.Fatal(err)
	}
	got := map[PairOpening]bool{}
	for _, o := range list {
		if !want[o] {
			t.Fatalf("%v was not noted", o)
		}
		got[o] = true
	}
	if len(got) != len(want) {
		t.Errorf("%d are there, want %d", len(got), len(want))
	}
}
