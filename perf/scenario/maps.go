// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
)

// mapEntries counts what is in the eBPF maps that processes hold open: those of maps that grow, as an array always has
// all of its entries.
func mapEntries(pids []int) (int, error) {
	ids := map[ebpf.MapID]bool{}
	for _, pid := range pids {
		infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
		if err != nil {
			return 0, err
		}
		for _, path := range infos {
			if id, ok := mapID(path); ok {
				ids[id] = true
			}
		}
	}
	sum := 0
	for id := range ids {
		n, err := entriesOf(id)
		if err != nil {
			return 0, fmt.Errorf("count entries of eBPF map %d: %w", id, err)
		}
		sum += n
	}
	return sum, nil
}

// mapID is in the fdinfo of a map's descriptor (bpf_map_show_fdinfo in linux/kernel/bpf/syscall.c).
func mapID(fdinfo string) (id ebpf.MapID, ok bool) {
	text, err := os.ReadFile(fdinfo)
	if err != nil {
		return 0, false // it was closed
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "map_id: %d", &id); err == nil {
			return id, true
		}
	}
	return 0, false
}

func entriesOf(id ebpf.MapID) (n int, err error) {
	m, err := ebpf.NewMapFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer m.Close()
	switch m.Type() {
	case ebpf.Hash, ebpf.PerCPUHash, ebpf.LRUHash, ebpf.LRUCPUHash, ebpf.LPMTrie, ebpf.HashOfMaps, ebpf.DevMapHash:
	default:
		return 0, nil
	}
	for key, err := m.NextKeyBytes(nil); ; key, err = m.NextKeyBytes(key) {
		if err != nil || key == nil {
			return n, err
		}
		n++
	}
}
