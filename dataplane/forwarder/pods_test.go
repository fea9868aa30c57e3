// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// podNode is a node with a forwarder and pods, wired as the CNI plugin would, and a world behind its uplink.
//
//	pod 10.244.1.N ── vdN ┐
//	                      ├ node 192.0.2.1 ── up ── 192.0.2.2 world
//	viaduct0 10.244.1.1 ──┘
type podNode struct {
	t           *testing.T
	lab         *netlab.Lab
	node, world *netlab.Namespace
	cfg         Config
	f           *Forwarder
	pods        map[int]*netlab.Namespace
	attach      map[int]api.Port_Attach
	limits      []*api.Limit
	workers     uint32
	offload     bool
	uncarried   map[int]bool // pods whose flows the kernel is not to carry
	policies    func(*api.Snapshot)
	epoch       uint64
	snapshot    *api.Snapshot
}

func newPodNode(t *testing.T, cfg Config) *podNode {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cfg.Logger = zaptest.NewLogger(t)
	n := &podNode{
		t:       t,
		lab:     netlab.New(),
		cfg:     cfg,
		workers: 1,
		pods:    map[int]*netlab.Namespace{},
		attach:  map[int]api.Port_Attach{},
	}
	t.Cleanup(func() {
		n.must(n.node.Do(n.f.Close))
		if err := n.lab.Close(); err != nil {
			t.Error(err)
		}
	})
	var err error
	n.node, err = n.lab.Namespace("node")
	n.must(err)
	n.world, err = n.lab.Namespace("world")
	n.must(err)
	n.must(n.lab.Veth(
		netlab.End{
			In:        n.node,
			Device:    "up",
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
		},
		netlab.End{
			In:        n.world,
			Device:    "up",
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")},
		},
	))
	n.f = New(n.cfg)
	return n
}

func (n *podNode) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func podMAC(i int) net.HardwareAddr { return net.HardwareAddr{0x02, 0, 0, 0, 0x99, byte(i)} }

func podAddr(i int) (v4, v6 netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd00:244::%x", i))
}

// pod wires a pod without its forwarder's knowledge.
func (n *podNode) pod(i int, attach api.Port_Attach) *netlab.Namespace {
	n.t.Helper()
	ns, err := n.lab.Namespace(fmt.Sprint("pod", i))
	n.must(err)
	n.pods[i], n.attach[i] = ns, attach
	v4, v6 := podAddr(i)
	n.must(n.lab.Veth(
		netlab.End{In: n.node, Device: fmt.Sprint("vd", i), MTU: 65535},
		netlab.End{
			In:        ns,
			Device:    "eth0",
			MTU:       65535,
			MAC:       podMAC(i),
			Addresses: []netip.Prefix{netip.PrefixFrom(v4, 32), netip.PrefixFrom(v6, 128)},
		},
	))
	eth0, err := ns.Links().LinkByName("eth0")
	n.must(err)
	gateway := net.IPv4(169, 254, 1, 1)
	for _, r := range []*netlink.Route{
		{Dst: &net.IPNet{IP: gateway.To4(), Mask: net.CIDRMask(32, 32)}, Scope: netlink.SCOPE_LINK},
		{Dst: ipNet("0.0.0.0/0"), Gw: gateway, MTU: 1500}, {Dst: ipNet("10.244.1.0/24"), Gw: gateway},
		{Dst: ipNet("::/0"), Gw: net.ParseIP("fe80::1"), MTU: 1500},
		{Dst: ipNet("fd00:244::/64"), Gw: net.ParseIP("fe80::1")},
	} {
		r.LinkIndex = eth0.Attrs().Index
		n.must(ns.Links().RouteAdd(r))
	}
	return ns
}

func ipNet(s string) *net.IPNet {
	_, p, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return p
}

func prefixOf(s string) *api.Prefix {
	p := netip.MustParsePrefix(s)
	return &api.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}
}

const podHost = 1

// desired is the snapshot of the node with its pods.
func (n *podNode) desired() *api.Snapshot {
	return n.desiredOf(slices.Collect(maps.Keys(n.pods))...)
}

