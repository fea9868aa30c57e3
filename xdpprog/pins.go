// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// A pin directory holds the link and each map under its name. It appears in one rename of the directory beside it in
// which it was built (kernel/bpf/inode.c: a bpffs renames directories), so it is whole or not there.
const (
	pinnedLink = "link"
	pinnedTC   = "tc" // of from_wire_tc, which is there or not
)

// A bpffs has no names with dots (kernel/bpf/inode.c, bpf_lookup), devices do: eth0.100.
var (
	escapeDots   = strings.NewReplacer("%", "%25", ".", "%2e")
	unescapeDots = strings.NewReplacer("%25", "%", "%2e", ".")
)

// pinDirOf is where the pins of PinDir are: its last element with dots escaped.
func pinDirOf(dir string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(dir), escapeDots.Replace(filepath.Base(dir)))
}

// asideEnd ends the name of the directory where pins are built; no escaped name ends so.
const asideEnd = "%aside"

func asideOf(dir string) string {
	if dir == "" {
		return ""
	}
	return dir + asideEnd
}

// RemovePinned takes a hook that a process left pinned in a port's pin directory off its device, and removes the pins,
// those of an attempt that was killed as well. It is no error when there are none or the device is gone.
func RemovePinned(pinDir string) error {
	dir := pinDirOf(pinDir)
	return errors.Join(detachPins(asideOf(dir)), detachPins(dir))
}

// PinnedPorts lists the devices whose ports are pinned in directories of their own below a directory: the last elements
// of their PinDirs. One that is not there is empty.
func PinnedPorts(dir string) (devices []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read pins: %w", err)
	}
	for _, e := range entries {
		device := unescapeDots.Replace(strings.TrimSuffix(e.Name(), asideEnd))
		if !slices.Contains(devices, device) {
			devices = append(devices, device)
		}
	}
	return devices, nil
}

// PinnedOwes is Port.Owes of a hook that is pinned in a port's pin directory.
func PinnedOwes(pinDir string) bool {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinDirOf(pinDir), "config"), nil)
	if err != nil {
		return false
	}
	defer m.Close()
	var c configValue
	return m.Lookup(uint32(0), &c) == nil && c.Owed != 0
}

func detachPins(dir string) error {
	if dir == "" {
		return nil
	}
	for _, name := range []string{pinnedLink, pinnedTC} {
		l, err := link.LoadPinnedLink(filepath.Join(dir, name), nil)
		if err == nil { // explicitly, since the kernel drops an unpinned link at a later time of its own
			err = errors.Join(l.Detach(), l.Close())
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("detach pinned hook: %w", err)
		}
	}
	return removePins(dir)
}

// pinnedMaps opens those maps of the spec that are pinned in dir and fit; others are made afresh.
func pinnedMaps(dir string, spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	maps := make(map[string]*ebpf.Map)
	if dir == "" {
		return maps
	}
	for name, s := range spec.Maps {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if err != nil {
			continue
		}
		if s.Compatible(m) != nil {
			m.Close()
			continue
		}
		maps[name] = m
	}
	return maps
}

// pinAside pins the maps, and the link if there is one to pin, beside the pin directory.
func (p *Port) pinAside(l link.Link) error {
	if err := os.MkdirAll(p.aside, 0o700); err != nil {
		return fmt.Errorf("pin hook: %w", err)
	}
	if l != nil {
		if err := l.Pin(filepath.Join(p.aside, pinnedLink)); err != nil {
			return fmt.Errorf("pin hook (is %s on a bpffs?): %w", p.pins, err)
		}
	}
	return p.pinMaps(p.aside)
}

// pinMaps pins the port's maps in dir. The maps are duplicates, because a pin of the library's moves.
func (p *Port) pinMaps(dir string) error {
	for name, m := range p.maps {
		c, err := m.Clone()
		if err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		err = c.Pin(filepath.Join(dir, name))
		c.Close()
		if err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// takeMapPins makes the map pins built aside those of the pin directory, where there may be maps that did not fit.
func (p *Port) takeMapPins() error {
	for name := range p.maps {
		if err := os.Rename(filepath.Join(p.aside, name), filepath.Join(p.pins, name)); err != nil {
			return fmt.Errorf("replace pin of map %s: %w", name, err)
		}
	}
	return removePins(p.aside)
}

func removePins(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
