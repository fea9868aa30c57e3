// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

const podUplink = 500

// wired has the uplink be a port of the node, with addresses of the dataplane's own: 192.0.2.9 and 2001:db8::9.
func (n *podNode) wired(mode api.Uplink_Mode) {
	n.t.Helper()
	n.policies = func(s *api.Snapshot) {
		s.Node.Uplink = &api.Uplink{Device: "up", Mode: mode}
		s.Ports = append(s.Ports, &api.Port{Id: podUplink, Name: "up", Device: "up",
			Addresses: []*api.Prefix{prefixOf("192.0.2.9/24"), prefixOf("2001:db8::9/64")}})
		for _, r := range s.Routes {
			if r.Bits == 0 && len(r.Prefix) == 4 {
				r.Group = 501
			} else if r.Bits == 0 {
				r.Group = 502
			}
		}
		via := func(id uint32, to string) *api.NextHopGroup {
			return &api.NextHopGroup{Id: id, Hops: []*api.NextHop{
				{Port: podUplink, Weight: 1, Via: netip.MustParseAddr(to).AsSlice()}}}
		}
		s.Groups = append(s.Groups, via(501, "192.0.2.2"), via(502, "2001:db8::2"))
	}
	n.must(n.world.Route(netip.MustParsePrefix("10.244.1.0/24"), netip.MustParseAddr("192.0.2.9"), "up", 0))
	n.must(n.world.Route(netip.MustParsePrefix("fd00:244::/64"), netip.MustParseAddr("2001:db8::9"), "up", 0))
}

// Flows between pods and the wire are carried in both directions, translated or not, and what comes from the wire is
// merged on the way to the pod.
func TestWirePodFlowsAreCarried(t *testing.T) {
	for _, mode := range []api.Uplink_Mode{api.Uplink_MODE_OWNED, api.Uplink_MODE_SHARED} {
		for _, xdp := range []string{"native", "generic"} {
			t.Run(fmt.Sprintf("%s, %s", mode, xdp), func(t *testing.T) {
				n := newPodNode(t, Config{Cleanup: true, XDP: xdp})
				n.offload = true
				a := n.pod(5, api.Port_ATTACH_TRUNK)
				n.wired(mode)
				setOffload(t, n.node, "up", "rx-gro", true) // as it is with NICs
				n.apply()
				for name, of := range map[string]struct {
					from, to *netlab.Namespace
					address  string
				}{
					"pod to world, masqueraded":    {a, n.world, "192.0.2.2"},
					"pod to world, IPv6":           {a, n.world, "2001:db8::2"},
					"world to pod, not translated": {n.world, a, "10.244.1.5"},
					"world to pod, IPv6":           {n.world, a, "fd00:244::5"},
				} {
					t.Run(name, func(t *testing.T) {
						if xdp == "generic" {
							// The kernel merges before a generic hook sees packets, and what is larger than the way goes
							// to userspace: so it is asked for small ones alone.
							c := n.converse(of.from, of.to, of.address)
							n.carried(c)
							c.mustSay(1 << 20)
							return
						}
						c := n.begun(of.from, of.to, of.address)
						before, begin := n.flow(c), n.stackReceived(a)
						c.mustSay(8 << 20)
						after := n.flow(c)
						if more := seen(after) - seen(before); more != 0 {
							t.Errorf("userspace has seen %d more packets", more)
						}
						segments := after.CarriedPackets - before.CarriedPackets
						if of.from == a {
							segments = after.ReplyCarriedPackets - before.ReplyCarriedPackets
						}
						if got := n.stackReceived(a) - begin; got >= segments {
							t.Errorf("of %d segments none was merged: the pod got %d packets", segments, got)
						}
					})
				}
				n.balanced()
			})
		}
	}
}

// stackReceived is how many IP packets a namespace's stack got, merged ones as one.
func (n *podNode) stackReceived(in *netlab.Namespace) uint64 {
	n.t.Helper()
	counters, err := in.Counters()
	n.must(err)
	return counters["Ip.InReceives"] + counters["Ip6InReceives"]
}

// What is for the host on a shared uplink goes on to the host, past the hook that leads flows to pods on.
func TestWireLeavesTheHostAlone(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.offload = true
	a := n.pod(5, api.Port_ATTACH_TRUNK)
	n.wired(api.Uplink_MODE_SHARED)
	n.apply()
	n.begun(n.world, a, "10.244.1.5")
	var l net.Listener
	n.must(n.node.Do(func() (err error) {
		l, err = net.Listen("tcp", "192.0.2.1:0")
		return err
	}))
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	n.must(n.world.Do(func() error {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err = c.Write([]byte("x")); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1))
		return err
	}))
}