func (n *podNode) desiredOf(pods ...int) *api.Snapshot {
	n.epoch++
	gateways := []*api.Prefix{prefixOf("169.254.1.1/32"), prefixOf("fe80::1/64")}
	s := &api.Snapshot{
		Epoch: n.epoch, Origins: []string{""}, Limits: n.limits,
		Node: &api.NodeSettings{Name: "node", Masquerade: true, Workers: n.workers, Offload: n.offload,
			PodPrefixes: []*api.Prefix{prefixOf("10.244.1.0/24"), prefixOf("fd00:244::/64")}},
		HostRoutes: []*api.HostRoute{{Prefix: prefixOf("10.244.1.0/24")}, {Prefix: prefixOf("fd00:244::/64")}},
		Ports: []*api.Port{
			{Id: podHost, Name: "host", Device: "viaduct0", Attach: api.Port_ATTACH_HOST, Addresses: gateways,
				Station: &api.Station{Router: true, Addresses: [][]byte{
					netip.MustParseAddr("10.244.1.1").AsSlice(), netip.MustParseAddr("192.0.2.1").AsSlice(),
					netip.MustParseAddr("fd00:244::1").AsSlice(),
				}}},
		},
		Groups: []*api.NextHopGroup{
			{Id: 1, Hops: []*api.NextHop{{Port: podHost, Weight: 1, Mtu: 1500}}},
			{Id: 2, Kind: api.NextHopGroup_KIND_UNREACHABLE},
			{Id: 3, Hops: []*api.NextHop{{Port: podHost, Weight: 1}}},
		},
	}
	route := func(to string, group uint32) {
		p := prefixOf(to)
		s.Routes = append(s.Routes, &api.Route{Prefix: p.Address, Bits: p.Bits, Group: group})
	}
	route("0.0.0.0/0", 1)
	route("::/0", 1)
	route("10.244.1.0/24", 2)
	route("fd00:244::/64", 2)
	route("10.244.1.1/32", 3)
	route("fd00:244::1/128", 3)
	for _, i := range pods {
		v4, v6 := podAddr(i)
		id := uint32(i)
		s.Ports = append(
			s.Ports,
			&api.Port{Id: id, Name: fmt.Sprint("default/pod", i), Device: fmt.Sprint("vd", i), Attach: n.attach[i],
				NoOffload: n.uncarried[i], Addresses: gateways,
				Station: &api.Station{Mac: podMAC(i), Addresses: [][]byte{v4.AsSlice(), v6.AsSlice()}}},
		)
		s.Groups = append(s.Groups, &api.NextHopGroup{Id: id + 100, Hops: []*api.NextHop{{Port: id, Weight: 1}}})
		route(v4.String()+"/32", id+100)
		route(v6.String()+"/128", id+100)
	}
	if n.policies != nil {
		n.policies(s)
	}
	slices.SortFunc(s.Ports, func(a, b *api.Port) int { return cmp.Compare(a.Id, b.Id) })
	slices.SortFunc(s.Groups, func(a, b *api.NextHopGroup) int { return cmp.Compare(a.Id, b.Id) })
	slices.SortFunc(s.Routes, func(a, b *api.Route) int {
		return cmp.Or(
			cmp.Compare(len(a.Prefix), len(b.Prefix)),
			bytes.Compare(a.Prefix, b.Prefix),
			cmp.Compare(a.Bits, b.Bits),
		)
	})
	return s
}

// apply puts the node as it is desired in force, as a whole.
func (n *podNode) apply() {
	n.t.Helper()
	s := n.desired()
	n.must(n.node.Do(func() error { return n.f.Apply(n.t.Context(), s) }))
	n.snapshot = s
	n.open()
}

// update does the same by a delta.
func (n *podNode) update() {
	n.t.Helper()
	s := n.desired()
	n.must(n.node.Do(func() error { return n.f.ApplyDelta(n.t.Context(), api.Difference(n.snapshot, s)) }))
	n.snapshot = s
	n.open()
}

func (n *podNode) open() {
	n.t.Helper()
	if closed := n.f.Closed(); len(closed) != 0 {
		n.t.Fatalf("closed: %v, degraded: %v", closed, n.f.Status().Degraded)
	}
}

