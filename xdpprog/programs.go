// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// The kernel takes 20 to 60 ms to verify a program, in which no packet passes that waits for userspace. So a program is
// pinned with its maps, and a process of the same build that takes the maps over takes the program as well.

// verified is a program and descriptors of its maps, those of a flow table included.
type verified struct {
	program *ebpf.Program
	maps    map[string]*ebpf.Map
	reused  bool
}

// loadProgram loads a program of an object with the maps in use, and makes those that are missing; or takes over the
// one that is pinned.
func loadProgram(spec *ebpf.CollectionSpec, object []byte, name string, use map[string]*ebpf.Map,
	pins string) (*verified, error) {
	if l := pinnedProgram(spec, object, name, use, pins); l != nil {
		return l, nil
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: use})
	if err != nil {
		return nil, explainLoad(err)
	}
	return &verified{program: collection.Programs[name], maps: collection.Maps}, nil
}

const programPin = "program-"

// programPinOf is the name of a program's pin, which no other build's has.
func programPinOf(object []byte, name string) string {
	return fmt.Sprintf("%s%s-%x", programPin, name, sha256.Sum256(object))
}

// pinnedProgram is the program that an earlier process of this build has pinned, if its maps are those in use; nil:
// there is none.
func pinnedProgram(spec *ebpf.CollectionSpec, object []byte, name string, use map[string]*ebpf.Map,
	pins string) *verified {
	if pins == "" {
		return nil
	}
	program, err := ebpf.LoadPinnedProgram(filepath.Join(pins, programPinOf(object, name)), nil)
	if err != nil {
		return nil
	}
	l := &verified{program: program, maps: make(map[string]*ebpf.Map), reused: true}
	if l.fits(spec, use) != nil {
		closeMaps(l.maps)
		_ = program.Close()
		return nil
	}
	return l
}

var errOtherMaps = errors.New("the program has other maps")

// fits says whether all maps of the program are those in use, but for those of a flow table that it does without, and
// takes descriptors of them.
func (l *verified) fits(spec *ebpf.CollectionSpec, use map[string]*ebpf.Map) error {
	known := make(map[ebpf.MapID]bool)
	for name := range spec.Maps {
		m := use[name]
		if m == nil && slices.Contains(flowMaps, name) {
			continue
		}
		if m == nil {
			return errOtherMaps
		}
		info, err := m.Info()
		if err != nil {
			return err
		}
		id, _ := info.ID()
		known[id] = true
		if l.maps[name], err = m.Clone(); err != nil {
			return err
		}
	}
	info, err := l.program.Info()
	if err != nil {
		return err
	}
	ids, ok := info.MapIDs()
	if !ok || len(ids) == 0 {
		return errOtherMaps
	}
	for _, id := range ids {
		if !known[id] && (use[flowMaps[0]] != nil || !isNoFlowMap(id)) {
			return errOtherMaps
		}
	}
	return nil
}

// isNoFlowMap: a map that stands for one of a flow table where there is none (FlowTable.into).
func isNoFlowMap(id ebpf.MapID) bool {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return false
	}
	defer m.Close()
	info, err := m.Info()
	return err == nil && info.MaxEntries == 1 && slices.Contains(flowMaps, info.Name)
}

// pinProgram pins a program beside its maps, in place of any other build's. Without the pin the next process has it
// verified, so that no error matters.
func (l *verified) pinProgram(object []byte, name, pins string) {
	if pins == "" || l.reused {
		return
	}
	entries, err := os.ReadDir(pins)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), programPin+name+"-") {
			_ = os.Remove(filepath.Join(pins, e.Name()))
		}
	}
	c, err := l.program.Clone() // a pin of the library's moves
	if err != nil {
		return
	}
	_ = c.Pin(filepath.Join(pins, programPinOf(object, name)))
	_ = c.Close()
}
