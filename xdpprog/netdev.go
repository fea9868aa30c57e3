// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"fmt"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The netdev generic netlink family: Documentation/netlink/specs/netdev.yaml, linux/netdev.h. Linux 6.3.
const (
	netdevFamily    = "netdev"
	netdevDevGet    = 1 // NETDEV_CMD_DEV_GET
	netdevIfIndex   = 1 // NETDEV_A_DEV_IFINDEX
	netdevXDP       = 3 // NETDEV_A_DEV_XDP_FEATURES
	netdevMaxSegs   = 4 // NETDEV_A_DEV_XDP_ZC_MAX_SEGS
	netdevXSK       = 6 // NETDEV_A_DEV_XSK_FEATURES
	actBasic        = 1 << 0
	actRedirect     = 1 << 1
	actNdoXmit      = 1 << 2
	actZeroCopy     = 1 << 3
	actRxSG         = 1 << 5
	actNdoXmitSG    = 1 << 6
	xskTxTimestamp  = 1 << 0
	xskTxChecksum   = 1 << 1
	xskTxLaunchTime = 1 << 2
)

// netdevInfo is what the kernel says of a device.
type netdevInfo struct {
	xdp, xsk  uint64
	maxSegs   uint32
	tellsXSK  bool // the kernel knows TX metadata
	tellsSegs bool // the driver has zero copy
}

// DeviceFeatures asks the kernel what the XDP and AF_XDP support of a device's driver is. ErrNoDevice when there is
// no such device, ErrNotSupported before Linux 6.3.
func DeviceFeatures(ifindex int) ([]Feature, error) {
	info, err := askNetdev(ifindex)
	if err != nil {
		return nil, err
	}
	xdp := func(bit uint64) bool { return info.xdp&bit != 0 }
	xsk := func(bit uint64) bool { return info.xsk&bit != 0 }
	segments := "one segment a packet in zero copy"
	if info.tellsSegs {
		segments = fmt.Sprintf("%d segments a packet", info.maxSegs)
	}
	return []Feature{
		{"XDP native", xdp(actBasic), "", "without it the hook is generic"},
		{"XDP redirect", xdp(actRedirect), "", "native hooks hand frames to sockets by it"},
		{"XDP transmit", xdp(actNdoXmit), "", "frames of other devices are redirected here"},
		{"AF_XDP zero copy", xdp(actZeroCopy), "", "without it frames are copied"},
		{"XDP receive fragments", xdp(actRxSG), "", "native hooks at an MTU over a page"},
		{"XDP transmit fragments", xdp(actNdoXmitSG), "", "redirected frames of several fragments"},
		{"AF_XDP zero-copy segments", info.tellsSegs && info.maxSegs > 1, "", segments},
		{"AF_XDP tx timestamp", xsk(xskTxTimestamp), "", "by the device; not used"},
		{"AF_XDP tx checksum", xsk(xskTxChecksum), "", "by the device; in copy mode the kernel completes it"},
		{"AF_XDP launch time", xsk(xskTxLaunchTime), "", "by the device; not used"},
	}, nil
}

// TakesRedirected says whether XDP hooks that run in drivers can redirect frames out of a device, and those of several
// fragments. A veth takes them while XDP or GRO is on at its other end. Errors are those of DeviceFeatures.
func TakesRedirected(ifindex int) (frames, fragments bool, err error) {
	info, err := askNetdev(ifindex)
	return info.xdp&actNdoXmit != 0, info.xdp&actNdoXmitSG != 0, err
}

func askNetdev(ifindex int) (netdevInfo, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return netdevInfo{}, fmt.Errorf("open generic netlink: %w", err)
	}
	defer conn.Close()
	family, err := conn.GetFamily(netdevFamily)
	if errors.Is(err, unix.ENOENT) {
		return netdevInfo{}, &NotSupportedError{Feature: "netdev netlink", Since: "6.3", Err: err}
	}
	if err != nil {
		return netdevInfo{}, fmt.Errorf("find netlink family %s: %w", netdevFamily, err)
	}
	request := netlink.NewAttributeEncoder()
	request.Uint32(netdevIfIndex, uint32(ifindex))
	data, err := request.Encode()
	if err != nil {
		return netdevInfo{}, fmt.Errorf("encode netdev request: %w", err)
	}
	replies, err := conn.Execute(genetlink.Message{
		Header: genetlink.Header{Command: netdevDevGet, Version: family.Version}, Data: data,
	}, family.ID, netlink.Request)
	if errors.Is(err, unix.ENODEV) {
		return netdevInfo{}, fmt.Errorf("device %d: %w", ifindex, ErrNoDevice)
	}
	if err != nil {
		return netdevInfo{}, fmt.Errorf("ask for features of device %d: %w", ifindex, err)
	}
	if len(replies) != 1 {
		return netdevInfo{}, fmt.Errorf("ask for features of device %d: %d replies", ifindex, len(replies))
	}
	return decodeNetdev(replies[0].Data)
}

func decodeNetdev(b []byte) (netdevInfo, error) {
	var info netdevInfo
	attributes, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return info, fmt.Errorf("read device features: %w", err)
	}
	for attributes.Next() {
		switch attributes.Type() {
		case netdevXDP:
			info.xdp = attributes.Uint64()
		case netdevMaxSegs:
			info.maxSegs, info.tellsSegs = attributes.Uint32(), true
		case netdevXSK:
			info.xsk, info.tellsXSK = attributes.Uint64(), true
		}
	}
	if err := attributes.Err(); err != nil {
		return info, fmt.Errorf("read device features: %w", err)
	}
	return info, nil
}

// hasFamily and hasTxMetadata ask about the loopback device, whose index is 1 in every namespace.
func hasFamily() bool {
	_, err := askNetdev(1)
	return err == nil
}

func hasTxMetadata() bool {
	info, err := askNetdev(1)
	return err == nil && info.tellsXSK
}