// echo sends so many bytes by TCP, and a datagram of the size, from one namespace to an address of another, and back.
// It returns the address that the other end saw.
func (n *podNode) echo(from, to *netlab.Namespace, address netip.Addr, size int) (netip.Addr, error) {
	var l net.Listener
	err := to.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer l.Close()
	seen := make(chan netip.Addr, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		seen <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	err = from.Do(func() error {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		sent := bytes.Repeat([]byte("viaduct "), size/8)
		go func() { _, _ = c.Write(sent) }()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if !bytes.Equal(got, sent) {
			return fmt.Errorf("what came back differs")
		}
		return nil
	})
	if err != nil {
		return netip.Addr{}, err
	}
	return <-seen, nil
}

func (n *podNode) reaches(from, to *netlab.Namespace, address, source string, size int) {
	n.t.Helper()
	seen, err := n.echo(from, to, netip.MustParseAddr(address), size)
	if err != nil || seen.String() != source {
		report := n.f.Report("")
		n.t.Fatalf("%s to %s: %v; came from %s, want %s\n%v", from.Name(), address, err, seen, source, report)
	}
}

func (n *podNode) balanced() {
	n.t.Helper()
	if r := n.f.Report(""); !r.Balanced || r.Difference != 0 {
		n.t.Errorf("the ledger does not balance: %v", r)
	}
}

// Pods reach each other, the host and the world, and are reached, in both families, with small and jumbo packets.
func TestPods(t *testing.T) {
	for name, attach := range map[string]api.Port_Attach{
		"trunk": api.Port_ATTACH_TRUNK, "direct": api.Port_ATTACH_DIRECT,
	} {
		t.Run(name, func(t *testing.T) {
			n := newPodNode(t, Config{Cleanup: true})
			a, b := n.pod(5, attach), n.pod(6, api.Port_ATTACH_TRUNK)
			n.apply()
			const size = 4 << 20
			n.reaches(a, b, "10.244.1.6", "10.244.1.5", size)
			n.reaches(b, a, "fd00:244::5", "fd00:244::6", size)
			n.reaches(n.node, a, "10.244.1.5", "10.244.1.1", size)
			n.reaches(n.node, a, "fd00:244::5", "fd00:244::1", size)
			n.reaches(a, n.node, "10.244.1.1", "10.244.1.5", size)
			n.reaches(a, n.node, "192.0.2.1", "10.244.1.5", size)
			n.reaches(a, n.world, "192.0.2.2", "192.0.2.1", size)
			n.reaches(a, n.world, "2001:db8::2", "2001:db8::1", size)
			n.balanced()
			n.must(n.node.Do(n.f.Close))
			for _, device := range []string{"viaduct0", "viaduct-host", "viaduct-trunk0", "viaduct-trunk1"} {
				if _, err := n.node.Links().LinkByName(device); err == nil {
					t.Errorf("%s stays", device)
				}
			}
		})
	}
}

// With two workers flows spread over two queues of the trunk, and either worker reaches every pod. A pod of its own
// device that has too few queues for that has its port closed, and nobody else is the worse for it.
func TestPodsOfTwoWorkers(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.workers = 2
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	for range 20 {
		n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<14)
		n.reaches(b, a, "fd00:244::5", "fd00:244::6", 1<<14)
		n.reaches(a, n.world, "192.0.2.2", "192.0.2.1", 1<<14)
	}
	workers := n.f.Status().Workers
	if len(workers) != 2 || workers[0].Packets == 0 || workers[1].Packets == 0 {
		t.Errorf("workers %v", workers)
	}
	n.pod(7, api.Port_ATTACH_DIRECT)
	s := n.desired()
	n.must(n.node.Do(func() error { return n.f.Apply(t.Context(), s) }))
	if c := n.f.Closed(); len(c) != 1 || c[0].Port != 7 ||
		!strings.Contains(c[0].Reason, "1 queues, and there are 2 workers") {
		t.Errorf("closed: %v", c)
	}
	n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<14)
	n.balanced()
}

// A pod that a delta brings works at once, while others go on; one that it takes away is gone, and its hook with it.
func TestPodsComeAndGo(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	a := n.pod(5, api.Port_ATTACH_TRUNK)
	n.apply()
	for i := 6; i < 16; i++ {
		n.pod(i, api.Port_ATTACH_TRUNK)
		n.update()
		v4, _ := podAddr(i)
		n.reaches(a, n.pods[i], v4.String(), "10.244.1.5", 1<<16)
	}
	for i := 6; i < 15; i += 4 {
		was := n.pods[i]
		delete(n.pods, i)
		n.update()
		if _, err := n.echoSoon(was, a, "10.244.1.5"); err == nil {
			t.Errorf("pod %d still gets through", i)
		}
	}
	n.reaches(n.pods[15], a, "10.244.1.5", "10.244.1.15", 1<<16)
	if ports, err := n.f.trunk.hooks.Ports(); err != nil || len(ports) != 9 {
		t.Errorf("hooks of ports %v, %v", ports, err)
	}
	n.balanced()
}

