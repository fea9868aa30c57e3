// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// A pin directory holds the link and each map under its name. It appears in one rename of the directory beside it in
// which it was built (kernel/bpf/inode.c: a bpffs renames directories), so it is whole or not there.
const pinnedLink = "link"

func asideOf(dir string) string { return filepath.Clean(dir) + ".aside" }

func renameDir(from, to string) error { return os.Rename(from, to) }

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

// pinAside pins link and maps in the directory beside dir.
func (p *Port) pinAside(l link.Link) error {
	aside := asideOf(p.options.PinDir)
	if err := removePins(aside); err != nil { // of an attempt that was killed
		return err
	}
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return fmt.Errorf("pin hook: %w", err)
	}
	if err := l.Pin(filepath.Join(aside, pinnedLink)); err != nil {
		return fmt.Errorf("pin hook (is %s on a bpffs?): %w", p.options.PinDir, err)
	}
	return p.pinMaps(aside)
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

// repinMaps makes the pins in dir those of the port's maps, after an adoption that could not take over every map.
func (p *Port) repinMaps(dir string) error {
	for name := range p.maps {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("replace pin of map %s: %w", name, err)
		}
	}
	return p.pinMaps(dir)
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
