// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"io/fs"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// attachment is one interface of one container in one network, and what a command works on it with.
type attachment struct {
	args     *skel.CmdArgs
	config   *config
	previous *current.Result // of the chain; nil: none
	key      *attach.Key
	names    names
	wanted   *wanted
	sandbox  *sandbox
	host     *netlink.Handle
	control  *control        // nil in a DEL without it
	given    *current.Result // by the IPAM plugin; nil: none
}

// add joins the container to the dataplane: all of it, or nothing is left.
func add(ctx context.Context, args *skel.CmdArgs) error {
	a, err := open(ctx, args)
	if err != nil {
		return err
	}
	defer a.close()
	result, err := a.add(ctx)
	if err != nil {
		return err
	}
	if err := types.PrintResult(result, a.config.CNIVersion); err != nil {
		return a.undone(fail(types.ErrIOFailure, "print the result", err))
	}
	return nil
}

// open checks what is asked, and opens what the command needs; nothing is changed yet.
func open(ctx context.Context, args *skel.CmdArgs) (*attachment, error) {
	c, err := load(args)
	if err != nil {
		return nil, err
	}
	a := &attachment{args: args, config: c}
	a.key = &attach.Key{Network: c.Name, Container: args.ContainerID, Interface: args.IfName}
	a.names = name(a.key)
	if a.wanted, err = c.wants(args); err != nil {
		return nil, err
	}
	if a.previous, err = c.previous(); err != nil {
		return nil, err
	}
	if a.sandbox, err = enter(args); err != nil {
		return nil, err
	}
	if a.host, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		a.close()
		return nil, fail(types.ErrIOFailure, "open netlink", err)
	}
	if a.control, err = dial(ctx, c); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *attachment) close() {
	if a.sandbox != nil {
		a.sandbox.close()
	}
	if a.host != nil {
		a.host.Close()
	}
	if a.control != nil {
		a.control.close()
	}
}

func (a *attachment) add(ctx context.Context) (*current.Result, error) {
	queues := 1
	if a.wanted.attach == attach.Attach_ATTACH_DIRECT {
		ready, err := a.control.Ready(ctx, &attach.ReadyRequest{})
		if err != nil {
			return nil, answered("ask viaduct-control for its queues", err)
		}
		queues = max(int(ready.Queues), 1)
	}
	err := a.pair(queues)
	if errors.Is(err, fs.ErrExist) {
		if result, err := a.again(ctx); result != nil || err != nil {
			return result, err
		}
		err = a.pair(queues)
	}
	if err != nil {
		return nil, a.undone(fail(types.ErrIOFailure, "make the interface", err))
	}
	result, err := a.furnish(ctx)
	if err != nil {
		return nil, a.undone(err)
	}
	return result, nil
}

// furnish makes an interface of the pair: addresses, a port of the dataplane's, routes.
func (a *attachment) furnish(ctx context.Context) (*current.Result, error) {
	var err error
	if a.config.delegated() {
		if a.given, err = a.delegate(ctx); err != nil {
			return nil, err
		}
	}
	p, err := a.ask(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.wire(p); err != nil {
		return nil, fail(types.ErrIOFailure, "set up the interface", err)
	}
	return a.result(p), nil
}

// ask has control lease addresses and make a port. When it returns the dataplane judges the interface's packets.
func (a *attachment) ask(ctx context.Context) (*plan, error) {
	device, err := a.host.LinkByName(a.names.device)
	if err != nil {
		return nil, fail(types.ErrIOFailure, "find the host's end of the interface", err)
	}
	request := &attach.AddRequest{
		Key: a.key, Netns: a.sandbox.path, NetnsDevice: a.sandbox.device, NetnsInode: a.sandbox.inode,
		PodNamespace: a.wanted.pod.namespace, PodName: a.wanted.pod.name, PodUid: a.wanted.pod.uid,
		Device: a.names.device, Ifindex: uint32(device.Attrs().Index), Mac: a.mac(), Attach: a.wanted.attach,
		Bandwidth: a.wanted.bandwidth, Delegated: a.config.delegated(), HostPorts: a.wanted.hostPorts,
	}
	for _, address := range a.wanted.addresses {
		request.Addresses = append(request.Addresses, address.String())
	}
	if a.given != nil {
		if request.Addresses, err = addressesOf(a.given); err != nil {
			return nil, fail(types.ErrDecodingFailure, "read the IPAM plugin's result", err)
		}
	}
	reply, err := a.control.Add(ctx, request)
	if err != nil {
		return nil, answered("viaduct-control refused the interface", err)
	}
	if a.given != nil {
		addRoutes(reply, a.given)
	}
	return read(reply)
}

func read(reply *attach.AddReply) (*plan, error) {
	p, err := parse(reply)
	if err != nil {
		return nil, fail(types.ErrDecodingFailure, "read viaduct-control's answer", err)
	}
	return p, nil
}

// undone removes every trace of the attachment, and returns the error with what went wrong with that.
func (a *attachment) undone(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), undoWithin)
	defer cancel()
	return followed(err, a.remove(ctx))
}
