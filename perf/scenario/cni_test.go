// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/viaduct-net/viaduct/internal/testenv"
	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
)

// TestCNI measures the reference plugins against each other.
func TestCNI(t *testing.T) {
	testenv.Root(t)
	c := CNI{
		Subjects: []string{"bridge", "trunk", "ptp"},
		Programs: peer.Programs{Reference: reference, Dataplane: "/no/such/dataplane", Plugin: "/no/such/plugin"},
		Adds:     3, Pods: 2, Parallel: 2, Memory: 12, Runs: 1, Progress: t.Output(),
	}
	before := openNamespaces(t)
	var doc report.Document
	if err := c.Run(context.Background(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"bridge", "ptp"} {
		for _, want := range [][2]string{
			{"cni/version", "version"}, {"cni/pods0", "add"}, {"cni/pods0", "del"}, {"cni/parallel2", "add of 3"},
			{"cni/parallel2", "del"}, {"cni/pods2", "add"}, {"cni/pods2", "del"},
		} {
			if v := median(&doc, want[0], subject, want[1]); v <= 0 {
				t.Errorf("%s: %s of %s is %v", want[0], want[1], subject, v)
			}
		}
	}
	if r := find(t, &doc, "bridge", "add/ptp"); r.Name != "cni/pods0" || len(r.Runs) != 3 {
		t.Errorf("ratio is %+v", r)
	}
	find(t, &doc, "bridge", "total - ptp")
	if after := openNamespaces(t); after != before {
		t.Errorf("%d namespaces are open, were %d", after, before)
	}
}

func TestCNIRefusesWhatCannotBeMeasured(t *testing.T) {
	good := CNI{Subjects: []string{"bridge"}, Adds: 1, Runs: 1}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*CNI){
		func(c *CNI) { c.Subjects = nil }, func(c *CNI) { c.Subjects = []string{"kernel"} },
		func(c *CNI) { c.Subjects = []string{"ptp", "ptp"} }, func(c *CNI) { c.Adds = 0 }, func(c *CNI) { c.Runs = 0 },
		func(c *CNI) { c.Pods = -1 }, func(c *CNI) { c.Pods = maxPods }, func(c *CNI) { c.Parallel = 2 },
		func(c *CNI) { c.Memory = memoryFrom }, func(c *CNI) { c.Memory = maxPods + 1 },
	} {
		c := good
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	c := good
	c.Progress = io.Discard
	c.Reference = "/no/such/directory"
	if err := c.Run(context.Background(), &report.Document{}); err == nil {
		t.Error("nothing was measured, without an error")
	}
}

func TestAbreast(t *testing.T) {
	failed := errors.New("failed")
	pods := []*peer.Pod{{ID: "a"}, {ID: "b"}, {ID: "c"}, {ID: "d"}}
	together := make(chan bool)
	run := func(p *peer.Pod) (time.Duration, error) {
		select { // two at a time meet
		case together <- true:
		case <-together:
		}
		if p.ID == "d" {
			return 9, failed
		}
		return time.Duration(p.ID[0]), nil
	}
	if _, median, err := abreast(2, pods, run); median != 'b' || !errors.Is(err, failed) {
		t.Errorf("median is %d, error %v", median, err)
	}
}

// TestMapEntries: those of this process's hash map, and none of its array.
func TestMapEntries(t *testing.T) {
	testenv.Root(t)
	before, err := mapEntries([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []ebpf.MapType{ebpf.Hash, ebpf.Array} {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: kind, KeySize: 4, ValueSize: 4, MaxEntries: 10})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for key := range uint32(7) {
			if err := m.Put(key, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after, err := mapEntries([]int{os.Getpid()}); err != nil || after != before+7 {
		t.Errorf("%d entries, %v; were %d", after, err, before)
	}
}

func TestUsage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meminfo")
	if err := os.WriteFile(path, []byte("SUnreclaim:  12 kB\nHugePages_Total:  0\nPercpu: 1 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := kilobytes(path); err != nil || got["SUnreclaim"] != 12<<10 || got["Percpu"] != 1<<10 {
		t.Errorf("read %v, %v", got, err)
	}
	before := usage{kernel: map[string]uint64{"Percpu": 5 << 10}, processes: 100 << 10, descriptors: 4}
	after := usage{
		kernel: map[string]uint64{"Percpu": 35 << 10, kernelCaches: 10 << 10}, processes: 80 << 10, descriptors: 14,
		entries: 30,
	}
	want := map[string]float64{
		"total": 1, "processes": -2, "Percpu": 3, kernelCaches: 1, "descriptors": 1, "map entries": 3,
	}
	for _, s := range before.perPod(after, 10) {
		if s.Value != want[s.Metric] {
			t.Errorf("%s is %v, want %v", s.Metric, s.Value, want[s.Metric])
		}
	}
	u, err := inUse([]int{os.Getpid()})
	if err != nil || u.kernel["SUnreclaim"] < 1<<20 || u.processes < 1<<20 || u.descriptors < 3 {
		t.Errorf("in use is %+v, %v", u, err)
	}
}
