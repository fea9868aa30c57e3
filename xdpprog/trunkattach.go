// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// trunkValue is struct trunk of bpf/shared.h.
type trunkValue struct{ IfIndex, Queues uint32 }

// Attach puts to_port on the trunk's inner device, by ifindex, and tells from_port to hand packets to it in transmit
// queues 0 to queues-1. A hook of ours that is pinned and attached there is taken over: its program is replaced in one
// update. It may be called again, also with another device when the trunk is made anew: the hook leaves the one before.
// Until the first call packets of pods are dropped. Errors: ErrNoDevice, ErrNotSupported.
func (t *Trunk) Attach(inner int, queues int) error {
	if queues < 1 {
		return fmt.Errorf("attach trunk: %d queues, a trunk has at least one", queues)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.attach(inner); err != nil {
		return fmt.Errorf("attach trunk to device %d: %w", inner, explainTCX(err))
	}
	if err := t.maps["trunk"].Put(uint32(0), trunkValue{uint32(inner), uint32(queues)}); err != nil {
		return fmt.Errorf("attach trunk to device %d: %w", inner, err)
	}
	return nil
}

func (t *Trunk) attach(inner int) error {
	if err := t.openPinnedLink(); err != nil {
		return err
	}
	if t.link != nil {
		at, err := deviceOf(t.link)
		if err != nil {
			return err
		}
		if at == inner {
			return t.link.Update(t.toPort)
		}
		if err := t.leave(); err != nil {
			return err
		}
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: inner, Program: t.toPort, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return err
	}
	if t.pins != "" {
		if err := l.Pin(filepath.Join(t.pins, pinnedLink)); err != nil {
			return errors.Join(fmt.Errorf("pin hook: %w", err), l.Close()) // it goes with its last descriptor
		}
	}
	t.link = l
	return nil
}

// openPinnedLink takes over what a process before left, wherever it is attached.
func (t *Trunk) openPinnedLink() error {
	if t.link != nil || t.pins == "" {
		return nil
	}
	l, err := link.LoadPinnedLink(filepath.Join(t.pins, pinnedLink), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pinned hook: %w", err)
	}
	t.link = l
	return nil
}

// deviceOf returns the index of the device that a tcx link is attached to; 0: it vanished.
func deviceOf(l link.Link) (int, error) {
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("read hook: %w", err)
	}
	if tcx := info.TCX(); tcx != nil {
		return int(tcx.Ifindex), nil
	}
	return 0, nil
}

// leave takes to_port off the device that it is attached to.
func (t *Trunk) leave() error {
	err := t.link.Detach()
	if t.pins != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(t.pins, pinnedLink)))
	}
	err = errors.Join(err, t.link.Close())
	t.link = nil
	if err != nil {
		return fmt.Errorf("take hook off the trunk before: %w", err)
	}
	return nil
}

func explainTCX(err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return errors.Join(ErrNoDevice, err)
	case kernelBefore(6, 6):
		return &NotSupportedError{Feature: "tcx", Since: "6.6", Err: err}
	}
	return err
}
