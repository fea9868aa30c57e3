// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// delegate asks the IPAM plugin for addresses. One that an ADD was given that was killed then stands in the way of
// host-local's next: it is given back, once.
func (a *attachment) delegate(ctx context.Context) (*current.Result, error) {
	result, err := invoke.DelegateAdd(ctx, a.config.IPAM.Type, a.args.StdinData, nil)
	if err != nil {
		if invoke.DelegateDel(ctx, a.config.IPAM.Type, a.args.StdinData, nil) != nil {
			return nil, a.config.ipamError(err)
		}
		if result, err = invoke.DelegateAdd(ctx, a.config.IPAM.Type, a.args.StdinData, nil); err != nil {
			return nil, a.config.ipamError(err)
		}
	}
	given, err := current.NewResultFromResult(result)
	if err != nil {
		return nil, fail(types.ErrDecodingFailure, "decode the result of "+a.config.IPAM.Type, err)
	}
	if len(given.IPs) == 0 {
		return nil, invalid("the IPAM plugin %s gave no address", a.config.IPAM.Type)
	}
	return given, nil
}

// ipamError is the specification's error for what became of the IPAM plugin: its own where it gave one.
func (c *config) ipamError(err error) error {
	var e *types.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return fail(types.ErrInternal, "the IPAM plugin "+c.IPAM.Type+" failed", err)
}

// addressesOf are those of an IPAM plugin's result. Their subnets' lengths do not count: behind a router every address
// is a subnet of its own.
func addressesOf(given *current.Result) ([]string, error) {
	var addresses []string
	for _, ip := range given.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("the IPAM plugin gave the address %v", ip.Address)
		}
		addresses = append(addresses, a.Unmap().String())
	}
	return addresses, nil
}

// addRoutes adds an IPAM plugin's routes to control's. They go by our gateway, as everything does, with the MTU of the
// default route: what they add is that they hold where another interface has the default route.
func addRoutes(reply *attach.AddReply, given *current.Result) {
	have := map[string]bool{}
	mtu := map[bool]uint32{}
	for _, r := range reply.Routes {
		have[r.Destination] = true
		if p, err := netip.ParsePrefix(r.Destination); err == nil && p.Bits() == 0 {
			mtu[p.Addr().Is4()] = r.Mtu
		}
	}
	families := map[bool]bool{}
	for _, g := range reply.Gateways {
		if a, err := netip.ParseAddr(g); err == nil {
			families[a.Is4()] = true
		}
	}
	for _, r := range given.Routes {
		p, ok := prefixOf(r.Dst)
		if ok && p.Bits() > 0 && families[p.Addr().Is4()] && !have[p.String()] {
			have[p.String()] = true
			reply.Routes = append(reply.Routes, &attach.Route{Destination: p.String(), Mtu: mtu[p.Addr().Is4()]})
		}
	}
}

func prefixOf(n net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a.Unmap(), bits).Masked(), true
}
