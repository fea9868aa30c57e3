// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/safchain/ethtool"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// setOffload switches an offload of a device of a namespace.
func setOffload(t *testing.T, in *netlab.Namespace, device, feature string, on bool) {
	t.Helper()
	err := in.Do(func() error {
		tool, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer tool.Close()
		return tool.Change(device, map[string]bool{feature: on})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wired has both hosts' devices take what XDP redirects, and leave no checksum to devices.
func (s *site) wired() {
	for device, host := range map[string]*netlab.Namespace{"l0": s.left, "r0": s.right} {
		setOffload(s.t, host, device, "rx-gro", true)
		setOffload(s.t, host, device, "tx-checksum-ip-generic", false)
	}
}

// offloaded is the snapshot with offload on.
func (s *site) offloaded() *api.Snapshot {
	snapshot := s.snapshot()
	snapshot.Node = &api.NodeSettings{Offload: true}
	return snapshot
}

// carriedBy is how many packets the hook of a device has carried.
func (s *site) carriedBy(device string) uint64 {
	s.t.Helper()
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	counters, err := s.f.devices[device].hook.Counters()
	s.must(err)
	for _, c := range counters {
		if c.Name == "carried" {
			return c.Packets
		}
	}
	s.t.Fatal("there is no such counter")
	return 0
}

// wireStream is UDP from the left to the right: send sends a datagram and returns what of it arrived, and the hop
// limit.
type wireStream struct {
	s        *site
	from, to *net.UDPConn
	sent     int
}

func (s *site) stream(to string) *wireStream {
	s.t.Helper()
	x := &wireStream{s: s}
	s.must(s.right.Do(func() (err error) {
		x.to, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), 0)))
		return err
	}))
	s.must(s.left.Do(func() (err error) {
		x.from, err = net.DialUDP("udp", nil, x.to.LocalAddr().(*net.UDPAddr))
		return err
	}))
	s.t.Cleanup(func() { _, _ = x.from.Close(), x.to.Close() })
	return x
}

// send fails unless a datagram of so many bytes arrives as it was sent.
func (x *wireStream) send(size int) {
	x.s.t.Helper()
	x.sent++
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*5 + x.sent)
	}
	_, err := x.from.Write(b)
	x.s.must(err)
	got := make([]byte, size+1)
	x.s.must(x.to.SetReadDeadline(time.Now().Add(5 * time.Second)))
	n, err := x.to.Read(got)
	x.s.must(err)
	if n != size || string(got[:n]) != string(b) {
		x.s.t.Fatalf("of %d bytes %d arrived, or others", size, n)
	}
}

// listed wants a stream among the flows, with the packets that were carried at least.
func (s *site) listed(x *wireStream, carried uint64) {
	s.t.Helper()
	to := x.to.LocalAddr().(*net.UDPAddr).AddrPort()
	all, err := s.f.Flows(&dataplaneapi.FlowsRequest{Protocol: "udp", Address: to.Addr().String(), Port: "right"})
	s.must(err)
	n := 0
	for flow := range all {
		if flow.DestinationPort != uint32(to.Port()) {
			continue
		}
		if n++; !flow.Untracked || !flow.Carried || flow.State != "untracked" || flow.CarriedPackets < carried ||
			flow.Packets != flow.CarriedPackets || flow.Bytes == 0 || flow.InPort != "left" || flow.OutPort != "right" ||
			flow.ExpiresNanoseconds == 0 || flow.SourcePort == 0 {
			s.t.Errorf("listed as %v", flow)
		}
	}
	if o := s.f.Status().Offload; n != 1 || o.Untracked == 0 || o.Untracked > o.Records {
		s.t.Errorf("listed %d times, %v", n, o)
	}
}

// Flows between two wires go by XDP from their third packet on, of either family, in either driver mode, as large as
// the MTU lets them be.
func TestWiresCarry(t *testing.T) {
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			s := newSite(t, Config{XDP: mode})
			s.wired()
			s.must(s.apply(s.offloaded()))
			for _, to := range []string{"10.2.0.2", "fd00:2::2"} {
				x := s.stream(to)
				for range 2 {
					x.send(100)
				}
				before := s.carriedBy("l0")
				for i := range 50 {
					x.send(100 + 170*i)
				}
				if n := s.carriedBy("l0") - before; n < 50 {
					t.Errorf("to %s %d of 50 were carried", to, n)
				}
				s.listed(x, 50)
				if err := s.echo(netip.AddrPortFrom(netip.MustParseAddr(to), 7000).String(), 4<<20); err != nil {
					t.Errorf("tcp to %s: %v", to, err)
				}
			}
			if s.carriedBy("r0") == 0 {
				t.Error("no answer was carried")
			}
			s.checkLedger()
		})
	}
}

// What is carried follows the settings, and what is known of the way.
func TestWiresFollowTables(t *testing.T) {
	s := newSite(t, Config{})
	s.wired()
	s.must(s.apply(s.offloaded()))
	x := s.stream("10.2.0.2")
	carries := func(is bool) {
		t.Helper()
		for range 3 {
			x.send(64)
		}
		s.eventually(fmt.Sprintf("packets to be carried: %v", is), func() bool {
			before := s.carriedBy("l0")
			x.send(64)
			return s.carriedBy("l0")-before == 1 == is
		})
	}
	carries(true)
	s.must(s.apply(func() *api.Snapshot { n := s.offloaded(); n.Node.Offload = false; return n }()))
	carries(false)
	s.must(s.apply(s.offloaded()))
	// The walk of before may have found it not carried by now: then it takes some packets to be so again.
	for range 600 {
		x.send(64)
	}
	carries(true)
	limited := s.offloaded()
	limited.Ports[1].Mtu = 1500
	s.must(s.apply(limited))
	for range 600 {
		x.send(64)
	}
	carries(true)
	x.send(1400)
}

// Where a driver does not take what XDP redirects, flows stay in userspace, which says so.
func TestWiresWithoutTransmit(t *testing.T) {
	s := newSite(t, Config{XDP: "native"})
	for device, host := range map[string]*netlab.Namespace{"l0": s.left, "r0": s.right} {
		setOffload(t, host, device, "rx-gro", false)
	}
	s.must(s.apply(s.offloaded()))
	x := s.stream("10.2.0.2")
	for range 20 {
		x.send(100)
	}
	if n := s.carriedBy("l0"); n != 0 {
		t.Errorf("%d packets were carried to nobody", n)
	}
	s.f.mu.Lock()
	why := s.f.uncarried[offloadTo+"r0"]
	s.f.mu.Unlock()
	if why == "" {
		t.Error("nobody says why")
	}
}
