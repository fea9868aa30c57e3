// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"fmt"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
)

// Numbers of the generic netlink family "netdev" (linux/netdev.h).
const (
	netdevDevGet      = 1 // NETDEV_CMD_DEV_GET
	netdevIfIndex     = 1 // NETDEV_A_DEV_IFINDEX
	netdevXDPFeatures = 3 // NETDEV_A_DEV_XDP_FEATURES
	netdevMaxSegments = 4 // NETDEV_A_DEV_XDP_ZC_MAX_SEGS
	netdevXSKFeatures = 6 // NETDEV_A_DEV_XSK_FEATURES

	xskTxChecksum = 1 << 1 // NETDEV_XSK_FLAGS_TX_CHECKSUM
)

// driver is what a device's driver can do for AF_XDP.
type driver struct {
	xdpFeatures uint64
	maxSegments int  // frames of a packet with zero copy; 0 where the driver has no multi-buffer
	txChecksum  bool // with zero copy
}

// askDriver asks the kernel about a device in the calling thread's network namespace; since Linux 6.3.
func askDriver(ifIndex int) (driver, error) {
	connection, err := genetlink.Dial(nil)
	if err != nil {
		return driver{}, fmt.Errorf("ask for driver features: %w", err)
	}
	defer connection.Close()
	family, err := connection.GetFamily("netdev")
	if err != nil {
		return driver{}, fmt.Errorf("ask for driver features: %w", err)
	}
	request := netlink.NewAttributeEncoder()
	request.Uint32(netdevIfIndex, uint32(ifIndex))
	data, err := request.Encode()
	if err != nil {
		return driver{}, fmt.Errorf("ask for driver features: %w", err)
	}
	answers, err := connection.Execute(genetlink.Message{
		Header: genetlink.Header{Command: netdevDevGet, Version: family.Version}, Data: data,
	}, family.ID, netlink.Request)
	if err != nil || len(answers) != 1 {
		return driver{}, fmt.Errorf("ask for driver features: %d answers, %w", len(answers), err)
	}
	return parseDriver(answers[0].Data)
}

func parseDriver(data []byte) (driver, error) {
	var d driver
	attributes, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return d, fmt.Errorf("driver features: %w", err)
	}
	for attributes.Next() {
		switch attributes.Type() {
		case netdevXDPFeatures:
			d.xdpFeatures = attributes.Uint64()
		case netdevMaxSegments:
			d.maxSegments = int(attributes.Uint32())
		case netdevXSKFeatures:
			d.txChecksum = attributes.Uint64()&xskTxChecksum != 0
		}
	}
	if err := attributes.Err(); err != nil {
		return d, fmt.Errorf("driver features: %w", err)
	}
	return d, nil
}