// A pod's device that vanishes closes its port alone, and one that is made again opens it.
func TestPodVanishes(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	a := n.pod(5, api.Port_ATTACH_TRUNK)
	n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	n.followed()
	link, err := n.node.Links().LinkByName("vd6")
	n.must(err)
	n.must(n.node.Links().LinkDel(link))
	n.eventually("port 6 to close", func() bool {
		c := n.f.Closed()
		return len(c) == 1 && c[0].Port == 6
	})
	n.reaches(n.node, a, "10.244.1.5", "10.244.1.1", 1<<16)
	n.pod(6, api.Port_ATTACH_TRUNK)
	n.eventually("port 6 to open", func() bool { return len(n.f.Closed()) == 0 })
	n.reaches(a, n.pods[6], "10.244.1.6", "10.244.1.5", 1<<16)
	// So does the trunk itself.
	link, err = n.node.Links().LinkByName("viaduct-trunk1")
	n.must(err)
	n.must(n.node.Links().LinkDel(link))
	n.eventually("the trunk to be made again", func() bool {
		_, err := n.echo(a, n.pods[6], netip.MustParseAddr("10.244.1.6"), 1<<10)
		return err == nil
	})
}

func (n *podNode) followed() {
	ctx, stop := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.node.Do(func() error { return n.f.Follow(ctx) }) }()
	n.t.Cleanup(func() {
		stop()
		n.must(<-done)
	})
}

func (n *podNode) eventually(what string, is func() bool) {
	n.t.Helper()
	for range 3000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.t.Fatalf("waited in vain for %s; degraded %v", what, n.f.Status().Degraded)
}

// A forwarder that starts anew takes over what the one before left: pods need not be wired again.
func TestPodsOutliveTheForwarder(t *testing.T) {
	pins := filepath.Join("/sys/fs/bpf", fmt.Sprint("viaduct-test-", os.Getpid()))
	n := newPodNode(t, Config{Pins: pins})
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<16)
	n.must(n.node.Do(n.f.Close))
	if _, err := n.echoSoon(a, b, "10.244.1.6"); err == nil {
		t.Fatal("pods talk past a dataplane that is away")
	}
	n.cfg.Cleanup = true
	n.f = New(n.cfg)
	n.apply()
	n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<16)
	n.must(n.node.Do(n.f.Close))
	if _, err := os.Stat(pins); err == nil {
		t.Errorf("%s stays", pins)
	}
}

// echoSoon is whether a TCP connection comes about within a second.
func (n *podNode) echoSoon(from, to *netlab.Namespace, address string) (bool, error) {
	var l net.Listener
	n.must(to.Do(func() (err error) {
		l, err = net.Listen("tcp", address+":0")
		return err
	}))
	defer l.Close()
	err := from.Do(func() error {
		c, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	return err == nil, err
}

// What a pod sends in another's name ends at its hook, and is counted there.
func TestPodsCannotSpoof(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	a := n.pod(5, api.Port_ATTACH_TRUNK)
	n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	forged := []byte{0x02, 0x76, 0x64, 0, 0, 0, 0x02, 0, 0, 0, 0x99, 5, 8, 0,
		0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 244, 1, 6, 10, 244, 1, 1, 0, 7, 0, 7, 0, 8, 0, 0}
	n.must(a.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for range 10 {
			if err := unix.Sendto(fd, forged, 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index}); err != nil {
				return err
			}
		}
		return nil
	}))
	hook := func() map[string]uint64 { return n.f.Report("default/pod5").Ports[0].Hook }
	n.eventually("the hook to count", func() bool { return hook()["ipv4_source_dropped"] == 10 })
}

