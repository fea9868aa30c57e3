// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A bound worker has its CPU for itself: no other thread of the process may run there.
func TestWorkersAreBound(t *testing.T) {
	keepAffinity(t)
	s := newSite(t, Config{CPUs: []int{1}})
	s.must(s.apply(s.snapshot()))
	s.must(s.echo("10.2.0.2:7000", 1<<20))
	if cpu := s.f.Status().Workers[0].Cpu; cpu != 1 {
		t.Errorf("status says CPU %d", cpu)
	}
	bound := 0
	eachThread(t, func(tid int) {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(tid, &set); err != nil {
			return // it ended
		}
		if set.IsSet(1) {
			bound++
			if set.Count() != 1 {
				t.Errorf("thread %d may run on the worker's CPU and on others", tid)
			}
		}
	})
	if bound != 1 {
		t.Errorf("%d threads may run on the worker's CPU", bound)
	}
}

// keepAffinity undoes at the end of the test what it does to the CPUs that threads may run on.
func keepAffinity(t *testing.T) {
	t.Helper()
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs: one for the worker and one for the rest")
	}
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { eachThread(t, func(tid int) { _ = unix.SchedSetaffinity(tid, &before) }) })
}

func eachThread(t *testing.T, visit func(tid int)) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(strings.TrimSpace(task.Name())); err == nil {
			visit(tid)
		}
	}
}

func TestCPUsThatAreNotThere(t *testing.T) {
	s := newSite(t, Config{CPUs: []int{4000}})
	if err := s.apply(s.snapshot()); err == nil || !strings.Contains(err.Error(), "CPU 4000") {
		t.Errorf("error %v", err)
	}
	s.nothingAttached()
}
