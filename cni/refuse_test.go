// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// environment is that of an ADD that works, with some changes; empty values are unset.
func environment(p *pod, changes ...string) map[string]string {
	env := map[string]string{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "one", "CNI_NETNS": p.runtime.NetNS,
		"CNI_IFNAME": "eth0", "CNI_PATH": plugins + ":" + reference}
	for i := 0; i < len(changes); i += 2 {
		env[changes[i]] = changes[i+1]
	}
	maps.DeleteFunc(env, func(_, v string) bool { return v == "" })
	return env
}

// configuration is one that works, with more keys; of keys that are there twice the last one counts.
func (r *rig) configuration(more string) string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "net", "type": "viaduct-cni", "runDir": %q%s}`, r.runDir, more)
}

// mapped is a configuration with one port mapping, or with what ends one and begins the next between.
func (r *rig) mapped(mapping string) string {
	return r.configuration(`, "runtimeConfig": {"portMappings": [{` + mapping + `}]}`)
}

func TestMalformedConfigurations(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	long := "/" + strings.Repeat("x", 100)
	for stdin, want := range map[string]uint{
		"":                                 6,
		"garbage \x00\xff":                 6,
		"[]":                               6,
		`{"name": "net", "cniVersion": 1}`: 6,
		"null":                             7,
		"{}":                               7,
		`{"name": "../etc"}`:               7,
		strings.Repeat("[", 100000):        6,
		r.configuration(`, "cniVersion": "0.2.0"`):                                                         1,
		r.configuration(`, "cniVersion": "2.0.0"`):                                                         1,
		r.configuration(`, "cniVersion": "one"`):                                                           1,
		r.configuration(`, "attach": "sideways"`):                                                          7,
		r.configuration(`, "attach": 5`):                                                                   6,
		r.configuration(`, "runDir": "relative"`):                                                          7,
		r.configuration(fmt.Sprintf(`, "runDir": %q`, long)):                                               7,
		r.configuration(`, "runDir": "/nonexistent"`):                                                      11,
		r.configuration(`, "ipam": {"type": "a/b"}`):                                                       7,
		r.configuration(`, "ipam": 5`):                                                                     6,
		r.configuration(`, "prevResult": 5`):                                                               6,
		r.configuration(`, "prevResult": {"cniVersion": "9.0.0"}`):                                         6,
		r.configuration(`, "prevResult": {"ips": [{"address": "x"}]}`):                                     6,
		r.configuration(`, "prevResult": {"cniVersion": "0.4.0", "interfaces": [null]}`):                   6,
		r.configuration(`, "prevResult": {"cniVersion": "1.0.0", "ips": [null]}`):                          6,
		r.configuration(`, "runtimeConfig": {"ips": ["10.244.1.300"]}`):                                    7,
		r.configuration(`, "runtimeConfig": {"ips": ["10.244.1.3/33"]}`):                                   7,
		r.configuration(`, "runtimeConfig": {"ips": ["10.244.1.3/"]}`):                                     7,
		r.configuration(`, "runtimeConfig": {"ips": ["10.244.1.3", "10.244.1.3/24"]}`):                     7,
		r.configuration(`, "runtimeConfig": {"ips": ["224.0.0.1"]}`):                                       7,
		r.configuration(`, "runtimeConfig": {"ips": ["0.0.0.0"]}`):                                         7,
		r.configuration(`, "runtimeConfig": {"ips": ["fe80::5%eth0"]}`):                                    7,
		r.configuration(`, "runtimeConfig": {"ips": ["::ffff:10.0.0.1"]}`):                                 7,
		r.configuration(`, "runtimeConfig": {"ips": "10.0.0.1"}`):                                          6,
		r.configuration(`, "runtimeConfig": {"mac": "nonsense"}`):                                          7,
		r.configuration(`, "runtimeConfig": {"mac": "01:00:5e:00:00:01"}`):                                 7,
		r.configuration(`, "runtimeConfig": {"mac": "00:00:00:00:00:00"}`):                                 7,
		r.configuration(`, "runtimeConfig": {"mac": "02:00:5e:10:00:00:00:01"}`):                           7,
		r.configuration(`, "args": {"cni": {"mac": "x"}}`):                                                 7,
		r.configuration(`, "args": {"cni": {"ips": ["x"]}}`):                                               7,
		r.configuration(`, "runtimeConfig": {"bandwidth": {"ingressRate": 5}}`):                            7,
		r.configuration(`, "runtimeConfig": {"bandwidth": {"ingressBurst": 5}}`):                           7,
		r.configuration(`, "runtimeConfig": {"bandwidth": {"egressBurst": 5}}`):                            7,
		r.configuration(`, "runtimeConfig": {"bandwidth": {"egressRate": -5}}`):                            7,
		r.configuration(`, "runtimeConfig": {"bandwidth": {"egressRate": 5, "egressBurst": 34359738360}}`): 7,
		r.configuration(`, "runtimeConfig": {"bandwidth": {"egressRate": 1e40}}`):                          6,
		r.configuration(`, "runtimeConfig": {"portMappings": {}}`):                                         6,
		r.configuration(`, "runtimeConfig": {"portMappings": [{"hostPort": "80"}]}`):                       6,
		r.mapped(`"hostPort": -1, "containerPort": 80`):                                                    7,
		r.mapped(`"hostPort": 65536, "containerPort": 80`):                                                 7,
		r.mapped(`"hostPort": 80`):                                                                         7,
		r.mapped(`"hostPort": 80, "containerPort": 65536`):                                                 7,
		r.mapped(`"hostPort": 80, "containerPort": 80, "protocol": "icmp"`):                                7,
		r.mapped(`"hostPort": 80, "containerPort": 80, "hostIP": "node-a"`):                                7,
		r.mapped(`"hostPort": 80, "containerPort": 80, "hostIP": "224.0.0.1"`):                             7,
		r.mapped(`"hostPort": 80, "containerPort": 80, "hostIP": "fe80::1%eth0"`):                          7,
		r.mapped(`"hostPort": 80, "containerPort": 80}, {"hostPort": 80, "containerPort": 81`):             7,
	} {
		if out, err := r.run(environment(p), stdin); err == nil || err.Code != want {
			t.Errorf("%.200s:\n%s, want code %d", stdin, out, want)
		}
		r.clean(p)
	}
	if calls := r.control.Calls(); len(calls) > 0 {
		t.Errorf("control was asked: %v", calls)
	}
}

func TestMalformedEnvironments(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	file := filepath.Join(t.TempDir(), "file")
	r.ok(os.WriteFile(file, nil, 0o600))
	for _, c := range []struct {
		changes []string
		want    uint
	}{
		{[]string{"CNI_COMMAND", "JUMP"}, 4},
		{[]string{"CNI_COMMAND", "add"}, 4},
		{[]string{"CNI_CONTAINERID", ""}, 4},
		{[]string{"CNI_CONTAINERID", "a b"}, 4},
		{[]string{"CNI_IFNAME", ""}, 4},
		{[]string{"CNI_IFNAME", "sixteen-bytes-00"}, 4},
		{[]string{"CNI_IFNAME", "a/b"}, 4},
		{[]string{"CNI_IFNAME", ".."}, 4},
		{[]string{"CNI_IFNAME", "lo"}, 4}, // there, and not ours
		{[]string{"CNI_NETNS", ""}, 4},
		{[]string{"CNI_PATH", ""}, 4},
		{[]string{"CNI_NETNS", file}, 4},
		{[]string{"CNI_NETNS", filepath.Dir(file)}, 4},
		{[]string{"CNI_NETNS", "/proc/self/ns/mnt"}, 4},
		{[]string{"CNI_NETNS", "/proc/self/ns/net"}, 8},
		{[]string{"CNI_NETNS", "/nonexistent"}, 3},
		{[]string{"CNI_ARGS", "novalue"}, 4},
		{[]string{"CNI_ARGS", "X=1"}, 4},
		{[]string{"CNI_ARGS", "IgnoreUnknown=0;X=1"}, 4},
		{[]string{"CNI_ARGS", "IgnoreUnknown=maybe"}, 4},
		{[]string{"CNI_ARGS", "IP=nine"}, 4},
		{[]string{"CNI_ARGS", "MAC=nine"}, 4},
		{[]string{"CNI_COMMAND", "CHECK"}, 7}, // without prevResult
	} {
		if out, err := r.run(environment(p, c.changes...), r.configuration("")); err == nil || err.Code != c.want {
			t.Errorf("%v:\n%s, want code %d", c.changes, out, c.want)
		}
		r.clean(p)
	}
}

func TestCommandsThatAVersionDoesNotHave(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	for command, v := range map[string]string{"CHECK": "0.3.1", "STATUS": "1.0.0", "GC": "1.0.0"} {
		out, err := r.run(environment(p, "CNI_COMMAND", command), r.configuration(fmt.Sprintf(`, "cniVersion": %q`, v)))
		if err == nil || err.Code != 1 {
			t.Errorf("%s of %s: %s", command, v, out)
		}
	}
}

func TestVersion(t *testing.T) {
	r := node(t)
	for _, stdin := range []string{"", "{}", `{"cniVersion": "1.1.0"}`, "garbage"} {
		out, err := r.run(map[string]string{"CNI_COMMAND": "VERSION"}, stdin)
		if err != nil {
			t.Fatal(err)
		}
		info, decodeErr := (&version.PluginDecoder{}).Decode([]byte(out))
		r.ok(decodeErr)
		if got := info.SupportedVersions(); !slices.Equal(got, versions) || !json.Valid([]byte(out)) {
			t.Errorf("%s", out)
		}
	}
}

// What only an ADD needs may be wrong in a DEL, or missing.
func TestDelIsLenient(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	for more, changes := range map[string][]string{
		"": {"CNI_NETNS", ""}, `, "attach": "sideways"`: {}, `, "runDir": "relative"`: {},
		`, "runDir": "/nonexistent"`: {"CNI_NETNS", "/nonexistent"}, `, "prevResult": {"cniVersion": "9"}`: {},
		`, "runtimeConfig": {"mac": "x"}`: {"CNI_ARGS", "novalue"},
	} {
		if out, err := r.run(environment(p, append(changes, "CNI_COMMAND", "DEL")...), r.configuration(more)); err != nil {
			t.Errorf("%s, %v: %s", more, changes, out)
		}
	}
}

// An alias has less room than a container's name.
func TestLongContainerID(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	env := environment(p, "CNI_CONTAINERID", strings.Repeat("c", 300))
	for _, command := range []string{"ADD", "ADD", "DEL"} {
		env["CNI_COMMAND"] = command
		if out, err := r.run(env, r.configuration("")); err != nil {
			t.Error(out)
		}
	}
	r.clean(p)
}

// Control refuses a container's name that is too long: nothing is attached by it, and a DEL has nothing to do.
func TestDelOfANameThatControlRefuses(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	r.control.Before(func(context.Context, string) error { return status.Error(codes.InvalidArgument, "too long") })
	if out, err := r.run(environment(p), r.configuration("")); err == nil || err.Code != 7 || err.Details != "too long" {
		t.Errorf("ADD: %s", out)
	}
	if out, err := r.run(environment(p, "CNI_COMMAND", "DEL"), r.configuration("")); err != nil {
		t.Errorf("DEL: %s", out)
	}
	r.control.Before(nil)
	r.clean(p)
}

// Errors say each thing once, and what to do.
func TestWords(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	words := func(command, more string, want types.Error) {
		t.Helper()
		out, err := r.run(environment(p, "CNI_COMMAND", command), r.configuration(more))
		if err == nil || err.Code != want.Code || err.Msg != want.Msg || !strings.HasSuffix(err.Details, want.Details) ||
			strings.Contains(err.Details, err.Msg) || strings.Contains(err.Details, "undoing") {
			t.Errorf("%s: %s", command, out)
		}
	}
	missing := types.Error{Code: 999, Msg: "the IPAM plugin nonexistent failed"}
	for _, command := range []string{"ADD", "DEL", "STATUS"} {
		words(command, `, "ipam": {"type": "nonexistent"}`, missing)
	}
	r.control.Before(func(context.Context, string) error { return status.Error(codes.Unavailable, "nobody follows") })
	words("STATUS", "", types.Error{Code: 50, Msg: "no interface can be added", Details: "nobody follows"})
	words("ADD", "", types.Error{Code: 11, Msg: "viaduct-control refused the interface", Details: "nobody follows"})
	r.control.Before(func(context.Context, string) error { return status.Error(codes.FailedPrecondition, "cut off") })
	words("STATUS", "", types.Error{Code: 51, Msg: "no interface can be added", Details: "cut off"})
	r.control.Close()
	start := "no such file or directory: start viaduct-control with --run " + r.runDir
	words("STATUS", "", types.Error{Code: 50, Msg: "viaduct-control is not there", Details: start})
	words("ADD", "", types.Error{Code: 11, Msg: "viaduct-control is not there", Details: start})
	r.serve()
	r.clean(p)
}
