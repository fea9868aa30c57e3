// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// hostLocal is an ipam section for host-local with a directory of its own, that gives one address of each family.
func hostLocal(t *testing.T, more string) string {
	return fmt.Sprintf(`{"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.99.0.0/24"}],
		[{"subnet": "fd99::/120"}]], %s}`, t.TempDir(), more)
}

// static is one for the plugin static. It has no gateway: in a CHECK the plugin wants it in the result, where ours is.
const static = `{"type": "static", "addresses": [{"address": "10.99.0.5/24"}],
	"routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.99.0.1"}, {"dst": "2001:db8::/32"}],
	"dns": {"nameservers": ["192.0.2.53"]}}`

func TestDelegated(t *testing.T) {
	for _, v := range versions[:3] { // Debian's plugins speak these
		t.Run(v, func(t *testing.T) {
			r := node(t)
			list, p := r.list(v, `, "ipam": `+static), r.pod("one")
			result := r.add(list, p)
			if len(result.IPs) != 1 || result.IPs[0].Address.String() != "10.99.0.5/32" ||
				result.IPs[0].Gateway.String() != "169.254.1.1" {
				t.Errorf("%+v", result.IPs)
			}
			var routes []string
			for _, route := range result.Routes {
				routes = append(routes, fmt.Sprintf("%v %v %d", &route.Dst, route.GW, route.MTU))
			}
			want := "10.244.1.0/24 169.254.1.1 0, 0.0.0.0/0 169.254.1.1 1450, 192.0.2.0/24 169.254.1.1 1450"
			if got := strings.Join(routes, ", "); got != want {
				t.Errorf("routes %s, want %s", got, want)
			}
			if len(result.DNS.Nameservers) != 1 {
				t.Errorf("dns %v", result.DNS)
			}
			lease := r.control.Leases()[0]
			if !lease.Delegated || strings.Join(lease.Addresses, " ") != "10.99.0.5" {
				t.Errorf("%v", lease)
			}
			if v != "0.3.1" {
				r.ok(r.check(list, p))
			}
			r.ok(r.del(list, p))
			r.clean(p)
		})
	}
}

func TestDelegatedLeaves(t *testing.T) {
	r := node(t)
	ipam := hostLocal(t, `"routes": []`)
	dir := strings.Split(ipam, `"`)[7]
	list, p := r.list("1.0.0", `, "ipam": `+ipam), r.pod("one")
	leases := func() int {
		files, err := filepath.Glob(filepath.Join(dir, "net", "*.*.*.*"))
		r.ok(err)
		return len(files)
	}
	if result := r.add(list, p); len(result.IPs) != 2 || leases() != 1 {
		t.Errorf("%+v", result)
	}
	r.ok(r.check(list, p))
	r.ok(os.RemoveAll(filepath.Join(dir, "net")))
	if err := r.check(list, p); err == nil {
		t.Error("host-local was not asked")
	}
	r.ok(r.del(list, p))

	r.control.Before(func(_ context.Context, method string) error {
		if method == "Add" {
			return status.Error(codes.AlreadyExists, "another's")
		}
		return nil
	})
	if _, err := r.cni.AddNetworkList(context.Background(), list, p.runtime); code(err) != 101 {
		t.Error(err)
	}
	if n := leases(); n != 0 {
		t.Errorf("%d addresses left", n)
	}
	r.clean(p)
}

func TestDelegatedFails(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	for _, ipam := range []string{
		`{"type": "nonexistent"}`, `{"type": "host-local"}`, `{"type": "static"}`, `{"type": "loopback"}`,
	} {
		_, err := r.cni.AddNetworkList(context.Background(), r.list("1.0.0", `, "ipam": `+ipam), p.runtime)
		if err == nil {
			t.Errorf("%s: no error", ipam)
		}
		t.Log(err)
		r.clean(p)
	}
}

// An IPAM plugin that speaks 1.1.0, and notes what it was asked.
func TestDelegatedCommands(t *testing.T) {
	r := node(t)
	dir := t.TempDir()
	r.ok(os.WriteFile(filepath.Join(dir, "noting"), []byte(`#!/bin/sh
echo $CNI_COMMAND >> `+dir+`/asked
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["1.1.0"]}';;
ADD) echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.99.0.7/24"}]}';;
STATUS) echo '{"cniVersion": "1.1.0", "code": 51, "msg": "few are left"}'; exit 1;;
esac
`), 0o700))
	p := r.pod("one")
	env := environment(p, "CNI_PATH", dir)
	previous := ""
	for _, c := range []struct {
		command, more string
		want          uint
	}{{"ADD", "", 0}, {"CHECK", "", 0}, {"DEL", "", 0}, {"STATUS", "", 51}, {"GC", none, 0}} {
		env["CNI_COMMAND"] = c.command
		out, err := r.run(env, r.configuration(`, "ipam": {"type": "noting"}`+previous+c.more))
		if err != nil && err.Code != c.want || err == nil && c.want != 0 {
			t.Errorf("%s: %s", c.command, out)
		}
		if c.command == "ADD" {
			previous = `, "prevResult": ` + out
		}
	}
	asked, err := os.ReadFile(filepath.Join(dir, "asked"))
	if got := strings.Fields(string(asked)); err != nil || strings.Join(got, " ") != "ADD CHECK DEL STATUS GC" {
		t.Errorf("asked for %v, %v", got, err)
	}
	r.clean(p)
}
