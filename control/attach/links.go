// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Links are the devices of a network namespace, as the kernel has them.
type Links struct {
	handle *netlink.Handle
	ns     netns.NsHandle
}

// OpenLinks looks into the network namespace, which stays the caller's to close; netns.None: the one of the process.
func OpenLinks(ns netns.NsHandle) (*Links, error) {
	open := func() (*netlink.Handle, error) { return netlink.NewHandle(unix.NETLINK_ROUTE) }
	if ns != netns.None() {
		open = func() (*netlink.Handle, error) { return netlink.NewHandleAt(ns, unix.NETLINK_ROUTE) }
	}
	handle, err := open()
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &Links{handle, ns}, nil
}

// Close ends it.
func (l *Links) Close() { l.handle.Close() }

// Devices are the names of those that are pods'. A dump that changes under way is asked for again.
func (l *Links) Devices() (map[string]bool, error) {
	const attempts = 5
	for range attempts {
		list, err := l.handle.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list devices: %w", err)
		}
		names := map[string]bool{}
		for _, link := range list {
			if name := link.Attrs().Name; strings.HasPrefix(name, DevicePrefix) {
				names[name] = true
			}
		}
		return names, nil
	}
	return nil, errors.New("list devices: they change all the time")
}

// MTU is that of the uplink, in bytes; where none is named, the smallest of those that the default routes leave by. It
// is 0 where there is none of these.
func (l *Links) MTU(uplink string) (mtu uint32, err error) {
	if uplink != "" {
		link, err := l.handle.LinkByName(uplink)
		if err != nil {
			return 0, fmt.Errorf("find the uplink %s: %w", uplink, err)
		}
		return uint32(link.Attrs().MTU), nil
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := l.handle.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Dst: nil},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return 0, fmt.Errorf("list default routes: %w", err)
		}
		for _, r := range routes {
			for _, index := range hops(r) {
				if link, err := l.handle.LinkByIndex(index); err == nil && (mtu == 0 || uint32(link.Attrs().MTU) < mtu) {
					mtu = uint32(link.Attrs().MTU)
				}
			}
		}
	}
	return mtu, nil
}

// hops are the devices that a route leaves by.
func hops(r netlink.Route) (devices []int) {
	for _, hop := range r.MultiPath {
		devices = append(devices, hop.LinkIndex)
	}
	if r.LinkIndex != 0 {
		devices = append(devices, r.LinkIndex)
	}
	return devices
}

// Hooked says whether a pod's device has the hook that hands its packets to the trunk.
func (l *Links) Hooked(device string) (bool, error) {
	link, err := l.handle.LinkByName(device)
	if err != nil {
		return false, fmt.Errorf("find device %s: %w", device, err)
	}
	filters, err := l.handle.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if err != nil && !errors.Is(err, unix.EINVAL) { // which says that there is no qdisc for one
		return false, fmt.Errorf("list the hooks of device %s: %w", device, err)
	}
	return slices.ContainsFunc(filters, func(f netlink.Filter) bool {
		b, is := f.(*netlink.BpfFilter)
		return is && strings.HasPrefix(b.Name, hookName)
	}), nil
}

// hookName is what the dataplane calls the hook at a pod's device.
const hookName = "from_port"

// Watch calls gone once it would hear of a pod's device that vanishes, and whenever one does, until the context ends or
// the kernel has said more than could be heard: the error says so.
func (l *Links) Watch(ctx context.Context, gone func()) error {
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	options := netlink.LinkSubscribeOptions{ErrorCallback: func(error) {}}
	if l.ns != netns.None() {
		options.Namespace = &l.ns
	}
	if err := netlink.LinkSubscribeWithOptions(updates, done, options); err != nil {
		close(done)
		return fmt.Errorf("follow devices: %w", err)
	}
	gone() // what vanished before
	stop := context.AfterFunc(ctx, func() { close(done) })
	for u := range updates { // closed when done is, or after an error
		if u.Header.Type == unix.RTM_DELLINK && strings.HasPrefix(u.Attrs().Name, DevicePrefix) {
			gone()
		}
	}
	if stop() {
		close(done)
		return errors.New("follow devices: the kernel said more than was heard")
	}
	return nil
}
