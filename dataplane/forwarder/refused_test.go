// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// A refused snapshot leaves the neighbours of the ports in force.
func TestRefusedSnapshotKeepsNeighbors(t *testing.T) {
	s := newSite(t, Config{})
	s.must(s.apply(s.snapshot()))
	s.must(s.echo("10.2.0.2:7000", 1<<10))
	s.must(s.lab.Veth(netlab.End{In: s.left, Device: "x0"}, netlab.End{In: s.middle, Device: "x0"}))
	bad := s.snapshot()
	bad.Ports = append(bad.Ports[:1], &api.Port{Id: 3, Name: "x", Device: "x0", Queues: []uint32{9}})
	before := len(s.f.NeighborList("right").Neighbors)
	if err := s.apply(bad); err == nil {
		t.Fatal("taken")
	}
	if after := len(s.f.NeighborList("right").Neighbors); after != before || before == 0 {
		t.Errorf("%d neighbours, then %d", before, after)
	}
}

// What is refused is asked for again when its devices change: not for what was done to refuse it, nor for others'.
func TestRefusedSnapshotIsAskedForAgain(t *testing.T) {
	changed := make(chan struct{}, 1000)
	s := newSite(t, Config{Changed: func() { changed <- struct{}{} }})
	for _, device := range []string{"x0", "y0"} {
		s.must(s.lab.Veth(netlab.End{In: s.left, Device: device}, netlab.End{In: s.middle, Device: device}))
	}
	setMTU := func(device string, mtu int) {
		link, err := s.middle.Links().LinkByName(device)
		s.must(err)
		s.must(s.middle.Links().LinkSetMTU(link, mtu))
	}
	s.must(s.apply(s.snapshot()))
	s.follow()
	bad := s.snapshot()
	bad.Ports = append(bad.Ports[:1], &api.Port{Id: 3, Name: "x", Device: "x0"}, &api.Port{Id: 4, Name: "y", Device: "y0"})
	defer s.occupy("y0")()
	for i := range 5 { // each opens x0 and closes it
		if err := s.apply(bad); err == nil {
			t.Fatal("taken")
		}
		setMTU("r0", 1300+i) // which the refused snapshot does not name; that it is seen shows that all before it is
		s.eventually("the right port's MTU", func() bool { return s.f.Ports("right").Ports[0].Mtu == uint32(1300+i) })
	}
	if n := len(changed); n > 0 {
		t.Errorf("asked for %d times though nothing changed", n)
	}
	setMTU("x0", 1300)
	<-changed
}

// A device that Apply opens is not said to be absent any more.
func TestAbsentDeviceIsOpenedByApply(t *testing.T) {
	s := newSite(t, Config{})
	r0, err := s.middle.Links().LinkByName("r0")
	s.must(err)
	s.must(s.middle.Links().LinkDel(r0))
	s.must(s.middle.Do(func() error { return s.f.Apply(t.Context(), s.snapshot()) }))
	if st := s.f.Status(); len(st.Degraded) != 1 {
		t.Errorf("degraded: %v", st.Degraded)
	}
	if c := s.f.Closed(); len(c) != 1 || c[0].Port != 2 || !strings.Contains(c[0].Reason, "r0 is not there") {
		t.Errorf("closed: %v", c)
	}
	s.wire(s.right, "r0", "10.2.0.2/24", "fd00:2::2/64")
	s.must(s.apply(s.snapshot()))
	s.must(s.echo("10.2.0.2:7000", 1<<10))
	if c := s.f.Closed(); len(c) != 0 {
		t.Errorf("closed: %v", c)
	}
	if st := s.f.Status(); len(st.Degraded) != 0 {
		t.Errorf("degraded: %v", st.Degraded)
	}
}
