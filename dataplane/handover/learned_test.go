// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
)

func someLearned() *Learned {
	return &Learned{Boot: [16]byte{1, 2, 15: 9}, Ports: []LearnedPort{
		{ID: 7, IfIndex: 12, Name: "shop/web", Names: []names.Learned{
			{Addr: packet.Addr4(0x0a000001), Pattern: 1 << 63, Expires: 77},
			{Addr: packet.Addr{Hi: 1, Lo: 2}, Pattern: 3, Expires: -4},
		}, Neighbors: []Neighbor{}},
		{ID: 1 << 23, IfIndex: 0, Name: "", Names: []names.Learned{}, Neighbors: []Neighbor{
			{Port: 1 << 23, Addr: packet.Addr4(0xc0000202), MAC: packet.MAC{2, 0, 0, 0, 0, 1}},
		}},
	}}
}

func TestLearned(t *testing.T) {
	want := someLearned()
	b := want.Append(nil)
	got, err := ReadLearned(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for n := range b {
		cut, err := ReadLearned(b[:n])
		if err == nil && (n < len(want.Boot) || !bytes.Equal(cut.Append(nil), b[:n])) {
			t.Errorf("%d bytes of %d are taken for whole", n, len(b))
		}
	}
	if _, err := ReadLearned(append(b, 0)); err == nil {
		t.Error("a byte too many is nothing")
	}
	long := &Learned{Ports: []LearnedPort{{Name: string(make([]byte, 1<<16))}}}
	if got, err := ReadLearned(long.Append(nil)); err != nil || len(got.Ports) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// FuzzLearned: whatever is in the file, what is read of it is what it says, byte by byte.
func FuzzLearned(f *testing.F) {
	f.Add(someLearned().Append(nil))
	f.Add(make([]byte, 34))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ReadLearned(b)
		if err == nil && !bytes.Equal(l.Append(nil), b) {
			t.Fatalf("of %d bytes %d are left", len(b), len(l.Append(nil)))
		}
	})
}
