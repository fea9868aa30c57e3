// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/internal/testenv"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// testCgroup makes a cgroup with nobody in it.
func testCgroup(t *testing.T) string {
	t.Helper()
	root, err := cgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, fmt.Sprintf("forwarder-%08x", rand.Uint32()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// servicesNode is a pod node with a cgroup of its own and the dataplane's addresses.
type servicesNode struct {
	*podNode
	cgroup string
}

func newServicesNode(t *testing.T, cfg Config) *servicesNode {
	t.Helper()
	testenv.Root(t)
	cfg.Cgroup = testCgroup(t)
	return &servicesNode{newPodNode(t, cfg), cfg.Cgroup}
}

func (n *servicesNode) desired(services ...*api.Service) *api.Snapshot {
	s := n.podNode.desired()
	s.Node.DataplaneAddresses = [][]byte{address("10.244.1.254").AsSlice(), address("fd00:244::ffff").AsSlice()}
	s.Services = services
	return s
}

func (n *servicesNode) put(s *api.Snapshot) {
	n.t.Helper()
	n.must(n.node.Do(func() error { return n.f.Apply(n.t.Context(), s) }))
	n.snapshot = s
}

func (n *servicesNode) putDelta(s *api.Snapshot) {
	n.t.Helper()
	n.must(n.node.Do(func() error { return n.f.ApplyDelta(n.t.Context(), api.Difference(n.snapshot, s)) }))
	n.snapshot = s
}

// hooksAt is how many programs are at the uplink and at the cgroup.
func (n *servicesNode) hooksAt() (uplink, cgroup int) {
	n.t.Helper()
	up, err := n.node.Links().LinkByName("up")
	n.must(err)
	n.must(n.node.Do(func() error {
		there, err := link.QueryPrograms(link.QueryOptions{Target: up.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			uplink = len(there.Programs)
		}
		return err
	}))
	dir, err := os.Open(n.cgroup)
	n.must(err)
	defer dir.Close()
	there, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
	n.must(err)
	return uplink, len(there.Programs)
}

func (n *servicesNode) expectHooks(uplink, cgroup int) {
	n.t.Helper()
	if u, c := n.hooksAt(); u != uplink || c != cgroup {
		n.t.Errorf("%d hooks at the uplink and %d at the cgroup, want %d and %d; degraded %v", u, c, uplink, cgroup,
			n.f.Status().Degraded)
	}
}

// taken is what the hooks take.
func (n *servicesNode) taken() []string {
	n.t.Helper()
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	hooks := n.f.services.hooks
	if hooks == nil {
		return nil
	}
	there, err := hooks.Frontends()
	n.must(err)
	var list []string
	for _, front := range there {
		list = append(list, fmt.Sprintf("%s/%d", front.Addr, front.Port))
	}
	slices.Sort(list)
	return list
}

func (n *servicesNode) expectTaken(want ...string) {
	n.t.Helper()
	if is := n.taken(); !slices.Equal(is, want) {
		n.t.Errorf("taken is %v, want %v", is, want)
	}
}

func (n *servicesNode) uses(a string) xdpprog.Uses {
	n.t.Helper()
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	if n.f.services.hooks == nil {
		return 0
	}
	all, err := n.f.services.hooks.Addresses()
	n.must(err)
	return all[address(a)]
}

func (n *servicesNode) defaultRoute() {
	n.t.Helper()
	up, err := n.node.Links().LinkByName("up")
	n.must(err)
	n.must(n.node.Links().RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Dst: ipNet("0.0.0.0/0"),
		Gw: address("192.0.2.2").AsSlice()}))
}

// The hooks are there for as long as there are services, and take what these have.
func TestServiceHooksFollowSnapshots(t *testing.T) {
	n := newServicesNode(t, Config{})
	n.pod(5, api.Port_ATTACH_TRUNK)
	n.defaultRoute()
	n.put(n.desired())
	n.expectHooks(0, 0)
	web := func() *api.Service { return withNodePort(webService(1, false, "10.96.0.1"), 30080) }
	n.putDelta(n.desired(web()))
	n.expectHooks(1, 1)
	n.expectTaken("0.0.0.0/30080", "10.96.0.1/80")
	if n.uses("192.0.2.1") != xdpprog.AtHost|xdpprog.AtNodePorts || n.uses("127.0.0.1") != xdpprog.AtLoopback {
		t.Error("node ports are not at the node")
	}
	n.putDelta(n.desired(web(), webService(2, true, "fd00:96::1")))
	n.expectTaken("0.0.0.0/30080", "10.96.0.1/80", "fd00:96::1/80")
	n.putDelta(n.desired(webService(2, true, "fd00:96::1")))
	n.expectTaken("fd00:96::1/80")
	if n.uses("10.96.0.1") != 0 || n.uses("fd00:96::1") != xdpprog.AtFrontend {
		t.Error("addresses do not follow")
	}
	n.put(n.desired(web()))
	n.expectTaken("0.0.0.0/30080", "10.96.0.1/80")
	n.expectHooks(1, 1)
	n.putDelta(n.desired())
	n.expectHooks(0, 0)
	n.put(n.desired(web()))
	n.expectHooks(1, 1)
	n.expectTaken("0.0.0.0/30080", "10.96.0.1/80")
}

// The configured uplink has the hook, unless packets of it do not go through the host's stack.
func TestServiceHooksAtTheUplink(t *testing.T) {
	n := newServicesNode(t, Config{})
	n.pod(5, api.Port_ATTACH_TRUNK)
	with := func(u *api.Uplink) *api.Snapshot {
		s := n.desired(webService(1, false, "10.96.0.1"))
		s.Node.Uplink = u
		return s
	}
	n.put(with(nil))
	n.expectHooks(0, 1) // there is no default route
	n.put(with(&api.Uplink{Device: "up"}))
	n.expectHooks(1, 1)
	n.put(with(&api.Uplink{Device: "up", Mode: api.Uplink_MODE_SHARED}))
	n.expectHooks(0, 1)
	n.put(with(&api.Uplink{Device: "away"}))
	n.expectHooks(0, 1)
	if degraded := fmt.Sprint(n.f.Status().Degraded); !strings.Contains(degraded, "away") {
		t.Errorf("degraded: %s", degraded)
	}
}

// Addresses and default routes that come and go are followed.
func TestServiceHooksFollowTheHost(t *testing.T) {
	n := newServicesNode(t, Config{})
	n.pod(5, api.Port_ATTACH_TRUNK)
	n.put(n.desired(webService(1, false, "10.96.0.1")))
	n.followed()
	n.expectHooks(0, 1)
	n.defaultRoute()
	n.eventually("the hook at the default route's device", func() bool { u, _ := n.hooksAt(); return u == 1 })
	up, err := n.node.Links().LinkByName("up")
	n.must(err)
	added := &netlink.Addr{IPNet: ipNet("192.0.2.77/32")}
	n.must(n.node.Links().AddrAdd(up, added))
	n.eventually("the address", func() bool { return n.uses("192.0.2.77") != 0 })
	n.must(n.node.Links().AddrDel(up, added))
	n.eventually("the address to go", func() bool { return n.uses("192.0.2.77") == 0 })
}

// A forwarder that starts anew takes over the hooks, and takes away what they should not take any more.
func TestServiceHooksOutliveTheForwarder(t *testing.T) {
	pins := filepath.Join("/sys/fs/bpf", fmt.Sprintf("viaduct-test-%08x", rand.Uint32()))
	n := newServicesNode(t, Config{Pins: pins})
	n.pod(5, api.Port_ATTACH_TRUNK)
	n.defaultRoute()
	n.put(n.desired(webService(1, false, "10.96.0.1"), webService(2, false, "10.96.0.2")))
	n.must(n.node.Do(n.f.Close))
	n.expectHooksOf(1, 1)
	n.f = New(n.cfg)
	n.put(n.desired(webService(2, false, "10.96.0.2")))
	n.expectTaken("10.96.0.2/80")
	n.expectHooks(1, 1)
	n.must(n.node.Do(n.f.Close))
	n.f = New(n.cfg)
	n.put(n.desired()) // without services what was left goes
	n.expectHooks(0, 0)
	n.put(n.desired(webService(2, false, "10.96.0.2")))
	n.must(n.node.Do(n.f.Close))
	n.cfg.Cleanup = true
	n.f = New(n.cfg)
	n.put(n.desired(webService(2, false, "10.96.0.2")))
	n.must(n.node.Do(n.f.Close))
	n.expectHooksOf(0, 0)
	if _, err := os.Stat(pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s stays: %v", pins, err)
	}
}

// expectHooksOf waits, since a hook's device or cgroup lets go of it in the background.
func (n *servicesNode) expectHooksOf(uplink, cgroup int) {
	n.t.Helper()
	for range 100 {
		if u, c := n.hooksAt(); u == uplink && c == cgroup {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.expectHooks(uplink, cgroup)
}

// kube-proxy's presence is said; a cgroup that is none is no reason not to forward.
func TestServicesAreSaid(t *testing.T) {
	n := newServicesNode(t, Config{})
	n.pod(5, api.Port_ATTACH_TRUNK)
	n.defaultRoute()
	n.f.cfg.Cgroup = t.TempDir()
	n.must(n.node.Links().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "kube-ipvs0"}, PeerName: "other"}))
	s := n.desired(webService(1, false, "10.96.0.1"))
	s.Egress = []*api.Egress{{Namespace: "a", Addresses: [][]byte{address("192.0.2.1").AsSlice()}}}
	n.put(s)
	n.open()
	said := fmt.Sprint(n.f.Status().Degraded)
	for _, want := range []string{"kube-ipvs0", "no cgroup of version 2", "192.0.2.1/24"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not said: %s", want, said)
		}
	}
	n.put(n.desired())
	if said := fmt.Sprint(n.f.Status().Degraded); strings.Contains(said, "kube-") || strings.Contains(said, "cgroup") {
		t.Errorf("without services it is said: %s", said)
	}
}

