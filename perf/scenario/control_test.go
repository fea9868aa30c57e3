// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"io"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/report"
)

// TestControl runs the real programs over both stores.
func TestControl(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "github.com/viaduct-net/viaduct/dataplane/cmd/viaduct-dataplane",
		"github.com/viaduct-net/viaduct/control/cmd/viaduct-control")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v: %s", err, out)
	}
	for _, source := range []string{"dir", "etcd"} {
		c := Control{
			Dataplane: filepath.Join(bin, "viaduct-dataplane"), Source: source, Changes: 5, Small: 20, Runs: 1,
			Storm: 50, StormTime: 200 * time.Millisecond,
			Size: cluster.Size{Nodes: 5, Namespaces: 3, Pods: 40, Routes: 30}, Progress: io.Discard,
		}
		var doc report.Document
		if err := c.Run(context.Background(), &doc); err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		for _, metric := range []string{"first snapshot", "change p50", "change p99", "storm settled", "control memory"} {
			for _, subject := range []string{"40 pods", "20 pods"} {
				if r := find(t, &doc, subject, metric); r.Median <= 0 {
					t.Errorf("%s: %s of %s is %v", source, metric, subject, r.Median)
				}
			}
		}
	}
}

func TestControlRefusesWhatCannotBeMeasured(t *testing.T) {
	good := Control{Source: "dir", Changes: 1, Runs: 1, Size: cluster.Size{Nodes: 1, Namespaces: 1, Pods: 1}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Control){
		func(c *Control) { c.Source = "kubernetes" }, func(c *Control) { c.Changes = 0 }, func(c *Control) { c.Storm = 1 },
		func(c *Control) { c.Small = 2 }, func(c *Control) { c.Size.Pods = 0 },
	} {
		c := good
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}
