// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// site is two hosts with a forwarder between them, each in a namespace of its own.
type site struct {
	t                   *testing.T
	mtu, queues         int
	lab                 *netlab.Lab
	left, middle, right *netlab.Namespace
	f                   *Forwarder
}

func newSite(t *testing.T, cfg Config) *site {
	t.Helper()
	return newSiteOf(t, cfg, 1)
}

// newSiteOf is newSite with that many queues on every device.
func newSiteOf(t *testing.T, cfg Config, queues int) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	s := &site{t: t, lab: netlab.New(), mtu: 9000, queues: queues}
	if cfg.Sockets == "asavie" { // carries nothing larger than a frame
		s.mtu = 1500
	}
	t.Cleanup(func() {
		if err := s.lab.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, ns := range map[string]**netlab.Namespace{"left": &s.left, "middle": &s.middle, "right": &s.right} {
		var err error
		if *ns, err = s.lab.Namespace(name); err != nil {
			t.Fatal(err)
		}
	}
	s.wire(s.left, "l0", "10.1.0.2/24", "fd00:1::2/64")
	s.wire(s.right, "r0", "10.2.0.2/24", "fd00:2::2/64")
	cfg.Logger = zaptest.NewLogger(t)
	s.f = New(cfg)
	t.Cleanup(func() {
		if err := s.f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// wire joins a host to the middle by a veth pair whose ends there and here have the same name.
func (s *site) wire(host *netlab.Namespace, device, ipv4, ipv6 string) {
	s.t.Helper()
	a, b := netip.MustParsePrefix(ipv4), netip.MustParsePrefix(ipv6)
	s.must(host.Sysctl("net/ipv6/conf/default/accept_dad", "0"))
	s.must(s.lab.Veth(netlab.End{In: host, Device: device, MTU: s.mtu, Queues: s.queues, Addresses: []netip.Prefix{a, b}},
		netlab.End{In: s.middle, Device: device, MTU: s.mtu, Queues: s.queues}))
	s.must(host.Route(netip.MustParsePrefix("0.0.0.0/0"), a.Addr().Prev(), device, 0))
	s.must(host.Route(netip.MustParsePrefix("::/0"), b.Addr().Prev(), device, 0))
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) snapshot() *api.Snapshot {
	address := func(text string) *api.Prefix {
		p := netip.MustParsePrefix(text)
		return &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
	}
	return &api.Snapshot{
		Epoch: s.f.Epoch() + 1, Origins: []string{""},
		Ports: []*api.Port{
			{Id: 1, Name: "left", Device: "l0", Addresses: []*api.Prefix{address("10.1.0.1/24"), address("fd00:1::1/64")}},
			{Id: 2, Name: "right", Device: "r0", Addresses: []*api.Prefix{address("10.2.0.1/24"), address("fd00:2::1/64")}},
		},
	}
}

// apply puts a snapshot in force from within the forwarder's namespace.
func (s *site) apply(snapshot *api.Snapshot) error {
	return s.middle.Do(func() error { return s.f.Apply(s.t.Context(), snapshot) })
}

// follow lets the forwarder hear of its devices until the test ends.
func (s *site) follow() {
	ctx, stop := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.middle.Do(func() error { return s.f.Follow(ctx) }) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
}

// echo sends size bytes over TCP from the left host to the right one and back.
func (s *site) echo(to string, size int) error {
	var listener net.Listener
	s.must(s.right.Do(func() (err error) {
		listener, err = net.Listen("tcp", to)
		return err
	}))
	defer listener.Close()
	go func() {
		c, err := listener.Accept()
		if err == nil {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}
	}()
	return s.left.Do(func() error {
		c, err := net.DialTimeout("tcp", to, 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		sent := make([]byte, size)
		for i := range sent {
			sent[i] = byte(i % 251)
		}
		go func() { _, _ = c.Write(sent) }()
		got := make([]byte, size)
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if string(got) != string(sent) {
			return errors.New("other bytes came back")
		}
		return nil
	})
}

func (s *site) checkLedger() {
	s.t.Helper()
	if r := s.f.Report(""); !r.Balanced {
		s.t.Errorf("the ledger does not balance: %v", r)
	}
}

func TestTrafficCrosses(t *testing.T) {
	for _, c := range []Config{
		{}, {XDP: "generic"}, {Sockets: "asavie"}, {Spin: -1}, {Ring: 256},
	} {
		t.Run(fmt.Sprintf("sockets=%s,xdp=%s,spin=%d,ring=%d", c.Sockets, c.XDP, c.Spin, c.Ring), func(t *testing.T) {
			s := newSite(t, c)
			s.must(s.apply(s.snapshot()))
			for _, to := range []string{"10.2.0.2:7000", "[fd00:2::2]:7000"} {
				if err := s.echo(to, 2<<20); err != nil {
					t.Errorf("%s: %v", to, err)
				}
			}
			s.checkLedger()
		})
	}
}

// Two workers, each with its queues: what one learns of a neighbour, the other one's packets wait for.
func TestTwoWorkers(t *testing.T) {
	s := newSiteOf(t, Config{}, 2)
	snapshot := s.snapshot()
	snapshot.Node = &api.NodeSettings{Workers: 2}
	s.must(s.apply(snapshot))
	var flows sync.WaitGroup
	for port := range 8 {
		flows.Go(func() {
			if err := s.echo(fmt.Sprintf("10.2.0.2:%d", 7000+port), 1<<20); err != nil {
				t.Error(err)
			}
		})
	}
	flows.Wait()
	s.checkLedger()
	workers := s.f.Status().Workers
	if len(workers) != 2 || workers[0].Packets == 0 || workers[1].Packets == 0 {
		t.Errorf("the work was not shared: %v", workers)
	}
}

// The device is deleted while traffic runs, and made again: the port closes and returns, the other one stays.
func TestVanishedDeviceReturns(t *testing.T) {
	s := newSite(t, Config{})
	s.must(s.apply(s.snapshot()))
	s.follow()
	s.must(s.echo("10.2.0.2:7000", 1<<20))
	for range 3 {
		link, err := s.middle.Links().LinkByName("r0")
		s.must(err)
		s.must(s.middle.Links().LinkDel(link))
		s.eventually("the port to close", func() bool {
			return s.f.Ports("right").Ports[0].GetState().String() == "PORT_STATE_GONE"
		})
		s.must(s.ping("10.1.0.1"))
		s.wire(s.right, "r0", "10.2.0.2/24", "fd00:2::2/64")
		s.eventually("the port to return", func() bool {
			return s.f.Ports("right").Ports[0].GetState().String() == "PORT_STATE_UP"
		})
		s.must(s.echo("10.2.0.2:7000", 1<<20))
		s.checkLedger()
	}
}

// ping connects to an address of the forwarder, which refuses: proof that it answers.
func (s *site) ping(address string) error {
	return s.left.Do(func() error {
		c, err := net.Dial("udp", net.JoinHostPort(address, "9"))
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		if _, err = c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("no ICMP port unreachable from %s: %w", address, err)
		}
		return nil
	})
}

func (s *site) eventually(what string, is func() bool) {
	s.t.Helper()
	for range 500 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("waited in vain for %s", what)
}

func TestRefusedSnapshotLeavesNothingBehind(t *testing.T) {
	s := newSite(t, Config{Pins: filepath.Join("/sys/fs/bpf", "viaduct-test-"+strings.ToLower(t.Name())[:8])})
	t.Cleanup(func() { _ = os.RemoveAll(s.f.cfg.Pins) })
	bad := s.snapshot()
	bad.Ports[1].Queues = []uint32{9}
	err := s.apply(bad)
	if err == nil || !strings.Contains(err.Error(), "queue 9 does not exist") {
		t.Fatalf("error is %v", err)
	}
	s.nothingAttached()
	if s.f.Epoch() != 0 || s.f.Status().LastNack == nil {
		t.Error("a refused snapshot is in force, or not reported")
	}
	s.must(s.apply(s.snapshot()))
	if err := s.echo("10.2.0.2:7000", 1<<10); err != nil {
		t.Error(err)
	}
	if err := s.apply(bad); err == nil && s.f.Epoch() != 1 {
		t.Errorf("epoch %d after a refusal", s.f.Epoch())
	}
	s.must(s.echo("10.2.0.2:7000", 1<<10))
	s.must(s.f.Close())
	s.nothingAttached()
}

func (s *site) nothingAttached() {
	s.t.Helper()
	list, err := s.middle.Links().LinkList()
	s.must(err)
	for _, l := range list {
		if x := l.Attrs().Xdp; x != nil && x.Attached {
			s.t.Errorf("%s has an XDP program", l.Attrs().Name)
		}
	}
}

func TestPortsComeAndGo(t *testing.T) {
	s := newSite(t, Config{})
	s.must(s.apply(s.snapshot()))
	one := s.snapshot()
	one.Ports = one.Ports[:1]
	s.must(s.apply(one))
	r0, err := s.middle.Links().LinkByName("r0")
	s.must(err)
	if x := r0.Attrs().Xdp; x != nil && x.Attached {
		t.Error("the hook stays on a device that is no port's any more")
	}
	s.must(s.ping("10.1.0.1"))
	s.must(s.apply(s.snapshot()))
	s.must(s.echo("10.2.0.2:7000", 1<<20))
	s.checkLedger()
}

// On a shared uplink a login to the host goes on, over the same device by which ours are forwarded.
func TestSharedUplinkLeavesTheHostAlone(t *testing.T) {
	s := newSite(t, Config{})
	s.must(s.middle.Address("r0", netip.MustParsePrefix("10.2.0.9/24")))
	login := s.login("10.2.0.9:22")
	snapshot := s.snapshot()
	snapshot.Node = &api.NodeSettings{Uplink: &api.Uplink{Device: "r0", Mode: api.Uplink_MODE_SHARED}}
	s.must(s.apply(snapshot))
	for range 3 {
		s.must(s.echo("10.2.0.2:7000", 1<<20))
		if _, err := login.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := login.Read(make([]byte, 1)); err != nil {
			t.Fatalf("the login broke: %v", err)
		}
	}
	s.checkLedger()
}

// login connects the right host to the host in the middle, which echoes.
func (s *site) login(address string) net.Conn {
	s.t.Helper()
	var listener net.Listener
	s.must(s.middle.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	}))
	s.t.Cleanup(func() { listener.Close() })
	go func() {
		if c, err := listener.Accept(); err == nil {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}
	}()
	var c net.Conn
	s.must(s.right.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", address, 5*time.Second)
		return err
	}))
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// A device with tagged ports keeps the tags in the frames, and gets its offload back.
func TestTagsAreKept(t *testing.T) {
	s := newSite(t, Config{})
	on := func() (is bool) {
		s.must(s.middle.Do(func() (err error) {
			is, err = hasFeature("r0", rxVLAN)
			return err
		}))
		return is
	}
	if !on() {
		t.Fatal("the device takes no tags away to begin with")
	}
	tagged := s.snapshot()
	tagged.Ports[1].OuterVlan = 100
	s.must(s.apply(tagged))
	if on() {
		t.Error("the device still takes tags away")
	}
	s.must(s.apply(s.snapshot()))
	if !on() {
		t.Error("the device without a tagged port did not get its offload back")
	}
	tagged = s.snapshot() // of a device that is open
	tagged.Ports = append(tagged.Ports, &api.Port{Id: 3, Name: "tagged", Device: "r0", OuterVlan: 100})
	s.must(s.apply(tagged))
	if on() {
		t.Error("the device still takes tags away")
	}
	s.must(s.middle.Do(s.f.Close))
	if !on() {
		t.Error("the device did not get its offload back")
	}
}

// A changed MTU of a device reaches the tables.
func TestMTUIsFollowed(t *testing.T) {
	s := newSite(t, Config{})
	s.must(s.apply(s.snapshot()))
	s.follow()
	link, err := s.middle.Links().LinkByName("r0")
	s.must(err)
	s.must(s.middle.Links().LinkSetMTU(link, 1400))
	s.eventually("the port's MTU", func() bool { return s.f.Ports("right").Ports[0].Mtu == 1400 })
}