// A packet from outside for a node port reaches userspace as the host port's, and its counters say so.
func TestServicePacketReachesUserspace(t *testing.T) {
	n := newServicesNode(t, Config{})
	n.pod(5, api.Port_ATTACH_TRUNK)
	n.defaultRoute()
	n.put(n.desired(withNodePort(webService(1, false, "10.96.0.1"), 30080)))
	before := n.hostPackets()
	n.must(n.world.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet4{Addr: netip.MustParseAddr("192.0.2.1").As4(), Port: 30080}
		if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
			return fmt.Errorf("connect: %w", err)
		}
		for range 200 {
			if n.hookCount("service_taken") > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	}))
	if n.hookCount("service_taken") == 0 {
		t.Fatal("the packet was not taken")
	}
	n.eventually("the packet at the host's port", func() bool { return n.hostPackets() > before })
}

func (n *servicesNode) hostPackets() (count uint64) {
	for _, p := range n.f.Report("host").Ports {
		count += p.Received
	}
	return count
}

func (n *servicesNode) hookCount(reason string) (count uint64) {
	for _, p := range n.f.Report("host").Ports {
		count += p.Hook[reason]
	}
	return count
}

// Routes to services lead to the dataplane, from the node's own address among the pods', and are no pods'; its own
// addresses are reached where no pod CIDR is.
func TestRoutesToServices(t *testing.T) {
	n := newServicesNode(t, Config{})
	n.pod(5, api.Port_ATTACH_TRUNK)
	s := n.desired(webService(1, false, "10.96.0.1"), webService(2, true, "fd00:96::1"))
	s.HostRoutes = []*api.HostRoute{{Prefix: prefixOf("10.96.0.0/16"), Service: true},
		{Prefix: prefixOf("10.244.1.5/32")}, {Prefix: prefixOf("203.0.113.9/32"), Service: true},
		{Prefix: prefixOf("fd00:96::/112"), Service: true}}
	s.Node.Unmasqueraded = []*api.Prefix{prefixOf("198.51.100.0/24")}
	n.put(s)
	pair, err := n.node.Links().LinkByName("viaduct0")
	n.must(err)
	for to, from := range map[string]string{
		"10.96.0.1": "10.244.1.1", "203.0.113.9": "10.244.1.1", "fd00:96::1": "fd00:244::1",
		"10.244.1.254": "10.244.1.1", "fd00:244::ffff": "fd00:244::1",
	} {
		routes, err := n.node.Links().RouteGet(address(to).AsSlice())
		if err != nil || len(routes) != 1 || routes[0].LinkIndex != pair.Attrs().Index ||
			routes[0].Src.String() != from {
			t.Errorf("to %s: %v, %v", to, routes, err)
		}
	}
	n.must(n.node.Do(func() error {
		table, err := exec.Command("nft", "list", "table", "inet", "viaduct").CombinedOutput()
		for _, not := range []string{"10.96.", "203.0.113.9"} {
			if strings.Contains(string(table), not) {
				t.Errorf("%s is taken for a pod's:\n%s", not, table)
			}
		}
		for _, want := range []string{"198.51.100.0/24", "notrack"} {
			if !strings.Contains(string(table), want) {
				t.Errorf("%s is missing:\n%s", want, table)
			}
		}
		return err
	}))
}
