// SPDX-License-Identifier: Apache-2.0

package route

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

func genHops(t *rapid.T, label string) []Hop {
	n := rapid.IntRange(1, 20).Draw(t, label)
	hops := make([]Hop, n)
	for i := range hops {
		hops[i] = Hop{Port: packet.PortID(i + 1), Weight: uint16(rapid.IntRange(0, 9).Draw(t, "weight"))}
	}
	return hops
}

func slotsOf(g *Group) map[packet.PortID]int {
	n := make(map[packet.PortID]int)
	for _, s := range g.slots {
		n[g.hops[s].Port]++
	}
	return n
}

func TestSharesFollowWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := NewGroup(Forward, genHops(t, "hops"), nil)
		if len(g.hops) == 1 {
			if g.Select(rapid.Uint32().Draw(t, "hash")) != &g.hops[0] {
				t.Fatal("the only hop was not chosen")
			}
			return
		}
		// Fair is: no slot would be better placed with another hop (the divisor method's own criterion).
		got, sum := slotsOf(g), 0
		for _, from := range g.hops {
			sum += got[from.Port]
			for _, to := range g.hops {
				perFrom := float64(from.weight()) / (float64(got[from.Port]) - 0.5)
				perTo := float64(to.weight()) / (float64(got[to.Port]) + 0.5)
				if got[from.Port] == 0 || got[from.Port] > 1 && perTo > perFrom+1e-9 {
					t.Fatalf("weights %d and %d have %d and %d slots", from.weight(), to.weight(), got[from.Port],
						got[to.Port])
				}
			}
		}
		if sum != len(g.slots) {
			t.Fatalf("%d slots shared out of %d", sum, len(g.slots))
		}
	})
}

// A hop that leaves moves only its own flows.
func TestLeavingHopDisturbsNoOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hops := genHops(t, "hops")
		before := NewGroup(Forward, hops, nil)
		gone := rapid.IntRange(0, len(hops)-1).Draw(t, "gone")
		after := NewGroup(Forward, append(append([]Hop(nil), hops[:gone]...), hops[gone+1:]...), before)
		for range 500 {
			hash := rapid.Uint32().Draw(t, "hash")
			was, is := before.Select(hash), after.Select(hash)
			if was.Port == hops[gone].Port {
				continue
			}
			if is == nil || is.Port != was.Port {
				t.Fatalf("flow %#x moved from port %d, which stayed", hash, was.Port)
			}
		}
	})
}

// Whatever changes, no more flows move than the shares' difference asks for.
func TestChangeMovesNoMoreThanItMust(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := NewGroup(Forward, genHops(t, "before"), nil)
		after := NewGroup(Forward, genHops(t, "after"), before)
		if len(before.hops) == 1 || len(after.hops) == 1 {
			return
		}
		n := max(len(before.slots), len(after.slots))
		moved := 0
		for i := range n {
			mixed := uint32(uint64(i) << 32 / uint64(n))
			if before.hops[before.index(mixed)].Port != after.hops[after.index(mixed)].Port {
				moved++
			}
		}
		must := 0
		was, is := slotsOf(before), slotsOf(after)
		for port, slots := range was {
			slots *= n / len(before.slots)
			must += max(0, slots-is[port]*n/len(after.slots))
		}
		if moved != must {
			t.Fatalf("%d of %d slots moved, %d had to", moved, n, must)
		}
	})
}

func TestManyHops(t *testing.T) {
	hops := make([]Hop, MaxHops)
	for i := range hops {
		hops[i] = Hop{Port: packet.PortID(i + 1), Weight: 65535}
	}
	hops[7].Weight = 1
	g := NewGroup(Forward, hops, nil)
	got := slotsOf(g)
	if len(got) != MaxHops || got[8] != 1 {
		t.Fatalf("%d hops have slots, the light one %d; want %d and 1", len(got), got[8], MaxHops)
	}
}

func TestSelectWithoutHops(t *testing.T) {
	if h := NewGroup(Blackhole, nil, nil).Select(1); h != nil {
		t.Fatalf("a blackhole chose %+v", h)
	}
}

// Hashes that agree in the bits by which a queue was chosen still use all hops evenly.
func TestSelectIsIndependentOfQueueChoice(t *testing.T) {
	hops := make([]Hop, 8)
	for i := range hops {
		hops[i] = Hop{Port: packet.PortID(i + 1)}
	}
	g := NewGroup(Forward, hops, nil)
	count := make(map[packet.PortID]int)
	const flows = 80000
	for i := range uint32(flows) {
		count[g.Select(i*64+3).Port]++
	}
	for port, n := range count {
		if n < flows/8*9/10 || n > flows/8*11/10 {
			t.Errorf("port %d has %d of %d flows, want about %d", port, n, flows, flows/8)
		}
	}
	if len(count) != len(hops) {
		t.Errorf("%d of %d hops used", len(count), len(hops))
	}
}

func TestKindNames(t *testing.T) {
	for k, want := range map[Kind]string{
		Forward: "forward", Local: "local", Blackhole: "blackhole", Unreachable: "unreachable",
		Prohibit: "prohibit", Broadcast: "broadcast", Kind(99): "invalid",
	} {
		if k.String() != want {
			t.Errorf("kind %d is %q, want %q", uint8(k), k, want)
		}
	}
}
