// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// Whatever is configured, there is an answer, and what is asked of control can be asked.
func FuzzConfiguration(f *testing.F) {
	f.Add([]byte(`{"cniVersion": "1.1.0", "name": "net", "runDir": "/run/viaduct", "attach": "direct",
		"ipam": {"type": "x"},
		"runtimeConfig": {"ips": ["10.0.0.1/24"], "mac": "0a:00:00:00:00:01", "bandwidth": {"ingressRate": 8,
		"ingressBurst": 8, "egressRate": 8, "egressBurst": 8}}, "args": {"cni": {"ips": ["fd00::1"]}},
		"prevResult": {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.1/8", "interface": 0}]}}`),
		"IgnoreUnknown=1;K8S_POD_NAME=p;IP=10.0.0.2,fd00::2/64;MAC=0a:00:00:00:00:02;X=")
	f.Add([]byte(`{}`), ";;=;IP=;MAC=")
	f.Add([]byte(`{"prevResult": {"cniVersion": "0.3.1", "interfaces": [{}], "ips": [{"address": "::/0"}],
		"routes": [{}]}}`), "")
	f.Add([]byte(`{"prevResult": {"interfaces": [null], "ips": [null]}}`), "IgnoreUnknown=0")
	f.Fuzz(func(t *testing.T, stdin []byte, args string) {
		call := &skel.CmdArgs{StdinData: stdin, Args: args, ContainerID: "c", IfName: "eth0"}
		c, err := load(call)
		if err != nil {
			return
		}
		if _, err := c.previous(); err != nil && code(err) != 6 {
			t.Errorf("%v", err)
		}
		w, err := c.wants(call)
		if err != nil {
			if n := code(err); n != 4 && n != 7 {
				t.Errorf("%v: code %d", err, n)
			}
			return
		}
		for _, a := range w.addresses {
			if !a.IsGlobalUnicast() || a.Zone() != "" {
				t.Errorf("address %v", a)
			}
		}
		if w.mac != nil && (len(w.mac) != 6 || w.mac[0]&1 != 0) {
			t.Errorf("MAC %v", w.mac)
		}
		if b := w.bandwidth; b != nil && ((b.IngressRate == 0) != (b.IngressBurst == 0) ||
			(b.EgressRate == 0) != (b.EgressBurst == 0)) {
			t.Errorf("bandwidth %v", b)
		}
	})
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, key := range []*attach.Key{
		{Network: "a", Container: "b", Interface: "c"}, {Network: "ab", Container: "", Interface: "c"},
		{Network: "a", Container: "bc"}, {Network: "a", Container: "b", Interface: "d"},
	} {
		n := name(key)
		if len(n.device) != 15 || seen[n.device] || n.hostMAC[0] != 0x0a || len(n.portMAC) != 6 {
			t.Errorf("%+v", n)
		}
		seen[n.device] = true
	}
}
