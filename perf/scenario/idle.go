// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/viaduct-net/viaduct/perf/peer"
	"github.com/viaduct-net/viaduct/perf/report"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Idle is the share of a core that a subject takes while nothing passes.
type Idle struct {
	Comparison
	Duration time.Duration
}

// settleTime is left to a subject after its start: garbage collection, neighbour probes.
const settleTime = time.Second

// Validate says what is wrong with the settings.
func (i *Idle) Validate() error {
	if i.Duration < 10*time.Millisecond {
		return fmt.Errorf("duration %s: want at least 10ms", i.Duration)
	}
	for _, s := range i.Subjects {
		if s == "kernel" {
			return errors.New("subject kernel has no process whose time could be read")
		}
	}
	return i.Comparison.Validate()
}

// Run measures all subjects and adds results to doc.
func (i *Idle) Run(ctx context.Context, doc *report.Document) error {
	if err := i.Validate(); err != nil {
		return err
	}
	return i.compare(ctx, doc, "idle", i.trial)
}

func (i *Idle) trial(ctx context.Context, _ *rig.Rig, s peer.Subject) ([]Sample, error) {
	if err := sleep(ctx, settleTime); err != nil {
		return nil, err
	}
	from, err := runTime(s.PIDs())
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := sleep(ctx, i.Duration); err != nil {
		return nil, err
	}
	to, err := runTime(s.PIDs())
	if err != nil {
		return nil, err
	}
	return []Sample{{"cpu", "% of a core", 100 * float64(to-from) / float64(time.Since(start))}}, nil
}

// runTime sums the run times of all threads in nanoseconds, the first number of schedstat: /proc/PID/stat counts in
// hundredths of a second, too coarse for what should be nothing.
func runTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/schedstat", pid))
		if err != nil || len(threads) == 0 {
			return 0, fmt.Errorf("read run time of process %d: no /proc/%d/task/*/schedstat", pid, pid)
		}
		for _, path := range threads {
			b, err := os.ReadFile(path)
			if err != nil {
				continue // the thread ended
			}
			var ns int64
			if _, err := fmt.Sscan(string(b), &ns); err != nil {
				return 0, fmt.Errorf("read %s: %w", path, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
}
