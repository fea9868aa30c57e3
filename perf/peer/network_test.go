// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// reference is where Debian's containernetworking-plugins are.
const reference = "/usr/lib/cni"

// TestReferenceNetworks wires a pod by each and takes its wiring away, twice.
func TestReferenceNetworks(t *testing.T) {
	for _, name := range []string{"bridge", "ptp"} {
		r := newRig(t)
		t.Setenv("TMPDIR", t.TempDir())
		n, err := NewNetwork(name, Programs{Reference: reference})
		if err != nil {
			t.Fatal(err)
		}
		if missing := n.Missing(); missing != "" {
			t.Fatalf("install Debian's containernetworking-plugins: %s", missing)
		}
		if err := n.Start(context.Background(), r.DUT, nil); err != nil {
			t.Fatal(err)
		}
		pod := &Pod{"a", r.Sink}
		if took, err := n.Add(pod); err != nil || took <= 0 {
			t.Fatalf("%s: ADD took %v, %v", name, took, err)
		}
		device, err := pod.In.Device(Interface)
		if err != nil || !netip.MustParsePrefix(podCIDR).Contains(device.Addr4.Addr()) {
			t.Errorf("%s: pod has %+v, %v", name, device, err)
		}
		if host, err := pod.In.Peer(device, r.DUT); err != nil || !strings.HasPrefix(host.Name, "veth") {
			t.Errorf("%s: the host's end is %+v, %v", name, host, err)
		}
		if _, err := n.Version(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if _, err := n.Del(pod); err != nil {
				t.Error(err)
			}
		}
		if device, err := pod.In.Device(Interface); err == nil {
			t.Errorf("%s: DEL leaves %+v", name, device)
		}
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) != 0 {
			t.Errorf("%s leaves %v", name, left)
		}
	}
}

