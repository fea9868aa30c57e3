// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// from_port is a clsact filter and not tcx: a tcx attach waits for an RCU grace period, some 8 ms, in which nobody else
// changes a device (include/net/tcx.h, tcx_entry_sync, under the rtnl lock), and makes the deletion of its veth slower
// by 12 ms; a filter is attached in 0.1 ms. It goes with its device and needs no pin.
//
// The handle tells our filter from those of others; with the first priority it comes before them.
const (
	filterHandle   = 0x7664
	filterPriority = 1
)

func clsact(ifindex int) netlink.Qdisc {
	return &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

func filter(ifindex, program int) netlink.Filter {
	return &netlink.BpfFilter{Fd: program, Name: "from_port", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
		LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: filterHandle, Priority: filterPriority,
		Protocol: unix.ETH_P_ALL}}
}

// attachFilter puts the program at the device's ingress, in one step in place of one of ours that is there.
func attachFilter(ifindex, program int) error {
	err := netlink.QdiscAdd(clsact(ifindex))
	if err == nil || errors.Is(err, unix.EEXIST) {
		err = netlink.FilterReplace(filter(ifindex, program))
	}
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("attach hook to device %d: %w", ifindex, ErrNoDevice)
	}
	if err != nil {
		return fmt.Errorf("attach hook to device %d: %w", ifindex, err)
	}
	return nil
}

// detachFilter takes our filter off, and the qdisc unless it has filters of others. The device may be gone.
func detachFilter(ifindex int) error {
	err := netlink.FilterDel(filter(ifindex, -1))
	if isGone(err) {
		return nil
	}
	if err == nil {
		err = removeIdleQdisc(ifindex)
	}
	if err != nil {
		return fmt.Errorf("take hook off device %d: %w", ifindex, err)
	}
	return nil
}

func removeIdleQdisc(ifindex int) error {
	at := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(at, parent)
		if err != nil || len(filters) > 0 {
			return err
		}
	}
	if err := netlink.QdiscDel(clsact(ifindex)); !isGone(err) {
		return err
	}
	return nil
}

// isGone: the device, the filter, or the qdisc that it would be on (net/sched/cls_api.c, tc_del_tfilter).
func isGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}