// A hook that somebody takes off is put back, and so is what is kept in the host's stack.
func TestMeddlingIsUndone(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	a := n.pod(5, api.Port_ATTACH_TRUNK)
	n.apply()
	n.followed()
	device := func(name string) netlink.Link {
		link, err := n.node.Links().LinkByName(name)
		n.must(err)
		return link
	}
	clsact := func(name string) netlink.Qdisc {
		return &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: device(name).Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	}
	for what, do := range map[string]func() error{
		"a pod's hook":     func() error { return n.node.Links().QdiscDel(clsact("vd5")) },
		"the host's hook":  func() error { return n.node.Links().QdiscDel(clsact("viaduct-host")) },
		"the trunk's hook": func() error { return detachXDP(device("viaduct-trunk1").Attrs().Index) },
		"a pod's device":   func() error { return n.node.Links().LinkSetDown(device("vd5")) },
		"the host's pair":  func() error { return n.node.Links().LinkDel(device("viaduct0")) },
		"the host's end":   func() error { return n.node.Links().LinkSetDown(device("viaduct-host")) },
		"the trunk's end":  func() error { return n.node.Links().LinkSetDown(device("viaduct-trunk0")) },
		"the host's route": func() error { return n.node.Links().RouteDel(&netlink.Route{Dst: ipNet("10.244.1.0/24")}) },
	} {
		t.Log(what)
		n.must(do())
		n.f.look() // at what is not told of, but looked at from time to time
		n.eventually(what+" to be mended", func() bool {
			_, err := n.echoSoon(n.node, a, "10.244.1.5")
			return err == nil
		})
	}
}

// detachXDP is what `bpftool link detach` does to the hook of a device.
func detachXDP(ifindex int) error {
	all := new(link.Iterator)
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		if err == nil && info.XDP() != nil && int(info.XDP().Ifindex) == ifindex {
			return all.Link.Detach()
		}
	}
	return fmt.Errorf("device %d has no hook to take: %w", ifindex, all.Err())
}

// Two dataplanes do not share a trunk, nor pins from two network namespaces; what is refused changes nothing.
func TestTrunkHasOneOwner(t *testing.T) {
	pins := filepath.Join("/sys/fs/bpf", fmt.Sprint("viaduct-test-", os.Getpid()))
	n := newPodNode(t, Config{Cleanup: true, Pins: pins})
	a := n.pod(5, api.Port_ATTACH_TRUNK)
	n.apply()
	refused := func(in *netlab.Namespace, cfg Config, why string) {
		t.Helper()
		cfg.Logger = n.cfg.Logger
		other := New(cfg)
		err := in.Do(func() error {
			return errors.Join(other.Apply(t.Context(), n.snapshot), other.Close())
		})
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("got %v, want %q", err, why)
		}
		if _, err := n.echoSoon(n.node, a, "10.244.1.5"); err != nil {
			t.Errorf("the pod is cut off: %v", err)
		}
	}
	owner := fmt.Sprint("another dataplane's, in use by process ", os.Getpid())
	refused(n.node, Config{Cleanup: true, Pins: pins + "-b"}, owner)
	elsewhere, err := n.lab.Namespace("elsewhere")
	n.must(err)
	refused(elsewhere, Config{Cleanup: true, Pins: pins}, "give another --bpf directory")
}

// A snapshot that is refused changes nothing of the host.
func TestRefusedSnapshotLeavesTheHost(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	a := n.pod(5, api.Port_ATTACH_TRUNK)
	n.apply()
	bad := n.desired()
	bad.Ports[0].Station.Addresses[0] = netip.MustParseAddr("10.244.1.99").AsSlice()
	bad.Groups[0].Hops[0].Port = 77
	if err := n.node.Do(func() error { return n.f.Apply(t.Context(), bad) }); err == nil {
		t.Fatal("taken")
	}
	n.reaches(n.node, a, "10.244.1.5", "10.244.1.1", 1<<10)
}

// The first port at the trunk may come by a delta.
func TestTrunkComesByDelta(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.snapshot = &api.Snapshot{Epoch: 1, Origins: []string{""}, Node: &api.NodeSettings{Name: "node"}}
	n.epoch = 1
	n.must(n.node.Do(func() error { return n.f.Apply(t.Context(), n.snapshot) }))
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.update()
	n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<10)
}

// More workers are asked for than a device of the lab has queues: the trunk is made once, and stays.
func TestTrunkStays(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.workers = 4
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	lab := &api.Port{Id: 200, Name: "lab", Device: "up"}
	apply := func() {
		s := n.desired()
		s.Ports = append(s.Ports, lab)
		n.must(n.node.Do(func() error { return n.f.Apply(t.Context(), s) }))
	}
	apply()
	before, err := n.node.Links().LinkByName("viaduct-trunk0")
	n.must(err)
	for range 3 {
		apply()
		n.reaches(a, b, "10.244.1.6", "10.244.1.5", 1<<10)
	}
	after, err := n.node.Links().LinkByName("viaduct-trunk0")
	n.must(err)
	if before.Attrs().Index != after.Attrs().Index {
		t.Error("the trunk was made again")
	}
}