// plugin writes a viaduct-cni, which is the shell script, beside daemons that are ready at once.
func plugin(t *testing.T, text string) Programs {
	t.Helper()
	p := script(t, "echo ready; exec sleep 60\n")
	p.Plugin = filepath.Join(filepath.Dir(p.Dataplane), "viaduct-cni")
	if err := os.WriteFile(p.Plugin, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPluginIsRunAsByARuntime: what a network's plugin is given, and that STATUS is asked until it is well.
func TestPluginIsRunAsByARuntime(t *testing.T) {
	r := newRig(t)
	log := t.TempDir()
	programs := plugin(t, `cd `+log+`
if [ $CNI_COMMAND = STATUS ] && [ ! -e asked ]; then touch asked; echo '{"code": 50, "msg": "not yet"}'; exit 1; fi
cat > $CNI_COMMAND.json
readlink /proc/self/ns/net > $CNI_COMMAND.node
if [ $CNI_COMMAND = ADD ]; then readlink -f $CNI_NETNS > netns; echo $CNI_CONTAINERID $CNI_IFNAME $CNI_PATH > words; fi
`)
	programs.Reference = reference
	n, err := NewNetwork("direct", programs)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(context.Background(), r.DUT, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Add(&Pod{"pod-a", r.Sink}); err != nil {
		t.Error(err)
	}
	manifest := decode(t, filepath.Join(n.daemons.dir, "manifests", "node.yaml"))
	if len(manifest) != 1 || manifest[0].Kind != "NodeConfig" {
		t.Errorf("manifest is %+v", manifest)
	}
	if pids := n.PIDs(); len(pids) != 2 {
		t.Errorf("processes are %v", pids)
	}
	run := n.daemons.run()
	if err := n.Stop(); err != nil {
		t.Error(err)
	}
	for _, command := range []string{"STATUS", "ADD"} {
		var config map[string]string
		if err := json.Unmarshal([]byte(said(t, log, command+".json")), &config); err != nil {
			t.Fatal(err)
		}
		if config["type"] != "viaduct-cni" || config["name"] != "direct" || config["attach"] != "direct" ||
			config["cniVersion"] != "1.1.0" || config["runDir"] != run {
			t.Errorf("%s is given %v", command, config)
		}
		if got, want := said(t, log, command+".node"), namespaceOf(t, r.DUT); got != want {
			t.Errorf("%s runs in %s, the node is %s", command, got, want)
		}
	}
	if got, want := filepath.Base(said(t, log, "netns")), namespaceOf(t, r.Sink); got != want {
		t.Errorf("pod is %s, want %s", got, want)
	}
	if got := said(t, log, "words"); got != "pod-a eth0 "+filepath.Dir(programs.Plugin)+":"+reference {
		t.Errorf("environment has %q", got)
	}
}

func said(t *testing.T, dir, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func namespaceOf(t *testing.T, n *rig.Namespace) string {
	t.Helper()
	name, err := os.Readlink(n.Path())
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestFailedPluginIsQuoted(t *testing.T) {
	r := newRig(t)
	t.Setenv("TMPDIR", t.TempDir())
	programs := plugin(t, `[ $CNI_COMMAND = ADD ] && echo '{"code": 11, "msg": "try again later"}' && exit 1; exit 0`)
	s, err := NewWired("trunk", programs)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Start(context.Background(), r, Setup{})
	if err == nil || !strings.Contains(err.Error(), "try again later") || !strings.Contains(err.Error(), "ADD") {
		t.Errorf("error is %v, want the plugin's own words in it", err)
	}
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) != 0 || len(s.PIDs()) != 0 {
		t.Errorf("left %v, processes %v", left, s.PIDs())
	}
}

// TestNetworkGivesUpWithItsContext: a plugin that is never ready.
func TestNetworkGivesUpWithItsContext(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(context.Background())
	asked := filepath.Join(t.TempDir(), "asked")
	n, err := NewNetwork("trunk", plugin(t, "touch "+asked+`; echo '{"code": 50, "msg": "no addresses"}'; exit 1`))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- n.Start(ctx, r.DUT, nil) }()
	for {
		if _, err := os.Stat(asked); err == nil {
			break
		}
	}
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "no addresses") || len(n.PIDs()) != 0 {
		t.Errorf("error is %v, processes %v", err, n.PIDs())
	}
}

func TestMissingNetworks(t *testing.T) {
	for _, name := range WiredNames() {
		s, err := NewWired(name, Programs{Dataplane: "/no/such", Plugin: "/no/plugin", Reference: "/no/plugins"})
		if err != nil {
			t.Fatal(err)
		}
		own := name == "kernel" || name == "veth" || name == "kernel-dnat" && executable(nftProgram) == ""
		if missing := s.Missing(rig.Options{}); (missing == "") != own {
			t.Errorf("%s lacks %q", name, missing)
		}
		if s.Name() != name {
			t.Errorf("%s is named %s", name, s.Name())
		}
	}
	for _, name := range []string{"viaduct", "bridge-off", "trunk-shared"} {
		if _, err := NewWired(name, Programs{}); err == nil || !strings.Contains(err.Error(), "trunk") {
			t.Errorf("unknown subject %s: %v", name, err)
		}
	}
}

// TestApartSubjects: two nodes that know of each other, with the uplink in the mode that the name has.
func TestApartSubjects(t *testing.T) {
	for _, name := range ApartNames() {
		s, err := NewApart(name, Programs{})
		if err != nil || s.Name() != name {
			t.Fatalf("%s: %v, %v", name, s, err)
		}
		w := s.(*wired)
		near, far := w.network, w.far.network
		if near.host == far.host || near.cidr == far.cidr {
			t.Errorf("%s: both nodes are %s, with pods in %s", name, near.host, near.cidr)
		}
		if near.daemons == nil {
			continue
		}
		mode := "kernel"
		for _, m := range []string{"shared", "owned"} {
			if strings.Contains(name, m) {
				mode = m
			}
		}
		if off := strings.HasSuffix(name, "-off"); !strings.Contains(near.spec, "mode: "+mode+"}") ||
			strings.Contains(near.spec, "offload: false") != off {
			t.Errorf("%s: node is\n%s", name, near.spec)
		}
		if others := string(near.furnish()["nodes.yaml"]); !strings.Contains(others, far.cidr) {
			t.Errorf("%s: the first node is told\n%s", name, others)
		}
	}
	for _, name := range []string{"bridge", "trunk-direct", "ptp-off", "ptp-owned"} {
		if _, err := NewApart(name, Programs{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is a subject", name)
		}
	}
}
