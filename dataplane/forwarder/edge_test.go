// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// A refused snapshot leaves the static neighbours as they were, too.
func TestRefusedSnapshotKeepsStaticNeighbors(t *testing.T) {
	s := newSite(t, Config{})
	one := s.snapshot()
	one.Ports = one.Ports[:1]
	one.Neighbors = []*api.Neighbor{
		{Port: 1, Address: netip.MustParseAddr("10.1.0.9").AsSlice(), Mac: []byte{2, 0, 0, 0, 0, 9}},
	}
	s.must(s.apply(one))
	bad := s.snapshot()
	bad.Ports[1].Queues = []uint32{99}
	if err := s.apply(bad); err == nil {
		t.Fatal("a port with a queue that is not there is taken")
	}
	for _, n := range s.f.NeighborList("left").Neighbors {
		if n.Address == "10.1.0.9" && n.State == "permanent" {
			return
		}
	}
	t.Errorf("the static neighbour is gone: %v", s.f.NeighborList("left"))
}

// A context that ends during Apply leaves nothing that Close does not find.
func TestApplyIsNotInterrupted(t *testing.T) {
	s := newSite(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.middle.Do(func() error { return s.f.Apply(ctx, s.snapshot()) })
	s.must(s.f.Close())
	s.nothingAttached()
}

// rewire makes a host's device again, with that many queues.
func (s *site) rewire(host *netlab.Namespace, device, address string, queues int) {
	s.t.Helper()
	if link, err := s.middle.Links().LinkByName(device); err == nil {
		s.must(s.middle.Links().LinkDel(link))
	}
	a := netip.MustParsePrefix(address)
	s.must(s.lab.Veth(
		netlab.End{In: host, Device: device, MTU: s.mtu, Queues: queues, Addresses: []netip.Prefix{a}},
		netlab.End{In: s.middle, Device: device, MTU: s.mtu, Queues: queues}))
	s.must(host.Route(netip.MustParsePrefix("0.0.0.0/0"), a.Addr().Prev(), device, 0))
}

// On generic hooks superframes come in that are neither over the receiving port's MTU nor within the sending one's.
func TestGenericHooksWithUnequalMTUs(t *testing.T) {
	s := newSite(t, Config{XDP: "generic"})
	s.mtu = 1500
	s.rewire(s.right, "r0", "10.2.0.2/24", 1)
	s.must(s.apply(s.snapshot()))
	s.must(s.echo("10.2.0.2:7000", 8<<20))
	s.checkLedger()
}

// While one device cannot be opened, the others are followed.
func TestOneBadDeviceDoesNotHideOthers(t *testing.T) {
	s := newSite(t, Config{})
	s.rewire(s.right, "r0", "10.2.0.2/24", 2)
	snapshot := s.snapshot()
	snapshot.Ports[1].Queues = []uint32{1}
	s.must(s.apply(snapshot))
	s.follow()
	s.rewire(s.right, "r0", "10.2.0.2/24", 1)
	s.eventually("the port to close", func() bool {
		return s.f.Ports("right").Ports[0].State.String() == "PORT_STATE_GONE"
	})
	link, err := s.middle.Links().LinkByName("l0")
	s.must(err)
	s.must(s.middle.Links().LinkSetMTU(link, 1400))
	s.eventually("the left port's MTU", func() bool { return s.f.Ports("left").Ports[0].Mtu == 1400 })
}

// Another shape of an open device is refused.
func TestShapesThatDoNotFit(t *testing.T) {
	s := newSiteOf(t, Config{}, 2)
	s.must(s.apply(s.snapshot()))
	bad := s.snapshot()
	bad.Ports[0].Queues = []uint32{0, 1}
	var invalid *tables.InvalidError
	if err := s.apply(bad); !errors.As(err, &invalid) {
		t.Errorf("error %v", err)
	}
	if s.f.Epoch() != 1 {
		t.Errorf("epoch %d", s.f.Epoch())
	}
}

// A device leaves for another namespace and returns, with its index, before anybody looks.
func TestDeviceThatBounces(t *testing.T) {
	s := newSite(t, Config{})
	s.must(s.apply(s.snapshot()))
	s.follow()
	s.must(s.echo("10.2.0.2:7000", 1000))
	link, err := s.middle.Links().LinkByName("r0")
	s.must(err)
	s.must(s.middle.Links().LinkSetNsFd(link, s.left.FD()))
	there, err := s.left.Links().LinkByName("r0")
	s.must(err)
	s.must(s.left.Links().LinkSetNsFd(there, s.middle.FD()))
	back, err := s.middle.Links().LinkByName("r0")
	s.must(err)
	s.must(s.middle.Links().LinkSetUp(back))
	for range 10 {
		if err = s.echo("10.2.0.2:7000", 1000); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("the port is dead: %v", err)
}
