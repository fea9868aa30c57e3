// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc: USER_HZ is 100 on every architecture that Go runs on.
const tick = 10 * time.Millisecond

// cpuNote explains what cpuTime counts.
const cpuNote = "cpu per packet = (run time of the subject's processes, softirqs run inside them included, by " +
	"/proc/PID/stat + softirq time of the generator's CPUs, by /proc/stat + run time of ksoftirqd on the other CPUs) " +
	"/ packets received"

// cpuTime is the processor time spent for the subject so far: its processes, and the softirqs that serve it outside
// of them. On the generator's CPUs those are the delivery to the subject (for kernel forwarding: all of it); on the
// others they run within the subject's system calls, and thus in its own time, or in ksoftirqd.
func cpuTime(pids, generatorCPUs []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		t, err := processTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read CPU times: %w", err)
	}
	for _, cpu := range generatorCPUs {
		t, err := softirqTime(b, cpu)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	other, err := ksoftirqdTime(generatorCPUs)
	return sum + other, err
}

// otherTime is the processor time that went to neither this process nor the subject's so far: where it is more than a
// few per cent of a run, the machine was not free for the measurement.
func otherTime(pids []int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read CPU times: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 {
		return 0, fmt.Errorf("read CPU times: %q", line)
	}
	// user, nice, system; then, past idle and iowait: irq, softirq, steal.
	sum, err := ticks(f[1], f[2], f[3], f[6], f[7], f[8])
	if err != nil {
		return 0, err
	}
	for _, pid := range append([]int{os.Getpid()}, pids...) {
		t, err := processTime(pid)
		if err != nil {
			return 0, err
		}
		sum -= t
	}
	return sum, nil
}

// processTime is utime + stime of all threads, proc(5) fields 14 and 15.
func processTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time of process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time of process %d: %d fields", pid, len(fields))
	}
	return ticks(fields[11], fields[12])
}

// softirqTime is the 7th number of a cpuN line of /proc/stat.
func softirqTime(stat []byte, cpu int) (time.Duration, error) {
	name := fmt.Sprintf("cpu%d", cpu)
	for line := range strings.Lines(string(stat)) {
		if f := strings.Fields(line); len(f) > 7 && f[0] == name {
			return ticks(f[7])
		}
	}
	return 0, fmt.Errorf("read CPU times: no %s in /proc/stat", name)
}

func ksoftirqdTime(except []int) (time.Duration, error) {
	threads, err := ksoftirqd()
	if err != nil {
		return 0, err
	}
	for _, cpu := range except {
		delete(threads, cpu)
	}
	var sum time.Duration
	for _, pid := range threads {
		t, err := processTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// ksoftirqd finds the thread of each CPU. Inside a process namespace there are none to see.
func ksoftirqd() (map[int]int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	threads := map[int]int{}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil {
			continue // it ended
		}
		var cpu int
		if n, _ := fmt.Sscanf(string(comm), "ksoftirqd/%d", &cpu); n == 1 {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			threads[cpu] = pid
		}
	}
	return threads, nil
}

func ticks(numbers ...string) (time.Duration, error) {
	var sum time.Duration
	for _, s := range numbers {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}
