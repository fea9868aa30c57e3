// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
)

// memoryFrom pods are there when memory is first read: what the first ones bring up for all is not theirs.
const memoryFrom = 10

const memoryNote = "memory: of a pod's wiring. total = the kernel's SUnreclaim, Percpu and VmallocUsed of " +
	"/proc/meminfo + the processes' Pss of /proc/PID/smaps_rollup; not SReclaimable, which are caches. The pods' " +
	"namespaces are there before. Whatever else runs on the machine is in the kernel's numbers"

// kernelMemory are the fields of /proc/meminfo that count. Kernel stacks are in VmallocUsed.
var kernelMemory = []string{"SUnreclaim", "Percpu", "VmallocUsed"}

// kernelCaches are given back when memory is short: inodes and directory entries, of /proc and /sys too.
const kernelCaches = "SReclaimable"

// usage is what is in use at one time.
type usage struct {
	kernel               map[string]uint64 // of /proc/meminfo, bytes
	processes            uint64            // bytes
	descriptors, entries int               // of processes, and in their eBPF maps
}

// total is all that counts, in bytes.
func (u usage) total() uint64 {
	sum := u.processes
	for _, field := range kernelMemory {
		sum += u.kernel[field]
	}
	return sum
}

// memory measures, in rounds, each subject on a node made for it.
func (c *CNI) memory(ctx context.Context, doc *report.Document, subjects []string) error {
	s := newSeries(fmt.Sprintf("cni/memory%d-%d", memoryFrom, c.Memory))
	for round := range c.Runs {
		for i := range subjects {
			name := subjects[(round+i)%len(subjects)]
			samples, err := c.growth(ctx, name)
			if err != nil {
				return fmt.Errorf("memory, %s, round %d: %w", name, round+1, err)
			}
			s.add(name, samples)
			fmt.Fprintf(c.Progress, "%s round %d/%d %s:%s\n", s.name, round+1, c.Runs, name, sampleText(samples))
		}
	}
	c.conclude(doc, s, s.differences(subjects))
	doc.Notes = append(doc.Notes, memoryNote)
	return nil
}

// growth wires pods and takes all away again: what one of them costs, and what is left of all.
func (c *CNI) growth(ctx context.Context, network string) (samples []Sample, err error) {
	n, err := newPodNode(ctx, network, c.Programs)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	pods, err := n.newPods(c.Memory)
	if err != nil {
		return nil, err
	}
	before, err := settled(ctx, n.network)
	if err != nil {
		return nil, err
	}
	if err := wire(ctx, n.network, pods[:memoryFrom]); err != nil {
		return nil, err
	}
	few, err := settled(ctx, n.network)
	if err != nil {
		return nil, err
	}
	if err := wire(ctx, n.network, pods[memoryFrom:]); err != nil {
		return nil, err
	}
	many, err := settled(ctx, n.network)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if _, err := n.network.Del(p); err != nil {
			return nil, err
		}
	}
	after, err := settled(ctx, n.network)
	if err != nil {
		return nil, err
	}
	return append(few.perPod(many, c.Memory-memoryFrom),
		Sample{"descriptors left", "1", float64(after.descriptors - before.descriptors)},
		Sample{"map entries left", "1", float64(after.entries - before.entries)}), nil
}

// perPod shares out what has come since u.
func (u usage) perPod(now usage, pods int) []Sample {
	kib := func(of func(usage) uint64) float64 { return float64(int64(of(now)-of(u))) / 1024 / float64(pods) }
	samples := []Sample{
		{"total", "KiB/pod", kib(usage.total)},
		{"processes", "KiB/pod", kib(func(u usage) uint64 { return u.processes })},
	}
	for _, field := range append(slices.Clone(kernelMemory), kernelCaches) {
		samples = append(samples, Sample{field, "KiB/pod", kib(func(u usage) uint64 { return u.kernel[field] })})
	}
	return append(samples,
		Sample{"descriptors", "1/pod", float64(now.descriptors-u.descriptors) / float64(pods)},
		Sample{"map entries", "1/pod", float64(now.entries-u.entries) / float64(pods)})
}

// Memory is settled when it has not changed by more than this for a while: the kernel frees much of it in the
// background, after RCU grace periods.
const (
	settledBytes = 128 << 10
	settledTime  = 500 * time.Millisecond
	settleLimit  = 10 * time.Second // for a machine on which others run too
)

// settled reads what is in use once that stands still.
func settled(ctx context.Context, network *peer.Network) (usage, error) {
	last, err := inUse(network.PIDs())
	for limit := time.Now().Add(settleLimit); err == nil; {
		if err := sleep(ctx, settledTime); err != nil {
			return usage{}, err
		}
		var u usage
		if u, err = inUse(network.PIDs()); err != nil {
			break
		}
		change := int64(u.total()) - int64(last.total())
		if max(change, -change) <= settledBytes || time.Now().After(limit) {
			return u, nil
		}
		last = u
	}
	return usage{}, err
}

func inUse(pids []int) (u usage, err error) {
	if u.kernel, err = kilobytes("/proc/meminfo"); err != nil {
		return u, err
	}
	for _, pid := range pids {
		smaps, err := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return u, err
		}
		u.processes += smaps["Pss"]
		descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			return u, err
		}
		u.descriptors += len(descriptors)
	}
	u.entries, err = mapEntries(pids)
	return u, err
}

// kilobytes reads lines like "Slab:  1234 kB", in bytes.
func kilobytes(path string) (map[string]uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read memory in use: %w", err)
	}
	values := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		var kb uint64
		if _, err := fmt.Sscanf(rest, "%d kB", &kb); err == nil {
			values[name] = kb << 10
		}
	}
	return values, nil
}
