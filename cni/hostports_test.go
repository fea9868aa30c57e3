// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A runtime gives port mappings to the plugin whose entry has the capability; control hears of those with a host port.
func TestHostPorts(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", `, "capabilities": {"portMappings": true}`), r.pod("one")
	mapping := func(host, container int, protocol, ip string) map[string]any {
		return map[string]any{"hostPort": host, "containerPort": container, "protocol": protocol, "hostIP": ip}
	}
	ask := func(mappings ...map[string]any) {
		p.runtime.CapabilityArgs = map[string]any{"portMappings": mappings}
	}
	ask(mapping(8080, 80, "TCP", ""), mapping(0, 81, "tcp", ""), mapping(53, 5353, "udp", "192.0.2.1"),
		mapping(9, 9, "", "::ffff:192.0.2.2"))
	r.add(list, p)
	if got, want := r.hostPorts(), "[:8080->80/tcp 192.0.2.1:53->5353/udp 192.0.2.2:9->9/tcp]"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	r.ok(r.check(list, p))
	ask(mapping(8080, 81, "tcp", ""))
	if err := r.check(list, p); err == nil || !strings.Contains(err.Error(), "other host ports") {
		t.Errorf("CHECK with other host ports: %v", err)
	}
	r.add(list, p) // in other words: it takes the place
	if got, want := r.hostPorts(), "[:8080->81/tcp]"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	r.ok(r.del(list, p))
	r.clean(p)
}

// hostPorts are those of the one attachment there is.
func (r *rig) hostPorts() string {
	r.Helper()
	leases := r.control.Leases()
	if len(leases) != 1 {
		r.Fatalf("%d attachments", len(leases))
	}
	var list []string
	for _, p := range leases[0].HostPorts {
		list = append(list, fmt.Sprintf("%s:%d->%d/%s", p.HostIp, p.HostPort, p.ContainerPort, p.Protocol))
	}
	return fmt.Sprint(list)
}

// A host port that another pod has is an error of the plugin's own code, which names that pod; nothing is left.
func TestHostPortTaken(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	r.control.Before(func(_ context.Context, method string) error {
		if method == "Add" {
			return status.Error(codes.AlreadyExists, "lease: host port 80/tcp is taken by pod default/web (net/c1/eth0)")
		}
		return nil
	})
	out, err := r.run(environment(p), r.mapped(`"hostPort": 80, "containerPort": 80`))
	if err == nil || err.Code != 101 || !strings.Contains(out, "pod default/web") {
		t.Errorf("%s", out)
	}
	r.clean(p)
}
