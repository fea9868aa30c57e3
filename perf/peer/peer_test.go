// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/rig"
)

func newRig(t *testing.T) *rig.Rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r, err := rig.New(rig.Options{Queues: 2, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

type manifest struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	Spec       struct {
		Ports []struct {
			Name, Device string
			Queues       []int
			Addresses    []string
		}
		Node, Destination string
		NextHops          []struct {
			Via, Port string
			Weight    int
		} `yaml:"nextHops"`
	}
}

func decode(t *testing.T, path string) []manifest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []manifest
	for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
		var m manifest
		if err := d.Decode(&m); err != nil {
			return all
		}
		if m.Kind != "" {
			all = append(all, m)
		}
	}
}

func TestManifests(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	if err := WriteManifests(dir, newRig(t), Setup{Routes: 300}, ""); err != nil {
		t.Fatal(err)
	}
	node := decode(t, filepath.Join(dir, "node.yaml"))
	if len(node) != 1 || node[0].Kind != "NodeConfig" || node[0].APIVersion != "viaduct.dev/v1alpha1" {
		t.Fatalf("node is %+v", node)
	}
	ports := node[0].Spec.Ports
	if len(ports) != 2 || ports[1].Device != "right" || len(ports[1].Queues) != 2 || ports[1].Queues[1] != 1 ||
		ports[1].Addresses[0] != "10.2.0.1/24" || ports[1].Addresses[1] != "fd00:2::1/64" {
		t.Errorf("ports are %+v", ports)
	}
	routes := decode(t, filepath.Join(dir, "routes.yaml"))
	if len(routes) != 600 {
		t.Fatalf("%d routes, want 600", len(routes))
	}
	names := map[string]bool{}
	for _, r := range routes {
		names[r.Metadata.Name] = true
	}
	last := routes[599].Spec
	if len(names) != 600 || last.Node != node[0].Metadata.Name || last.Destination != rig.Prefix(299, true).String() ||
		last.NextHops[0].Via != "fd00:2::2" || last.NextHops[0].Port != "right" {
		t.Errorf("%d names; the last route is %+v", len(names), last)
	}
}

// script writes a dataplane, which is the shell script, and beside it a control that sleeps.
func script(t *testing.T, text string) Programs {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"viaduct-dataplane": text, "viaduct-control": "exec sleep 60\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return Programs{Dataplane: filepath.Join(dir, "viaduct-dataplane")}
}

func TestStartFailureLeavesNothing(t *testing.T) {
	r := newRig(t)
	t.Setenv("TMPDIR", t.TempDir())
	s, err := New("viaduct", script(t, "echo no such device >&2; exit 2\n"))
	if err != nil {
		t.Fatal(err)
	}
	err = s.Start(context.Background(), r, Setup{Routes: 1})
	if err == nil || !strings.Contains(err.Error(), "no such device") {
		t.Errorf("error is %v, want the program's own words in it", err)
	}
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	s, _ := New("viaduct", script(t, "exec sleep 60\n"))
	if err := s.Start(ctx, r, Setup{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	if len(s.PIDs()) != 0 {
		t.Errorf("processes %v are left", s.PIDs())
	}
}

func TestProcessRunsInTheRigAndStops(t *testing.T) {
	r := newRig(t)
	s, _ := New("asavie", script(t, `case "$*" in *"--sockets asavie"*) ;; *) exit 3;; esac
grep -q left: /proc/net/dev && echo ready; exec sleep 60
`))
	if err := s.Start(context.Background(), r, Setup{CPUs: []int{0}}); err != nil {
		t.Fatal(err)
	}
	pids := s.PIDs()
	if len(pids) != 2 {
		t.Fatalf("processes %v", pids)
	}
	for _, pid := range pids {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(pid, &set); err != nil || set.Count() != 1 || !set.IsSet(0) {
			t.Errorf("process may run on %d CPUs (%v), want CPU 0 alone", set.Count(), err)
		}
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d is left: %v", pid, err)
		}
	}
}

func TestStopTellsThatTheSubjectHadEnded(t *testing.T) {
	r := newRig(t)
	s, _ := New("viaduct", script(t, "echo ready; sleep 0.1; echo broken; exit 1\n"))
	if err := s.Start(context.Background(), r, Setup{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if err := s.Stop(); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("error is %v", err)
	}
}

func TestMissing(t *testing.T) {
	s, _ := New("viaduct", Programs{Dataplane: "/no/such/program"})
	if !strings.Contains(s.Missing(rig.Options{}), "/no/such/program") {
		t.Errorf("missing: %q", s.Missing(rig.Options{}))
	}
	s, _ = New("testpmd", Programs{})
	if s.Missing(rig.Options{Queues: 2, MTU: 1500}) == "" || s.Missing(rig.Options{Queues: 1, MTU: 60000}) == "" {
		t.Error("testpmd takes two queues or large packets")
	}
	if _, err := New("ovs", Programs{}); err == nil || !strings.Contains(err.Error(), "testpmd") {
		t.Errorf("unknown subject: %v", err)
	}
}
