// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"

	"github.com/viaduct-net/viaduct/perf/bpf"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// devmap is an XDP program at each port that sends every frame out of the other one as it came, by a devmap: what
// forwarding in the kernel costs when nothing is decided.
type devmap struct {
	attached []closer
}

type closer interface{ Close() error }

func (*devmap) Name() string               { return "devmap" }
func (*devmap) Missing(rig.Options) string { return "" }
func (*devmap) Transparent() bool          { return true }
func (*devmap) Checksums() bool            { return false }
func (*devmap) Wires() bool                { return false }
func (*devmap) PIDs() []int                { return nil }

func (d *devmap) Start(_ context.Context, r *rig.Rig, _ Setup) error {
	for _, way := range [][2]rig.Device{{r.Left, r.Right}, {r.Right, r.Left}} {
		if err := r.DUT.Do(func() error { return d.attach(way[0].Index, way[1].Index) }); err != nil {
			return errors.Join(err, d.Stop())
		}
	}
	return nil
}

// attach has what one device receives sent by the other one, both of the calling thread's namespace.
func (d *devmap) attach(from, to int) error {
	objects := &bpf.DevmapObjects{}
	if err := bpf.LoadDevmapObjects(objects, nil); err != nil {
		return fmt.Errorf("load devmap program: %w", err)
	}
	d.attached = append(d.attached, objects)
	if err := objects.Out.Put(uint32(0), uint32(to)); err != nil {
		return fmt.Errorf("fill devmap: %w", err)
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: objects.ToDevice, Interface: from, Flags: link.XDPDriverMode})
	if err != nil {
		return fmt.Errorf("attach devmap program: %w", err)
	}
	d.attached = append(d.attached, l)
	return nil
}

func (d *devmap) Stop() error {
	var errs []error
	for _, a := range d.attached {
		errs = append(errs, a.Close())
	}
	d.attached = nil
	return errors.Join(errs...)
}
