// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

var (
	// ErrBusy: the device has an XDP program that is not ours. See BusyError.
	ErrBusy = errors.New("device already has an XDP program")
	// ErrNoDevice: there is no such device, or it vanished.
	ErrNoDevice = errors.New("no such device")
	// ErrNotSupported: the kernel or the driver lacks a feature. See NotSupportedError.
	ErrNotSupported = errors.New("not supported")
	// ErrNoFlowTable: the hook was loaded without one.
	ErrNoFlowTable = errors.New("no flow table")
	// ErrNotShared: the port is owned and so has no addresses.
	ErrNotShared = errors.New("port is not shared")
)

// BusyError names the program that holds the device.
type BusyError struct {
	Device  string
	Program ebpf.ProgramID // 0 when the kernel did not say
	Name    string         // empty when the kernel did not say
	Mode    DriverMode
}

// Error says what is there and how to take it off.
func (e *BusyError) Error() string {
	return fmt.Sprintf("device %s already has an XDP program (id %d, %q, %s): stop its owner (`bpftool link` "+
		"names it), or `ip link set dev %s xdp off`, and try again", e.Device, e.Program, e.Name, e.Mode, e.Device)
}

// Unwrap returns ErrBusy.
func (e *BusyError) Unwrap() error { return ErrBusy }

// NotSupportedError names what is missing and the first kernel that has it.
type NotSupportedError struct {
	Feature string
	Since   string // "5.18"; empty where no kernel version helps
	Err     error
}

// Error is one line: the feature, the version, the cause.
func (e *NotSupportedError) Error() string {
	since := ""
	if e.Since != "" {
		since = fmt.Sprintf(" (Linux %s has it)", e.Since)
	}
	return fmt.Sprintf("%s is missing%s: %v", e.Feature, since, e.Err)
}

// Unwrap returns ErrNotSupported and the cause.
func (e *NotSupportedError) Unwrap() []error { return []error{ErrNotSupported, e.Err} }

func busy(found device) error {
	e := &BusyError{Device: found.name, Program: found.program, Mode: found.mode}
	if found.program != 0 {
		e.Name, _, _ = describe(found.program) // without a name the error still says enough
	}
	return e
}

// explainLoad says what a failure to load is due to. Kernels before 5.11 charge maps to RLIMIT_MEMLOCK, which is not
// raised here.
func explainLoad(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		if missing := MissingCapabilities(); missing != "" {
			return fmt.Errorf("missing %s: %w", missing, err)
		}
		if kernelBefore(5, 11) {
			return &NotSupportedError{Feature: "eBPF memory outside RLIMIT_MEMLOCK (raise `ulimit -l`)", Since: "5.11",
				Err: err}
		}
	case kernelBefore(5, 18):
		return &NotSupportedError{Feature: "XDP multi-buffer", Since: "5.18", Err: err}
	}
	return err
}

func explainAttach(err error, to device, mode DriverMode) error {
	switch {
	case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST):
		if again, e := attached(to.ifindex); e == nil {
			to = again
		}
		return busy(to)
	case errors.Is(err, unix.ENODEV) || vanished(to):
		return fmt.Errorf("device %s: %w", to.name, ErrNoDevice)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("attach hook to %s: missing %s: %w", to.name, MissingCapabilities(), err)
	case kernelBefore(5, 9):
		return &NotSupportedError{Feature: "bpf_link for XDP", Since: "5.9", Err: err}
	case driverRefuses(err) && mode == Native:
		return &NotSupportedError{Feature: fmt.Sprintf("native XDP on %s at MTU %d (the driver has none, or none with "+
			"fragments at this MTU: use mode generic, or an MTU that fits one page)", to.name, to.mtu), Err: err}
	}
	return fmt.Errorf("attach hook to %s in %s mode: %w", to.name, mode, err)
}

// vanished: the kernel says EINVAL for a link to a device that is gone (net/core/dev.c, bpf_xdp_link_attach).
func vanished(d device) bool {
	_, err := attached(d.ifindex)
	return errors.Is(err, ErrNoDevice)
}
