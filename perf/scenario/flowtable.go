// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/process"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// table is the state of the subject's flow table after a flood.
func (s *flooded) table(ctx context.Context) ([]Sample, error) {
	if s.site.Socket() == "" {
		return conntrack(s.site.Node)
	}
	conn, err := process.Dial(s.site.Socket())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	status, err := api.NewDataplaneClient(conn).Status(ctx, &api.StatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the dataplane: %w", err)
	}
	t := status.FlowTable
	var samples []Sample
	for _, n := range []struct {
		name  string
		value uint64
	}{
		{"flows", t.GetFlows()}, {"half open", t.GetHalfOpen()}, {"opened", t.GetOpened()}, {"closed", t.GetClosed()},
		{"expired", t.GetExpired()}, {"evicted", t.GetEvicted()}, {"refused by table", t.GetRefusedTable()},
		{"refused by port", t.GetRefusedPort()}, {"refused by source", t.GetRefusedSource()},
		{"without entry", t.GetWithoutEntry()},
	} {
		samples = append(samples, Sample{"table: " + n.name, "flows", float64(n.value)})
	}
	return samples, nil
}

// conntrack is the kernel's, of a namespace.
func conntrack(in *rig.Namespace) (samples []Sample, err error) {
	err = in.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
		if err != nil {
			return fmt.Errorf("read connection tracking: %w", err)
		}
		samples, err = conntrackSamples(string(text))
		return err
	})
	return samples, err
}

// conntrackSamples reads a line of names and, for each CPU, one of hexadecimal numbers (ct_cpu_seq_show in
// linux/net/netfilter/nf_conntrack_standalone.c). Entries are those of the namespace in each line.
func conntrackSamples(text string) ([]Sample, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	names := strings.Fields(lines[0])
	sums := map[string]uint64{}
	for _, line := range lines[1:] {
		for i, f := range strings.Fields(line) {
			n, err := strconv.ParseUint(f, 16, 64)
			if err != nil || i >= len(names) {
				return nil, fmt.Errorf("read connection tracking: %q", line)
			}
			if names[i] == "entries" {
				sums[names[i]] = n
				continue
			}
			sums[names[i]] += n
		}
	}
	var samples []Sample
	for _, n := range [][2]string{{"entries", "flows"}, {"drop", "dropped"}, {"early_drop", "evicted"},
		{"insert_failed", "insertion failed"}} {
		samples = append(samples, Sample{"table: " + n[1], "flows", float64(sums[n[0]])})
	}
	return samples, nil
}
