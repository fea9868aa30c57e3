// SPDX-License-Identifier: Apache-2.0

package names

import (
	"slices"
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// What one store has learned another one knows, for the same patterns wherever they are listed, and as long.
func TestRestore(t *testing.T) {
	s := NewStore(4, 64)
	before := s.Changes()
	s.Learn(patternsOf("a.b", "*.b"), 3, zone(t, nil, "? a.b A", "a.b A 10.0.0.1 60", "a.b A 10.0.0.2 60"), 1)
	if s.Changes() == before {
		t.Error("nothing says that something was learned")
	}
	if !slices.Equal(s.Ports(), []packet.PortID{3}) || len(s.Learned(3)) != 4 || s.Learned(4) != nil {
		t.Errorf("ports %v learned %v", s.Ports(), s.Learned(3))
	}
	other := NewStore(4, 64)
	other.Restore(1, s.Learned(3))
	p := patternsOf("c.d", "*.b", "a.b")
	for _, a := range []string{"10.0.0.1", "10.0.0.2"} {
		if got := other.setsOf(p, a, 1, false); !slices.Equal(got, []uint32{2, 3}) {
			t.Errorf("%s is in %v", a, got)
		}
		expired := s.Learned(3)[0].Expires
		if got := other.setsOf(p, a, expired, false); got != nil {
			t.Errorf("%s is in %v when it has expired", a, got)
		}
		if got := other.setsOf(p, a, expired, true); len(got) != 2 {
			t.Errorf("%s is in %v for flows that began before", a, got)
		}
	}
	other.Restore(2, []Learned{{packet.Addr4(9), 1, -5}}) // expired before the clock began
	if list := other.Learned(2); len(list) != 1 || list[0].Expires != 1 {
		t.Errorf("%v", list)
	}
}

// A pattern's number is in files: it does not change.
func TestPatternNumbers(t *testing.T) {
	for text, want := range map[string]uint64{
		"www.example.com": 0x80fc0fb9266db7b8, "*.example.com": 0x47287a8f16ec75e6,
	} {
		if got := numberOf(text); got != want {
			t.Errorf("%s: %#x, want %#x", text, got, want)
		}
	}
}
