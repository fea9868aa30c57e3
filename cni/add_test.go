// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/cni/cnitest"
	"github.com/viaduct-net/viaduct/control/api/attach"
)

var versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

func TestEveryCommandOfEveryVersion(t *testing.T) {
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			r := node(t)
			list, p := r.list(v, ""), r.pod("one")
			raw, err := r.cni.AddNetworkList(context.Background(), list, p.runtime)
			r.ok(err)
			if raw.Version() != v {
				t.Errorf("result of version %s", raw.Version())
			}
			r.complete(r.current(raw), p, v)
			if v != "0.3.1" {
				r.ok(r.check(list, p))
			}
			r.ok(r.del(list, p))
			r.ok(r.del(list, p))
			r.clean(p)
			if v == "1.1.0" {
				r.ok(r.cni.GetStatusNetworkList(context.Background(), list))
				r.ok(r.cni.GCNetworkList(context.Background(), list, &libcni.GCArgs{}))
			}
		})
	}
}

// complete holds a result, and what is there, to the specification and to the fake's answers.
func (r *rig) complete(result *current.Result, p *pod, version string) {
	r.Helper()
	if len(result.Interfaces) != 2 || len(result.IPs) != 2 || len(result.Routes) != 4 {
		r.Fatalf("%+v", result)
	}
	outside, inside := result.Interfaces[0], result.Interfaces[1]
	device, err := r.host.Links().LinkByName(outside.Name)
	r.ok(err)
	port, err := p.Links().LinkByName("eth0")
	r.ok(err)
	if outside.Sandbox != "" || outside.Mac != device.Attrs().HardwareAddr.String() || !strings.HasPrefix(outside.Name,
		"vd") || inside.Name != "eth0" || inside.Sandbox != p.runtime.NetNS ||
		inside.Mac != port.Attrs().HardwareAddr.String() {
		r.Errorf("%+v, %+v", outside, inside)
	}
	if version == "1.1.0" && (outside.Mtu != 65535 || inside.Mtu != 65535) {
		r.Errorf("mtu %d, %d", outside.Mtu, inside.Mtu)
	}
	for i, want := range []string{"10.244.1.2/32 by 169.254.1.1", "fd00:10:244:1::2/128 by fe80::1"} {
		ip := result.IPs[i]
		if got := fmt.Sprintf("%v by %v", &ip.Address, ip.Gateway); got != want || ip.Interface == nil || *ip.Interface != 1 {
			r.Errorf("%s, of interface %v; want %s", got, ip.Interface, want)
		}
	}
	for i, want := range []string{"10.244.1.0/24", "0.0.0.0/0", "fd00:10:244:1::/64", "::/0"} {
		if route := result.Routes[i]; route.Dst.String() != want || route.GW == nil {
			r.Errorf("route %v, want %s", route, want)
		}
	}
	r.wired(device.Attrs(), port)
	r.routed(p)
}

// wired looks at the pair.
func (r *rig) wired(device *netlink.LinkAttrs, port netlink.Link) {
	r.Helper()
	for _, l := range []*netlink.LinkAttrs{device, port.Attrs()} {
		if l.MTU != 65535 || l.NumTxQueues != 1 || l.NumRxQueues != 1 || l.Flags&net.FlagUp == 0 {
			r.Errorf("%+v", l)
		}
	}
	if device.Alias != "viaduct one/eth0" {
		r.Errorf("alias %q", device.Alias)
	}
	v6, err := r.host.Links().AddrList(&netlink.GenericLink{LinkAttrs: *device}, netlink.FAMILY_ALL)
	if err != nil || len(v6) > 0 {
		r.Errorf("addresses of the host's end: %v, %v", v6, err)
	}
}

func (r *rig) routed(p *pod) {
	r.Helper()
	routes, err := p.Links().RouteList(nil, netlink.FAMILY_ALL)
	r.ok(err)
	var got []string
	for _, route := range routes {
		if route.Gw != nil {
			got = append(got, fmt.Sprintf("%v %v %d", route.Dst, route.Gw, route.MTU))
		}
	}
	slices.Sort(got)
	want := []string{fmt.Sprintf("0.0.0.0/0 169.254.1.1 %d", cnitest.RouteMTU), "10.244.1.0/24 169.254.1.1 0",
		fmt.Sprintf("::/0 fe80::1 %d", cnitest.RouteMTU), "fd00:10:244:1::/64 fe80::1 0"}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.Errorf("routes %q, want %q", got, want)
	}
}

func TestNothingIsSentBeforeTheAnswer(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	r.control.Before(func(_ context.Context, method string) error {
		port, err := p.Links().LinkByName("eth0")
		if err != nil || method != "Add" {
			return err
		}
		if addresses, _ := p.Links().AddrList(port, netlink.FAMILY_ALL); port.Attrs().Flags&net.FlagUp != 0 ||
			len(addresses) > 0 {
			t.Errorf("before the answer: %v, %v", port.Attrs().Flags, addresses)
		}
		if device, err := r.host.Links().LinkByName(r.links(r.host)[0]); err != nil ||
			device.Attrs().Flags&net.FlagUp == 0 || device.Attrs().Alias == "" {
			t.Errorf("before the answer: %v, %v", device, err)
		}
		return nil
	})
	r.add(list, p)
	port, err := p.Links().LinkByName("eth0")
	r.ok(err)
	addresses, err := p.Links().AddrList(port, netlink.FAMILY_V6)
	r.ok(err)
	for _, a := range addresses {
		if a.IP.IsGlobalUnicast() && a.Flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("%v waits for an objection", a)
		}
	}
}

