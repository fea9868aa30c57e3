// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/host"
)

// settleUplinks has the hook be at the devices by which the host reaches the network, and no others.
func (f *Forwarder) settleUplinks() (notes []host.Note) {
	hooks := f.services.hooks
	wanted, err := uplinks(f.snapshot.GetNode())
	if err != nil {
		return []host.Note{{Subject: "uplink", Reason: "services are not reached from outside: " + err.Error()}}
	}
	for _, ifindex := range hooks.Uplinks() {
		if slices.Contains(wanted, ifindex) {
			continue
		}
		if err := hooks.DetachUplink(ifindex); err != nil {
			f.log.Warn("taking the hook of services off a device", zap.Error(err))
		}
	}
	for _, ifindex := range wanted {
		if err := hooks.AttachUplink(ifindex); err != nil {
			notes = append(notes, host.Note{Subject: "uplink " + nameOf(ifindex),
				Reason: "services are not reached by it: " + err.Error()})
		}
	}
	return notes
}

// uplinks lists the devices by which the host's stack reaches the network, by ifindex: the one that is configured,
// which may be away, or those of the default routes. Uplinks that are not through the stack have hooks of their own.
func uplinks(node *api.NodeSettings) ([]int, error) {
	u := node.GetUplink()
	switch {
	case u.GetDevice() == "":
		return host.DefaultDevices()
	case u.GetMode() != api.Uplink_MODE_KERNEL:
		return nil, nil
	}
	link, err := netlink.LinkByName(u.GetDevice())
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", u.GetDevice(), err)
	}
	return []int{link.Attrs().Index}, nil
}

func nameOf(ifindex int) string {
	link, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Sprint(ifindex)
	}
	return link.Attrs().Name
}
