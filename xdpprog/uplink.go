// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// AttachUplink puts from_uplink at the ingress of a device, by ifindex, before the tcx programs that are there: it
// leaves to them what is no service's. A hook of ours that is pinned there is taken over: its program is replaced in
// one update. Again at the same device it is no error. Errors: ErrNoDevice, ErrNotSupported, also of a device without
// Ethernet headers.
func (s *Services) AttachUplink(ifindex int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.attachUplink(ifindex); err != nil {
		return fmt.Errorf("attach hook to device %d: %w", ifindex, explainTCX(err))
	}
	return nil
}

func (s *Services) attachUplink(ifindex int) error {
	if l := s.uplinks[ifindex]; l != nil {
		if at, err := deviceOf(l); err == nil && at == ifindex {
			return s.update(l, pinOf(ifindex), s.fromUplink)
		}
		if err := s.leaveUplink(ifindex); err != nil { // another device has its number
			return err
		}
	}
	if device, err := netlink.LinkByIndex(ifindex); err != nil {
		return errors.Join(ErrNoDevice, err)
	} else if device.Attrs().EncapType != "ether" {
		return &NotSupportedError{Feature: "an Ethernet header on " + device.Attrs().Name, Err: errors.New("it has none")}
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: s.fromUplink,
		Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	if err != nil {
		return err
	}
	if err := s.keep(l, pinOf(ifindex)); err != nil {
		return err
	}
	s.uplinks[ifindex] = l
	return nil
}

func pinOf(ifindex int) string { return uplinkPin + strconv.Itoa(ifindex) }

// DetachUplink takes from_uplink off a device. It is no error when it is not there, or the device is gone.
func (s *Services) DetachUplink(ifindex int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.leaveUplink(ifindex); err != nil {
		return fmt.Errorf("take hook off device %d: %w", ifindex, err)
	}
	return nil
}

func (s *Services) leaveUplink(ifindex int) error {
	l := s.uplinks[ifindex]
	if l == nil {
		return nil
	}
	delete(s.uplinks, ifindex)
	return s.drop(l, pinOf(ifindex))
}

// Uplinks lists the devices that the hook was put at, also by the process before, by ifindex.
func (s *Services) Uplinks() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]int, 0, len(s.uplinks))
	for ifindex := range s.uplinks {
		list = append(list, ifindex)
	}
	slices.Sort(list)
	return list
}

// openPinnedUplinks takes over the hooks that a process before left.
func (s *Services) openPinnedUplinks() error {
	if s.pins == "" {
		return nil
	}
	entries, err := os.ReadDir(s.pins)
	if err != nil {
		return fmt.Errorf("read pins: %w", err)
	}
	for _, e := range entries {
		number, of := strings.CutPrefix(e.Name(), uplinkPin)
		ifindex, err := strconv.Atoi(number)
		if !of || err != nil {
			continue
		}
		l, err := link.LoadPinnedLink(filepath.Join(s.pins, e.Name()), nil)
		if err != nil {
			return fmt.Errorf("open pinned hook: %w", err)
		}
		s.uplinks[ifindex] = l
	}
	return nil
}
