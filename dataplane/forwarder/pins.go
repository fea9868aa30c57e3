// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/xdpprog"
)

// bpffs is where systems mount it; it is left mounted.
const bpffs = "/sys/fs/bpf"

// preparePins makes the directory of the pins, on a bpffs, and makes it this process's own: one in another network
// namespace would adopt the hooks in it.
func (f *Forwarder) preparePins() error {
	if f.pins != nil {
		return nil
	}
	dirs := []string{f.cfg.Pins}
	if strings.HasPrefix(f.cfg.Pins, bpffs+"/") { // where nothing can be made until it is mounted
		dirs = []string{bpffs, f.cfg.Pins}
	}
	for _, dir := range dirs {
		if err := xdpprog.MountBPFFS(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(f.cfg.Pins, "ports"), 0o700); err != nil {
		return fmt.Errorf("make directory for pins: %w", err)
	}
	if f.awaits {
		return nil
	}
	dir, err := os.Open(f.cfg.Pins)
	if err != nil {
		return fmt.Errorf("claim directory of pins: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = dir.Close()
		return fmt.Errorf("%s is in use by another dataplane; stop that, or give another --bpf directory: %w",
			f.cfg.Pins, err)
	}
	f.pins = dir
	return nil
}

// removePins removes the directory of the pins when nothing is left in it, and the bpffs when it was mounted there.
func (f *Forwarder) removePins() {
	if f.pins == nil {
		return
	}
	_ = f.pins.Close() // which would keep the bpffs mounted
	f.pins = nil
	_ = os.Remove(filepath.Join(f.cfg.Pins, "ports"))
	if left, err := os.ReadDir(f.cfg.Pins); err != nil || len(left) > 0 {
		return
	}
	if err := os.Remove(f.cfg.Pins); errors.Is(err, unix.EBUSY) {
		_ = unix.Unmount(f.cfg.Pins, 0)
		_ = os.Remove(f.cfg.Pins)
	}
}
