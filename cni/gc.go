// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// gc removes the network's attachments that cni.dev/valid-attachments does not list: devices of ours that nobody asked
// for, control's records, and what an IPAM plugin holds. Devices that tell whose they are go before their addresses.
func gc(ctx context.Context, args *skel.CmdArgs) error {
	c, err := load(args)
	if err != nil {
		return err
	}
	valid, err := c.valid()
	if err != nil {
		return err
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fail(types.ErrIOFailure, "open netlink", err)
	}
	defer host.Close()
	control, err := dial(ctx, c)
	if err != nil {
		return err
	}
	defer control.close()
	errs := []error{sweep(host, c.Name, valid)}
	errs = append(errs, collect(ctx, host, control, &attach.CollectRequest{Network: c.Name, Valid: valid}))
	if c.delegated() {
		errs = append(errs, c.ipamError(invoke.DelegateGC(ctx, c.IPAM.Type, args.StdinData, nil)))
	}
	return first(errs)
}

// valid are the keys that stay. Without a list nothing is known, and nothing may go.
func (c *config) valid() ([]*attach.Key, error) {
	if c.Valid == nil {
		return nil, invalid("GC without cni.dev/valid-attachments")
	}
	var listed []types.GCAttachment
	if err := json.Unmarshal(c.Valid, &listed); err != nil {
		return nil, fail(types.ErrDecodingFailure, "decode cni.dev/valid-attachments", err)
	}
	var keys []*attach.Key
	for _, v := range listed {
		keys = append(keys, &attach.Key{Network: c.Name, Container: v.ContainerID, Interface: v.IfName})
	}
	return keys, nil
}

// sweep removes devices of this network that are no valid attachment's. Whose a device is its name and its alias say
// together: the name is the hash of the network and what the alias tells.
func sweep(host *netlink.Handle, network string, valid []*attach.Key) error {
	stays := map[string]bool{}
	for _, key := range valid {
		stays[name(key).device] = true
	}
	links, err := host.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // what came is well; GC is called again
		return fail(types.ErrIOFailure, "list the host's devices", err)
	}
	var errs []error
	for _, l := range links {
		device := l.Attrs().Name
		container, ifname, _ := strings.Cut(strings.TrimPrefix(l.Attrs().Alias, aliasPrefix), "/")
		key := &attach.Key{Network: network, Container: container, Interface: ifname}
		if ours(l) && name(key).device == device && !stays[device] {
			errs = append(errs, <-unpair(host, ours, device))
		}
	}
	return first(errs)
}

// collect has control forget the rest, and removes devices that it still knew of.
func collect(ctx context.Context, host *netlink.Handle, control *control, r *attach.CollectRequest) error {
	reply, err := control.Collect(ctx, r)
	if err != nil {
		return answered("viaduct-control did not collect", err)
	}
	var errs []error
	for _, device := range reply.Devices {
		errs = append(errs, <-unpair(host, ours, device))
	}
	return first(errs)
}
