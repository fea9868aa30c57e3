// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// niceness is the worker threads' (sched(7)): far ahead of everything that may wait, the collector's threads among it.
const niceness = -20

// AnyCPU binds a worker to no CPU.
const AnyCPU = -1

// prefer puts the calling thread ahead of others and, unless it is AnyCPU, on a CPU of its own. What is not allowed is
// left: it costs latency under load, nothing else.
func prefer(cpu int) {
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness)
	if cpu != AnyCPU {
		var set unix.CPUSet
		set.Set(cpu)
		_ = unix.SchedSetaffinity(0, &set)
	}
}

// KeepOff moves every thread of the process off the CPUs, for workers to be bound to them. Threads that start later
// inherit it. It is an error when there is no such CPU or none would be left.
func KeepOff(cpus []int) error {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("read CPU affinity: %w", err)
	}
	for _, cpu := range cpus {
		if !allowed.IsSet(cpu) {
			return fmt.Errorf("CPU %d does not exist, or is not for this process", cpu)
		}
		allowed.Clear(cpu)
	}
	if allowed.Count() == 0 {
		return fmt.Errorf("no CPU is left for anything but workers")
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil {
			if err := unix.SchedSetaffinity(tid, &allowed); err != nil && err != unix.ESRCH {
				return fmt.Errorf("set CPU affinity: %w", err)
			}
		}
	}
	return nil
}