func TestWhatIsAskedReachesControl(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	p.runtime.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "ns"}, {"K8S_POD_NAME", "web-0"},
		{"K8S_POD_UID", "u-1"}, {"K8S_POD_INFRA_CONTAINER_ID", "one"}, {"SOMETHING", "else"}, {"IP", "10.9.9.9"},
		{"MAC", "0a:00:00:00:00:01"}}
	p.runtime.CapabilityArgs = map[string]any{
		"ips": []string{"10.244.1.77/24", "fd00:10:244:1::77"}, "mac": "0a:00:00:00:00:77",
		"bandwidth":    map[string]int{"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000, "egressBurst": 4000},
		"portMappings": []map[string]any{{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}},
	}
	result := r.add(r.list("1.1.0", `, "attach": "direct"`), p)
	want := &attach.AddRequest{
		Key:   &attach.Key{Network: "net", Container: "one", Interface: "eth0"},
		Netns: p.runtime.NetNS, PodNamespace: "ns", PodName: "web-0", PodUid: "u-1",
		Device: result.Interfaces[0].Name, Mac: []byte{0x0a, 0, 0, 0, 0, 0x77}, Attach: attach.Attach_ATTACH_DIRECT,
		Addresses: []string{"10.244.1.77", "fd00:10:244:1::77"},
		Bandwidth: &attach.Bandwidth{IngressRate: 1000, IngressBurst: 2000, EgressRate: 3000, EgressBurst: 4000},
		HostPorts: []*attach.HostPort{{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"}},
	}
	var st unix.Stat_t
	r.ok(unix.Stat(p.runtime.NetNS, &st))
	want.NetnsDevice, want.NetnsInode = st.Dev, st.Ino
	device, err := r.host.Links().LinkByName(want.Device)
	r.ok(err)
	want.Ifindex = uint32(device.Attrs().Index)
	if got := r.control.Leases(); len(got) != 1 || !proto.Equal(got[0], want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	if result.Interfaces[1].Mac != "0a:00:00:00:00:77" || result.IPs[0].Address.IP.String() != "10.244.1.77" {
		t.Errorf("%+v", result)
	}
	for _, n := range []*netlink.Handle{r.host.Links(), p.Links()} {
		links, err := n.LinkList()
		r.ok(err)
		if l := links[len(links)-1].Attrs(); l.NumRxQueues != cnitest.Queues || l.NumTxQueues != cnitest.Queues {
			t.Errorf("%s: %d and %d queues", l.Name, l.NumRxQueues, l.NumTxQueues)
		}
	}
}

func TestAskingPlacesInTheirOrder(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	p.runtime.Args = [][2]string{{"IP", "10.244.1.50"}, {"MAC", "0a:00:00:00:00:50"}}
	result := r.add(r.list("1.0.0", `, "args": {"cni": {"ips": ["10.244.1.60"]}}`), p)
	if len(result.IPs) != 1 || result.IPs[0].Address.String() != "10.244.1.60/32" ||
		result.Interfaces[1].Mac != "0a:00:00:00:00:50" {
		t.Errorf("%+v", result)
	}
}

func TestIPv6IsEnabledWhereItIsNeeded(t *testing.T) {
	r := node(t)
	both, four := r.pod("both"), r.pod("four")
	for _, p := range []*pod{both, four} {
		r.ok(p.Sysctl("net/ipv6/conf/all/disable_ipv6", "1"))
		r.ok(p.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"))
	}
	r.add(r.list("1.1.0", ""), both)
	four.runtime.CapabilityArgs = map[string]any{"ips": []string{"10.244.1.9"}}
	r.add(r.list("1.1.0", ""), four)
	for _, c := range []struct {
		p    *pod
		want string
	}{{both, "0 1 1"}, {four, "1 1 1"}} {
		got := c.p.sysctls(r, "eth0", "lo", "default")
		if got != c.want {
			t.Errorf("%s: disable_ipv6 of eth0, lo, default: %s, want %s", c.p.Name(), got, c.want)
		}
	}
}

func TestSeveralInterfaces(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	r.add(list, p)
	second := p.another("net1")
	result := r.add(list, second)
	if len(result.Routes) != 0 || len(result.IPs) != 2 {
		t.Errorf("%+v", result)
	}
	r.routed(p)
	for _, p := range []*pod{p, second} {
		r.ok(r.check(list, p))
		if again := r.add(list, p); p == second && len(again.Routes) != 0 {
			t.Errorf("again: %+v", again)
		}
	}
	r.ok(r.del(list, p))
	r.ok(r.del(list, second))
	r.clean(p)
}

func TestAnExistingDefaultStays(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	r.ok(r.lab.Veth(r.end(p.Namespace, "other", "192.0.2.1/24"), r.end(r.namespace("away"), "peer", "192.0.2.2/24")))
	r.ok(p.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.0.2.2"), "other", 0))
	result := r.add(list, p)
	if len(result.Routes) != 3 {
		t.Errorf("routes %v", result.Routes)
	}
	routes, err := p.Links().RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_DST)
	if err != nil || len(routes) != 1 || routes[0].Gw.String() != "192.0.2.2" {
		t.Errorf("%v, %v", routes, err)
	}
	r.ok(r.check(list, p))
	r.ok(r.del(list, p))
}

func TestTenAtOnce(t *testing.T) {
	r := node(t)
	list := r.list("1.1.0", "")
	var pods []*pod
	for i := range 10 {
		pods = append(pods, r.pod(fmt.Sprint("pod", i)))
	}
	var wg sync.WaitGroup
	for _, p := range pods {
		wg.Go(func() {
			for range 3 {
				if _, err := r.cni.AddNetworkList(context.Background(), list, p.runtime); err != nil {
					t.Error(err)
				}
				if err := r.check(list, p); err != nil {
					t.Error(err)
				}
				if err := r.del(list, p); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r.clean(pods...)
}
