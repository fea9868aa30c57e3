// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// damages are what can happen to a pod's interface eth0, by what CHECK says of it.
func damages(r *rig, p *pod) map[string]func() error {
	link := func(in *netlink.Handle, name string, do func(netlink.Link) error) error {
		l, err := in.LinkByName(name)
		return errors.Join(err, do(l))
	}
	inside := func(do func(netlink.Link) error) func() error {
		return func() error { return link(p.Links(), "eth0", do) }
	}
	outside := func(do func(netlink.Link) error) func() error {
		return func() error { return link(r.host.Links(), r.links(r.host)[0], do) }
	}
	unaddress := func(address string) func() error {
		return inside(func(l netlink.Link) error {
			a, err := netlink.ParseAddr(address)
			return errors.Join(err, p.Links().AddrDel(l, a))
		})
	}
	unroute := func(family int) func() error {
		return func() error {
			routes, err := p.Links().RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_DST)
			return errors.Join(err, p.Links().RouteDel(&routes[0]))
		}
	}
	rename := func(l netlink.Link) error { return p.Links().LinkSetName(l, "eth9") }
	shrink := func(l netlink.Link) error { return r.host.Links().LinkSetMTU(l, 1500) }
	readdress := func(l netlink.Link) error {
		return p.Links().LinkSetHardwareAddr(l, net.HardwareAddr{10, 0, 0, 0, 0, 1})
	}
	return map[string]func() error{
		"the host has no vd":                     outside(r.host.Links().LinkDel),
		"the container has no eth0":              inside(rename),
		"eth0 is down":                           inside(p.Links().LinkSetDown),
		" is down":                               outside(r.host.Links().LinkSetDown),
		" has MTU 1500, not 65535":               outside(shrink),
		"eth0 has no address 10.244.":            func() error { return unaddress(r.address(p, netlink.FAMILY_V4))() },
		"eth0 has no address fd00:":              func() error { return unaddress(r.address(p, netlink.FAMILY_V6))() },
		"no route to 0.0.0.0/0 by 169.254.1.1":   unroute(netlink.FAMILY_V4),
		"no route to ::/0 by fe80::1 with MTU 1": unroute(netlink.FAMILY_V6),
		"eth0 has MAC 0a:00:00:00:00:01, not 0a": inside(readdress),
	}
}

// address is the pod's first one of a family.
func (r *rig) address(p *pod, family int) string {
	r.Helper()
	l, err := p.Links().LinkByName("eth0")
	r.ok(err)
	addresses, err := p.Links().AddrList(l, family)
	r.ok(err)
	for _, a := range addresses {
		if a.Scope == unix.RT_SCOPE_UNIVERSE {
			return a.IPNet.String()
		}
	}
	r.Fatal("no address")
	return ""
}

func TestCheckNamesWhatDiffers(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	for want, damage := range damages(r, p) {
		r.add(list, p)
		r.ok(r.check(list, p))
		r.ok(damage())
		err := r.check(list, p)
		if code(err) != 102 || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		r.ok(r.del(list, p))
		r.clean(p)
	}
}

// Two devices that are somebody's, under the names of ours.
func TestCheckKnowsItsOwn(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	device := r.add(list, p).Interfaces[0].Name
	l, err := r.host.Links().LinkByName(device)
	r.ok(err)
	r.ok(r.host.Links().LinkDel(l))
	away := r.namespace("away")
	r.ok(r.lab.Veth(r.end(r.host, device, "192.0.2.1/24"), r.end(away, "a", "192.0.2.2/24")))
	r.ok(r.lab.Veth(r.end(p.Namespace, "eth0", "198.51.100.1/24"), r.end(away, "b", "198.51.100.2/24")))
	l, err = r.host.Links().LinkByName(device)
	r.ok(err)
	r.ok(r.host.Links().LinkSetAlias(l, "mine"))
	err = r.check(list, p)
	if err == nil || !strings.Contains(err.Error(), "alias") || !strings.Contains(err.Error(), "not the other end") {
		t.Error(err)
	}
}

func TestCheckAsksControl(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	r.add(list, p)
	for c, want := range map[codes.Code]uint{
		codes.NotFound: 102, codes.FailedPrecondition: 102, codes.Unavailable: 11, codes.Internal: types.ErrInternal,
	} {
		r.control.Before(func(context.Context, string) error { return status.Error(c, "the hook is not attached") })
		if err := r.check(list, p); code(err) != want || !strings.Contains(err.Error(), "the hook is not attached") {
			t.Errorf("%v, want code %d", err, want)
		}
	}
}

func TestCheckWantsItsInterfaceInTheResult(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	r.add(list, p)
	out, err := r.run(environment(p, "CNI_COMMAND", "CHECK"),
		r.configuration(`, "prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}]}`))
	if err == nil || err.Code != 102 {
		t.Error(out)
	}
}
