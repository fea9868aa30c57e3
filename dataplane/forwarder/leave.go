// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// Hooks of devices outlive the process, as those of pods do: they carry the flows that they know. What else comes meets
// a hook without a socket, which drops, or passes, as onAbsence says, and counts.

// stays says whether a device's hook is left where it is when the forwarder closes: the trunk's with the pods' hooks,
// and others that carry. A device of which nothing is carried is the kernel's again.
func (f *Forwarder) stays(d *device) bool {
	switch {
	case f.cfg.Cleanup || f.cfg.Pins == "":
		return false
	case d.name == tables.TrunkDevice:
		return f.trunk.hooks != nil
	}
	return !f.cfg.Release && f.carrier.kernel != nil && f.snapshot.GetNode().GetOffload()
}

// leaveDevice lets go of a device, and leaves its hook for the next process to take over: with it the offloads that it
// cannot do with.
func (f *Forwarder) leaveDevice(name string) error {
	d := f.devices[name]
	delete(f.devices, name)
	var errs []error
	for _, t := range f.workers {
		errs = append(errs, t.worker.Call(context.Background(), func() { t.worker.RemoveDevice(d.index) }))
	}
	f.log.Info("device left to its hook", zap.String("device", name))
	return errors.Join(append(errs, d.hook.Close())...)
}

// dropPinned takes off the hooks that are pinned for devices, by an earlier process perhaps, but for those that are
// used.
func (f *Forwarder) dropPinned(used map[string]bool) error {
	if f.cfg.Pins == "" {
		return nil
	}
	ports := filepath.Join(f.cfg.Pins, "ports")
	devices, err := xdpprog.PinnedPorts(ports)
	if err != nil {
		return fmt.Errorf("hooks of before: %w", err)
	}
	for _, name := range devices {
		if used[name] || f.devices[name] != nil {
			continue
		}
		if f.preparePins() != nil { // it is another dataplane's
			return err
		}
		owes := xdpprog.PinnedOwes(filepath.Join(ports, name))
		if dropErr := xdpprog.RemovePinned(filepath.Join(ports, name)); dropErr != nil {
			err = errors.Join(err, fmt.Errorf("hook of before on device %s: %w", name, dropErr))
			continue
		}
		if owes {
			giveOffload(name)
		}
		f.log.Info("hook of before taken off", zap.String("device", name))
	}
	return err
}
