// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// wired is a network with two pods, which are the ends of a rig.
type wired struct {
	network *Network
	added   []*Pod
}

// Names of the two pods.
const (
	generatorPod = "generator"
	sinkPod      = "sink"
)

// WiredNames are the subjects that pods can be joined by, as NewWired takes them.
func WiredNames() []string { return append(Networks(), "kernel") }

// NewWired makes a subject that joins two pods: a network, or the kernel's forwarding between two veth pairs.
func NewWired(name string, p Programs) (Subject, error) {
	if name == "kernel" {
		return kernel{}, nil
	}
	n, err := NewNetwork(name, p)
	if err != nil {
		return nil, fmt.Errorf("subject %q: want one of %s", name, strings.Join(WiredNames(), ", "))
	}
	return &wired{network: n}, nil
}

func (w *wired) Name() string      { return w.network.Name() }
func (w *wired) Transparent() bool { return false }
func (w *wired) Wires() bool       { return true }
func (w *wired) Checksums() bool   { return true }
func (w *wired) PIDs() []int       { return w.network.PIDs() }

func (w *wired) Missing(rig.Options) string { return w.network.Missing() }

// Start wires the generator's and the sink's namespace as pods of the DUT, and describes their devices in the rig.
func (w *wired) Start(ctx context.Context, r *rig.Rig, s Setup) error {
	if err := w.network.Start(ctx, r.DUT, s.CPUs); err != nil {
		return err
	}
	if err := w.wire(r); err != nil {
		return errors.Join(err, w.Stop())
	}
	return nil
}

func (w *wired) wire(r *rig.Rig) (err error) {
	for _, end := range []struct {
		pod    Pod
		device *rig.Device
		host   *rig.Device
	}{{Pod{generatorPod, r.Generator}, &r.Gen, &r.Left}, {Pod{sinkPod, r.Sink}, &r.Sunk, &r.Right}} {
		w.added = append(w.added, &end.pod)
		if _, err := w.network.Add(&end.pod); err != nil {
			return err
		}
		if *end.device, err = end.pod.In.Device(Interface); err != nil {
			return err
		}
		if *end.host, err = end.pod.In.Peer(*end.device, r.DUT); err != nil {
			return err
		}
	}
	// What a pod sends to is not its host's end when that is a bridge's port.
	if r.Left.MAC, err = r.Generator.NextHop(r.Sunk.Addr4.Addr()); err != nil {
		return err
	}
	r.Right.MAC, err = r.Sink.NextHop(r.Gen.Addr4.Addr())
	return err
}

func (w *wired) Stop() error {
	var errs []error
	for _, p := range w.added {
		_, err := w.network.Del(p)
		errs = append(errs, err)
	}
	w.added = nil
	return errors.Join(append(errs, w.network.Stop())...)
}
