// SPDX-License-Identifier: Apache-2.0

package fragment

import (
	"testing"

	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// end is the last piece of a datagram of a, b and itself.
var end = piece{32, 40, false}

var translated = Addresses{packet.Addr4(0x0a000001), packet.Addr4(0x0a000002)}

// Later fragments take the addresses of the first, whether they came before or behind it, at once or judged again.
func TestTranslated(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		r := newRig(t, limits{})
		of := func(id uint32, a piece) *packet.Packet { return craft(t, v6, 1, id, a) }
		if _, reason := r.Enter(of(7, b)); reason != verdict.WaitingForFragment || r.Translated() != (Addresses{}) {
			t.Errorf("before the first: %v, %v", reason, r.Translated())
		}
		n, _ := r.Enter(of(7, a))
		r.JudgeTranslated(n, on, translated)
		if _, reason := r.Again(of(7, b)); reason != on || r.Translated() != translated {
			t.Errorf("one that waited: %v, %v", reason, r.Translated())
		}
		if _, reason := r.Enter(of(7, end)); reason != on || r.Translated() != translated {
			t.Errorf("the last: %v, %v", reason, r.Translated())
		}
		if _, reason := r.Again(of(7, end)); reason != on || r.Translated() != translated {
			t.Errorf("the last, again: %v, %v", reason, r.Translated())
		}
		other := Addresses{translated.Dst, translated.Src}
		if n, reason := r.Again(of(7, a)); n == 0 || reason != on || r.Translated() != (Addresses{}) {
			t.Errorf("the first, again: %d, %v, %v", n, reason, r.Translated())
		} else {
			r.JudgeAgain(n, on, other)
		}
		if r.Again(of(7, end)); r.Translated() != other {
			t.Errorf("the last, the first translated to others since: %v", r.Translated())
		}
		if _, reason := r.Enter(of(8, b)); reason != verdict.WaitingForFragment || r.Translated() != (Addresses{}) {
			t.Errorf("of another datagram: %v, %v", reason, r.Translated())
		}
	}
}

// A datagram of which all has come leaves its identification to the next.
func TestTranslatedIdentificationAgain(t *testing.T) {
	r := newRig(t, limits{})
	for range 3 {
		for _, a := range []piece{a, b, end} {
			n, reason := r.Enter(craft(t, false, 1, 7, a))
			if reason != on {
				t.Fatalf("%+v: %v", a, reason)
			}
			if a.from == 0 {
				r.JudgeTranslated(n, on, translated)
			}
		}
	}
	if r.inUse != 1 {
		t.Errorf("%d datagrams are known", r.inUse)
	}
	r.Advance(1e12 + 2*keepTime)
	if r.inUse != 0 {
		t.Errorf("%d datagrams are known after a time", r.inUse)
	}
}
