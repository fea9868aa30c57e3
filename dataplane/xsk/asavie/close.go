// SPDX-License-Identifier: Apache-2.0

package asavie

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// unmapping keeps two goroutines from unmapping the same rings, the second one when others may be at their address.
var unmapping sync.Mutex

// unmapRings unmaps the rings of a socket. The library does not, and since a mapping keeps its file open, the socket
// would stay bound to its queue for as long as the process lives. The library keeps the addresses to itself, so they
// are read from the list of the process's mappings, which names each by its socket's inode.
func unmapRings(fd int) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("unmap rings: %w", err)
	}
	ours := fmt.Sprintf("socket:[%d]", stat.Ino)
	return unmapSockets(func(name string) bool { return name == ours })
}

// unmapOrphans unmaps the rings of sockets that the library closed when it failed to open them: those of which no
// descriptor is left.
func unmapOrphans() error {
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("unmap rings: %w", err)
	}
	open := map[string]bool{}
	for _, d := range descriptors {
		if name, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil {
			open[name] = true
		}
	}
	return unmapSockets(func(name string) bool { return !open[name] })
}

// unmapSockets unmaps every mapping of a socket that is chosen by its name, which is "socket:[inode]".
func unmapSockets(chosen func(name string) bool) error {
	unmapping.Lock()
	defer unmapping.Unlock()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("unmap rings: %w", err)
	}
	for lines := bufio.NewScanner(strings.NewReader(string(maps))); lines.Scan(); {
		at := strings.LastIndex(lines.Text(), "socket:[")
		if at < 0 || !chosen(lines.Text()[at:]) {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &start, &end); err != nil {
			return fmt.Errorf("unmap rings: %w", err)
		}
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, start, end-start, 0); errno != 0 {
			return fmt.Errorf("unmap rings: %w", errno)
		}
	}
	return nil
}
