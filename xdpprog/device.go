// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is what a device's XDP hook holds, as rtnetlink tells it.
type device struct {
	ifindex int
	name    string
	mtu     int
	program ebpf.ProgramID // 0: none
	mode    DriverMode
}

// Values of IFLA_XDP_ATTACHED, linux/if_link.h.
const (
	attachedDriver  = 1
	attachedGeneric = 2
)

func attached(ifindex int) (device, error) {
	l, err := netlink.LinkByIndex(ifindex)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
		return device{}, fmt.Errorf("device %d: %w", ifindex, ErrNoDevice)
	}
	if err != nil {
		return device{}, fmt.Errorf("read device %d: %w", ifindex, err)
	}
	d := device{ifindex: ifindex, name: l.Attrs().Name, mtu: l.Attrs().MTU}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		d.program = ebpf.ProgramID(x.ProgId)
		switch x.AttachMode {
		case attachedDriver:
			d.mode = Native
		case attachedGeneric:
			d.mode = Generic
		}
	}
	return d, nil
}

// describe names a program that the kernel has.
func describe(id ebpf.ProgramID) (name, tag string, err error) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", "", fmt.Errorf("open program %d: %w", id, err)
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return "", "", fmt.Errorf("read program %d: %w", id, err)
	}
	return info.Name, info.Tag, nil
}
