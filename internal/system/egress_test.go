// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// egressAt is what pods of a namespace have outside. The node's device has them too, so that it answers for them.
var egressAt = map[int]netip.Addr{4: netip.MustParseAddr("192.0.2.77"), 6: netip.MustParseAddr("2001:db8::77")}

// spare puts an address on a device that the host does not use by itself.
func (s *site) spare(in *netlab.Namespace, device string, a netip.Prefix) {
	s.t.Helper()
	link, err := in.Links().LinkByName(device)
	s.must(err)
	s.must(in.Links().AddrAdd(link, &netlink.Addr{
		IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())},
		Flags: unix.IFA_F_NODAD, ValidLft: math.MaxUint32,
	}))
}

// TestEgressAddress: pods of a namespace have an address of their own towards the world, one that the node's device
// has: the host keeps what is for its own sockets there.
func TestEgressAddress(t *testing.T) {
	w := newWire(t)
	w.start("kernel")
	w.one.must(w.one.node.Address("up", netip.PrefixFrom(egressAt[4], 24)))
	w.one.spare(w.one.node, "up", netip.PrefixFrom(egressAt[6], 64))
	for name, namespace := range map[string]string{"a": "default", "b": "other"} {
		w.write("pod-"+name+".yaml", podManifest(namespace, name, ""))
	}
	a, b := w.one.pod("a").add(), w.one.pod("b")
	b.runtime.Args[1][1] = "other"
	b.add()
	w.one.peerIn(w.world)
	w.one.peerIn(w.one.node)
	seen := func(from *netlab.Namespace, network string, f int, want string) {
		t.Helper()
		w.one.eventually(fmt.Sprintf("the world to see %s by %s", want, network), func() error {
			saw, err := askWithin(from, network, netip.AddrPortFrom(worldAt[f], peerPort), time.Second)
			if err == nil && saw.IsValid() && saw.String() != want {
				err = fmt.Errorf("it saw %v", saw)
			}
			return err
		})
	}
	own := map[int]string{4: "192.0.2.1", 6: "2001:db8::1"}
	for f := range families {
		seen(a.Namespace, "tcp", f, own[f])
	}
	w.write("namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: "+
		"{viaduct.dev/egress-addresses: \"192.0.2.77,2001:db8::77\"}}\n")
	for f := range families {
		seen(a.Namespace, "tcp", f, egressAt[f].String())
		w.one.reaches(a.Namespace, worldAt[f], egressAt[f].String())
		for _, network := range []string{"tcp", "udp", "icmp"} {
			seen(b.Namespace, network, f, own[f])
		}
		if err := closedPort(a.Namespace, netip.AddrPortFrom(worldAt[f], 9)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a closed port: %v", err)
		}
		for _, at := range []string{own[f], egressAt[f].String()} { // the host's own listeners and connections
			w.one.reaches(w.world, netip.MustParseAddr(at), worldAt[f].String())
			w.one.must(asksFrom(w.one.node, at, netip.AddrPortFrom(worldAt[f], peerPort)))
		}
	}
	w.write("namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: "+
		"{viaduct.dev/egress-addresses: \"192.0.2.1\"}}\n")
	w.one.eventually("an address that the host goes out with to be refused", func() error {
		text, _ := w.one.cli("status")
		if !strings.Contains(text, "egress 192.0.2.1") {
			return errors.New(text)
		}
		return nil
	})
}

// asksFrom asks the peer by a connection from an address of the asker's.
func asksFrom(ns *netlab.Namespace, from string, at netip.AddrPort) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patient}
	return ns.Do(func() error {
		c, err := d.Dial("tcp", at.String())
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 64))
		return err
	})
}
