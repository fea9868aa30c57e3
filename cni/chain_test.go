// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// The reference plugins behind ours. Debian's portmap fails every CHECK, also behind ptp, for want of an IPv6 rule; its
// bandwidth panics in a CHECK without bounds; its firewall begins with 0.4.0.
func TestInFrontOf(t *testing.T) {
	mappings := map[string]any{"portMappings": []map[string]any{
		{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}, "ips": []string{"10.244.1.9"}}
	bounds := map[string]any{"bandwidth": map[string]int{
		"ingressRate": 1e6, "ingressBurst": 1e6, "egressRate": 1e6, "egressBurst": 1e6}}
	for name, c := range map[string]struct {
		link     string
		asked    map[string]any
		versions []string
	}{
		"tuning":    {`{"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}`, nil, versions[:3]},
		"portmap":   {`{"type": "portmap", "capabilities": {"portMappings": true}}`, mappings, versions[:3]},
		"sbr":       {`{"type": "sbr"}`, nil, versions[:3]},
		"firewall":  {`{"type": "firewall", "backend": "iptables"}`, nil, versions[1:3]},
		"bandwidth": {`{"type": "bandwidth", "capabilities": {"bandwidth": true}}`, bounds, versions[:3]},
	} {
		for _, v := range c.versions {
			t.Run(name+" "+v, func(t *testing.T) {
				r := node(t)
				list, p := r.list(v, "", c.link), r.pod("one")
				p.runtime.CapabilityArgs = c.asked
				if result := r.add(list, p); len(result.Interfaces) < 2 || len(result.IPs) == 0 {
					t.Errorf("%+v", result)
				}
				if v != "0.3.1" && name != "portmap" {
					r.ok(r.check(list, p))
				}
				r.ok(r.del(list, p))
				r.clean(p)
			})
		}
	}
}

// Ours behind the reference plugins: what they say is kept, and stays right.
func TestBehind(t *testing.T) {
	ipam := `{"type": "static", "addresses": [{"address": "10.98.0.5/24", "gateway": "10.98.0.1"}],
		"routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["192.0.2.53"]}}`
	for name, c := range map[string]struct {
		link               string
		interfaces, routes int
	}{
		"loopback": {`{"type": "loopback"}`, 1, 4},
		"bridge":   {`{"type": "bridge", "bridge": "br0", "ipam": ` + ipam + `}`, 3, 4},
		"ptp":      {`{"type": "ptp", "ipam": ` + ipam + `}`, 2, 4},
	} {
		for _, v := range versions[:3] {
			t.Run(name+" "+v, func(t *testing.T) {
				r := node(t)
				list, p := r.chain(v, c.link), r.pod("one")
				p.runtime.IfName = "first"
				raw, err := r.cni.AddNetworkList(context.Background(), list, p.runtime)
				r.ok(err)
				before := r.current(raw)
				if len(before.Interfaces) != c.interfaces {
					t.Fatalf("%+v", before)
				}
				after := r.behind(v, p, raw)
				if len(after.Interfaces) != c.interfaces+2 || len(after.Routes) != c.routes {
					t.Errorf("%+v", after)
				}
				if !reflect.DeepEqual(after.Interfaces[:c.interfaces], before.Interfaces) ||
					!reflect.DeepEqual(after.IPs[:len(before.IPs)], before.IPs) ||
					!reflect.DeepEqual(after.DNS, before.DNS) {
					t.Errorf("before %+v\nafter %+v", before, after)
				}
				for _, ip := range after.IPs[len(before.IPs):] {
					if after.Interfaces[*ip.Interface].Name != "eth0" {
						t.Errorf("%+v is of interface %d", ip, *ip.Interface)
					}
				}
				r.ok(r.del(list, p))
			})
		}
	}
}

// behind runs ours behind a result: ADD, CHECK of what that says, and DEL. It does so by hand, since libcni gives all
// plugins of a list the same interface.
func (r *rig) behind(v string, p *pod, before types.Result) *current.Result {
	r.Helper()
	var previous bytes.Buffer
	r.ok(before.PrintTo(&previous))
	configuration := r.configuration(fmt.Sprintf(`, "cniVersion": %q, "prevResult": %s`, v, previous.String()))
	out, failure := r.run(environment(p), configuration)
	if failure != nil {
		r.Fatal(out)
	}
	after, err := create.Create(v, []byte(out))
	r.ok(err)
	configuration = r.configuration(fmt.Sprintf(`, "cniVersion": %q, "prevResult": %s`, v, out))
	if out, failure := r.run(environment(p, "CNI_COMMAND", "CHECK"), configuration); failure != nil && v != "0.3.1" {
		r.Error(out)
	}
	if out, failure := r.run(environment(p, "CNI_COMMAND", "DEL"), configuration); failure != nil {
		r.Error(out)
	}
	return r.current(after)
}
