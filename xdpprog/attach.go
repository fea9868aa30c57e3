// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// AttachMode says how Attach may attach. The zero value is Auto.
type AttachMode string

const (
	// Auto tries the driver and falls back to the kernel's generic hook.
	Auto AttachMode = "auto"
	// NativeOnly fails where the driver has no XDP.
	NativeOnly AttachMode = "native"
	// GenericOnly runs after the kernel has built an skb, on any device.
	GenericOnly AttachMode = "generic"
)

// DriverMode says how a hook is attached.
type DriverMode uint8

const (
	// NotAttached: Attach has not succeeded.
	NotAttached DriverMode = iota
	// Native: in the driver.
	Native
	// Generic: in the kernel's receive path, for drivers without XDP.
	Generic
)

// String returns "none", "native" or "generic".
func (m DriverMode) String() string { return [...]string{"none", "native", "generic"}[m%3] }

func (m DriverMode) flags() link.XDPAttachFlags {
	if m == Native {
		return link.XDPDriverMode
	}
	return link.XDPGenericMode
}

// Attach puts the hook on a device and says how it is attached. A hook of ours that is pinned in PinDir and attached
// there is taken over: its program is replaced in one update, in the driver mode it has. Where the AttachMode does not
// allow that mode, it is taken off and attached anew. On an error the device runs what it ran before, unless the error
// is about pins after that update, or the mode had to be another one.
//
// Errors: *BusyError (ErrBusy) when something else's XDP program is there, ErrNoDevice, *NotSupportedError
// (ErrNotSupported).
func (p *Port) Attach(ifindex int, how AttachMode) (DriverMode, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != nil {
		return NotAttached, fmt.Errorf("attach hook: already attached to device %d", p.ifindex)
	}
	modes, err := how.modes()
	if err != nil {
		return NotAttached, err
	}
	if err := detachPins(p.aside); err != nil { // of an attempt that was killed
		return NotAttached, err
	}
	found, err := attached(ifindex)
	if err != nil {
		return NotAttached, err
	}
	l, err := p.pinnedLinkAt(found)
	if err != nil {
		return NotAttached, err
	}
	if l != nil && !slices.Contains(modes, found.mode) {
		if err := errors.Join(detachPins(p.pins), l.Close()); err != nil {
			return NotAttached, err
		}
		l, found.program = nil, 0
	}
	mode := found.mode
	switch {
	case l != nil:
		p.adopted = true
		err = p.adopt(l, found)
	case found.program != 0:
		err = busy(found)
	default:
		l, mode, err = p.attachAnew(found, modes)
	}
	if err != nil {
		return NotAttached, err
	}
	p.link, p.ifindex, p.mode = l, ifindex, mode
	p.leadOn()
	p.loaded.pinProgram(p.object, p.name, p.pins)
	return mode, nil
}

// Adopted says that the hook was there before, pinned, and that Attach has taken it over.
func (p *Port) Adopted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.adopted
}

func (how AttachMode) modes() ([]DriverMode, error) {
	switch how {
	case Auto, "":
		return []DriverMode{Native, Generic}, nil
	case NativeOnly:
		return []DriverMode{Native}, nil
	case GenericOnly:
		return []DriverMode{Generic}, nil
	}
	return nil, fmt.Errorf("attach hook: mode %q: use auto, native or generic", string(how))
}

// pinnedLinkAt returns the link pinned for this port if it is what is attached to the device, else nil.
func (p *Port) pinnedLinkAt(found device) (link.Link, error) {
	if p.pins == "" {
		return nil, nil
	}
	l, err := link.LoadPinnedLink(filepath.Join(p.pins, pinnedLink), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned hook: %w", err)
	}
	info, err := l.Info()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read pinned hook: %w", err), l.Close())
	}
	// A link whose device vanished has no interface; one of another namespace has another program.
	x := info.XDP()
	if x == nil || int(x.Ifindex) != found.ifindex || info.Program != found.program {
		return nil, l.Close()
	}
	return l, nil
}

// adopt replaces the program of a hook of ours that is attached.
func (p *Port) adopt(l link.Link, found device) error {
	if err := p.pinAside(nil); err != nil {
		return errors.Join(err, removePins(p.aside), l.Close())
	}
	if err := p.update(l, p.program); err != nil { // commit point
		return errors.Join(fmt.Errorf("replace program of hook on %s: %w", found.name, err), removePins(p.aside),
			l.Close())
	}
	if err := errors.Join(p.takeMapPins(), p.setOnAbsence(p.options.OnAbsence)); err != nil {
		return errors.Join(err, l.Close()) // still attached, by its pin
	}
	return nil
}

// attachAnew attaches to a device without XDP, and pins.
func (p *Port) attachAnew(to device, modes []DriverMode) (link.Link, DriverMode, error) {
	if err := p.setOnAbsence(p.options.OnAbsence); err != nil {
		return nil, NotAttached, err
	}
	l, mode, err := p.attachFirst(to, modes)
	if err != nil {
		return nil, NotAttached, err
	}
	if err := p.commitPins(l); err != nil {
		return nil, NotAttached, errors.Join(err, removePins(p.aside), l.Detach(), l.Close())
	}
	return l, mode, nil
}

func (p *Port) commitPins(l link.Link) error {
	if p.pins == "" {
		return nil
	}
	if err := p.pinAside(l); err != nil {
		return err
	}
	if err := detachPins(p.pins); err != nil { // those of a device that vanished
		return err
	}
	if err := p.rename(p.aside, p.pins); err != nil { // commit point
		return fmt.Errorf("pin hook: %w", err)
	}
	return nil
}

// attachFirst attaches in the first mode that the device can.
func (p *Port) attachFirst(to device, modes []DriverMode) (link.Link, DriverMode, error) {
	var failed error
	for _, mode := range modes {
		l, err := link.AttachXDP(link.XDPOptions{Program: p.program, Interface: to.ifindex, Flags: mode.flags()})
		if err == nil {
			return l, mode, nil
		}
		failed = explainAttach(err, to, mode)
		if !driverRefuses(err) {
			break
		}
	}
	return nil, NotAttached, failed
}

// driverRefuses tells a driver that cannot from a device that is taken or gone. Drivers without XDP, without
// fragments or with too large an MTU say any of these.
func driverRefuses(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.Errno(524), unix.EINVAL, unix.ERANGE, ebpf.ErrNotSupported} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Check returns an error unless the program that the device really runs is ours, by identity and by tag.
func (p *Port) Check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link == nil {
		return errors.New("check hook: not attached")
	}
	found, err := attached(p.ifindex)
	if err != nil {
		return err
	}
	if found.program == 0 {
		return fmt.Errorf("check hook: device %s runs no XDP program", found.name)
	}
	want, err := p.program.Info()
	if err != nil {
		return fmt.Errorf("check hook: %w", err)
	}
	name, tag, err := describe(found.program)
	if err != nil {
		return fmt.Errorf("check hook: %w", err)
	}
	if id, _ := want.ID(); id != found.program || tag != want.Tag {
		return fmt.Errorf("check hook: device %s runs program %d (%s, tag %s), ours is %d (tag %s)",
			found.name, found.program, name, tag, id, want.Tag)
	}
	return nil
}
