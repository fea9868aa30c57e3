// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// veth is a pair whose one end is in the tests' namespace.
type veth struct {
	name    string
	ifindex int
	peer    int // index of the other end, in its namespace
	in      *netlab.Namespace
}

type vethOptions struct {
	in      *netlab.Namespace // of the other end; nil: the tests' too
	queues  int               // 0: 1
	peerMAC []byte
}

// newVeth makes a pair with the largest MTU and without addresses, so that the kernel sends nothing by itself.
func newVeth(t testing.TB, o vethOptions) veth {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	v := veth{name: fmt.Sprintf("v%08x", rand.Uint32()), in: o.in}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.name, maxMTU
	attrs.NumTxQueues, attrs.NumRxQueues = max(o.queues, 1), max(o.queues, 1)
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: v.name + "p", PeerMTU: maxMTU, PeerHardwareAddr: o.peerMAC,
		PeerNumTxQueues: uint32(attrs.NumTxQueues), PeerNumRxQueues: uint32(attrs.NumRxQueues)}
	if o.in != nil {
		link.PeerNamespace = netlink.NsFd(o.in.FD())
	}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	v.ifindex = silentUp(t, v.name)
	v.inPeer(t, func() error { v.peer = silentUp(t, v.name+"p"); return nil })
	awaitUp(t, v.ifindex)
	v.inPeer(t, func() error { awaitUp(t, v.peer); return nil })
	return v
}

// awaitUp waits for the carrier to be acted on: until then the device's qdisc drops in silence (net/core/link_watch.c).
func awaitUp(t testing.TB, ifindex int) {
	t.Helper()
	await(t, "a device to come up", func() bool {
		l, err := netlink.LinkByIndex(ifindex)
		return err == nil && l.Attrs().OperState == netlink.OperUp
	})
}

const maxMTU = 65535

// silentUp sets a device up without IPv6.
func silentUp(t testing.TB, name string) int {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
		err = errors.Join(err, netlink.LinkSetUp(l))
	}
	if err != nil {
		t.Error(err)
		return 0
	}
	return l.Attrs().Index
}

func (v veth) inPeer(t testing.TB, f func() error) {
	t.Helper()
	do := f
	if v.in != nil {
		do = func() error { return v.in.Do(f) }
	}
	if err := do(); err != nil {
		t.Fatal(err)
	}
}

func loadTrunk(t testing.TB, options TrunkOptions) *Trunk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	trunk, err := LoadTrunk(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := trunk.Close(); err != nil {
			t.Error(err)
		}
	})
	return trunk
}

func attachTrunk(t testing.TB, trunk *Trunk, ifindex, queues int) {
	t.Helper()
	if err := trunk.Attach(ifindex, queues); err != nil {
		t.Fatal(err)
	}
}

func setPort(t testing.TB, trunk *Trunk, p TrunkPort) {
	t.Helper()
	if err := trunk.SetPort(p); err != nil {
		t.Fatal(err)
	}
}
