// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/binaryutil"

	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Site is a node with pods and a world behind its uplink, in which pods are reached on admitted ports alone:
//
//	pods ── Node: up ── up :World
//
// It is used once: Start, then Close.
type Site struct {
	Node, World *rig.Namespace
	Up          rig.Device // the node's end of its uplink
	Beyond      rig.Device // the world's
	Network     *Network

	name     string
	admitted []cluster.Admitted
	pods     []*Pod
}

// SiteNames are what NewSite takes: viaduct by its trunk, and the kernel's forwarding with nftables, to which the
// reference plugin ptp wires pods.
func SiteNames() []string { return []string{"trunk", "kernel"} }

var (
	upAddress     = netip.MustParsePrefix("192.0.2.1/24")
	beyondAddress = netip.MustParsePrefix("192.0.2.2/24")
)

const upDevice = "up"

// NewSite makes a site that is not there yet.
func NewSite(name string, p Programs, admitted []cluster.Admitted) (*Site, error) {
	s := &Site{name: name, admitted: admitted}
	var err error
	switch name {
	case "trunk":
		s.Network, err = NewNetwork("trunk", p)
	case "kernel":
		s.Network, err = NewNetwork("ptp", p)
	default:
		err = fmt.Errorf("subject %q: want one of %s", name, strings.Join(SiteNames(), ", "))
	}
	return s, err
}

// Missing says what this machine lacks, "" if nothing.
func (s *Site) Missing() string { return s.Network.Missing() }

// Start builds the site. After an error nothing is left.
func (s *Site) Start(ctx context.Context) error {
	err := s.join()
	if err == nil && s.viaduct() {
		s.describe()
	}
	if err == nil {
		err = s.Network.Start(ctx, s.Node, nil)
	}
	if err == nil && !s.viaduct() {
		err = s.filter()
	}
	if err != nil {
		s.Network = nil
		return errors.Join(err, s.Close())
	}
	return nil
}

func (s *Site) viaduct() bool { return s.Network.daemons != nil }

// Socket is where viaduct's dataplane answers; of the kernel it is empty.
func (s *Site) Socket() string {
	if !s.viaduct() {
		return ""
	}
	return s.Network.Socket()
}

// join makes the node and the world, which knows the way to pods.
func (s *Site) join() error {
	for _, n := range []**rig.Namespace{&s.Node, &s.World} {
		made, err := rig.NewNamespace()
		if err != nil {
			return err
		}
		*n = made
	}
	if err := rig.Join(s.Node, s.World, upDevice, pathMTU); err != nil {
		return err
	}
	for _, end := range []struct {
		in      *rig.Namespace
		device  *rig.Device
		address netip.Prefix
	}{{s.Node, &s.Up, upAddress}, {s.World, &s.Beyond, beyondAddress}} {
		// Where the dataplane has the uplink's address, the node's own stack has none.
		if end.in == s.World || !s.viaduct() {
			if err := end.in.AddAddress(upDevice, end.address); err != nil {
				return err
			}
		}
		var err error
		if *end.device, err = end.in.Device(upDevice); err != nil {
			return err
		}
	}
	return s.World.AddRoute(netip.MustParsePrefix(podCIDR), upAddress.Addr())
}

// pathMTU is the uplink's.
const pathMTU = 1500

// describe says in manifests what the kernel is told in filter.
func (s *Site) describe() {
	s.Network.spec = fmt.Sprintf("  masquerade: false\n  mtu: %d\n  uplink: {device: %s, mode: shared}\n"+
		"  ports:\n  - {name: %s, device: %s, addresses: [%s]}\n", pathMTU, upDevice, upDevice, upDevice, upAddress)
	s.Network.furnish = func() map[string][]byte {
		return map[string][]byte{
			"route.yaml": fmt.Appendf(nil, "apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: world}\n"+
				"spec: {destination: 0.0.0.0/0, nextHops: [{via: %s, port: %s}]}\n", beyondAddress.Addr(), upDevice),
			"policy.yaml": cluster.AdmitAll(s.admitted).JSON,
		}
	}
}

// filter makes a router of the node, with connection tracking.
func (s *Site) filter() error {
	if err := s.Node.Sysctl("ipv4/ip_forward", "1"); err != nil {
		return fmt.Errorf("switch forwarding on: %w", err)
	}
	if err := s.Node.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), beyondAddress.Addr()); err != nil {
		return err
	}
	set, err := newRuleset(s.Node)
	if err != nil {
		return err
	}
	for _, a := range s.admitted {
		set.add(protocol(1), equal(1, []byte{protocolNumbers[a.Protocol]}),
			destinationPort(1), equal(1, binaryutil.BigEndian.PutUint16(a.Port)))
	}
	if err := set.Flush(); err != nil {
		return fmt.Errorf("install rules: %w", err)
	}
	return nil
}

// Pod wires one more.
func (s *Site) Pod(name string) (*Pod, rig.Device, error) {
	in, err := rig.NewNamespace()
	if err != nil {
		return nil, rig.Device{}, err
	}
	p := &Pod{name, in}
	s.pods = append(s.pods, p)
	if s.viaduct() {
		if err := s.Network.Write(name+".yaml", cluster.LocalPod(nodeName, name, name).JSON); err != nil {
			return nil, rig.Device{}, err
		}
	}
	if _, err := s.Network.Add(p); err != nil {
		return nil, rig.Device{}, err
	}
	d, err := in.Device(Interface)
	return p, d, err
}

// Close takes everything away.
func (s *Site) Close() error {
	var errs []error
	if s.Network != nil {
		errs = append(errs, s.Network.Stop())
	}
	for _, p := range s.pods {
		errs = append(errs, p.In.Close())
	}
	for _, n := range []*rig.Namespace{s.Node, s.World} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}
