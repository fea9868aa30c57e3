// SPDX-License-Identifier: Apache-2.0

// Package peer holds the subjects of a measurement: whatever can stand in the middle of a rig and forward.
package peer

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// Setup is what all subjects of a comparison are given alike.
type Setup struct {
	Routes int   // routes of each family through the sink; see rig.Prefix
	CPUs   []int // the subject's processes may run on these
	Flows  int   // that a network's tables must hold; 0: as they are by default
}

// Subject forwards between the two ports of a rig's DUT. It is used once: Start, then Stop.
type Subject interface {
	Name() string
	// Missing says what this machine lacks for it to run in such a rig, "" if nothing.
	Missing(o rig.Options) string
	// Transparent: frames come out as they went in, without routing.
	Transparent() bool
	// Wires: it makes the devices of both ends itself, as the last step of Start, in a rig that has none.
	Wires() bool
	// Checksums: it completes partial checksums of local senders, or keeps them partial. Otherwise senders must
	// compute them.
	Checksums() bool
	// Start begins to forward. It may return before the first packet passes. After an error nothing is left.
	Start(ctx context.Context, r *rig.Rig, s Setup) error
	// PIDs of the processes that Start began.
	PIDs() []int
	// Stop ends the subject and removes what it left. An error is also that the subject had ended by itself.
	Stop() error
}

// Names of the subjects, as New takes them.
func Names() []string {
	return []string{"viaduct", "viaduct-off", "asavie", "testpmd", "devmap", "kernel"}
}

// Programs says where the programs are that subjects are made of.
type Programs struct {
	Dataplane string   // path of viaduct-dataplane; viaduct-control is beside it
	Flags     []string // more flags for it
	Plugin    string   // path of viaduct-cni
	Reference string   // directory of the reference CNI plugins
}

// New makes a subject.
func New(name string, p Programs) (Subject, error) {
	switch name {
	case "viaduct":
		return &viaduct{name: name, binary: p.Dataplane, flags: p.Flags}, nil
	case "viaduct-off":
		return &viaduct{name: name, binary: p.Dataplane, flags: p.Flags, spec: "  offload: false\n"}, nil
	case "asavie":
		return &viaduct{name: name, binary: p.Dataplane, flags: append([]string{"--sockets", "asavie"}, p.Flags...)}, nil
	case "testpmd":
		return &testpmd{}, nil
	case "devmap":
		return &devmap{}, nil
	case "kernel":
		return kernel{gro: true}, nil
	}
	return nil, fmt.Errorf("subject %q: want one of %s", name, strings.Join(Names(), ", "))
}

// kernel is ordinary forwarding by the kernel of the DUT's namespace.
type kernel struct {
	gro bool // at the ports: it gives a veth the NAPI that redirected frames need
}

func (kernel) Name() string      { return "kernel" }
func (kernel) Transparent() bool { return false }
func (kernel) Wires() bool       { return false }
func (kernel) Checksums() bool   { return true }
func (kernel) PIDs() []int       { return nil }
func (kernel) Stop() error       { return nil } // all of it goes with the rig

func (kernel) Missing(rig.Options) string { return "" }

func (k kernel) Start(_ context.Context, r *rig.Rig, s Setup) error {
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := r.DUT.Sysctl(key, "1"); err != nil {
			return fmt.Errorf("switch forwarding on: %w", err)
		}
	}
	for _, side := range [][2]rig.Device{{r.Left, r.Gen}, {r.Right, r.Sunk}} {
		port, end := side[0], side[1]
		if err := r.DUT.Configure(port); err != nil {
			return err
		}
		for _, ip := range []netip.Addr{end.Addr4.Addr(), end.Addr6.Addr()} {
			if err := r.DUT.SetNeighbor(port, ip, end.MAC); err != nil {
				return err
			}
		}
		if err := r.DUT.SetFeatures(port.Name, map[string]bool{"rx-gro": k.gro}); err != nil {
			return err
		}
	}
	if err := r.DUT.AddRoutes(s.Routes, false, r.Right, r.Sunk.Addr4.Addr()); err != nil {
		return err
	}
	return r.DUT.AddRoutes(s.Routes, true, r.Right, r.Sunk.Addr6.Addr())
}

// executable says why a binary cannot be run, "" if it can.
func executable(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Sprintf("%s: not there", path)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Sprintf("%s: not executable", path)
	}
	return ""
}

// numbers joins integers with commas.
func numbers(list []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(slices.Clone(list)), " ", ","), "[]")
}
