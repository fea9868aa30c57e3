// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/perf/bpf"
	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// wired is a network with two pods, which are the ends of a rig.
type wired struct {
	name    string
	network *Network
	front   netip.Addr // of a service that leads to the sink; the zero value: there is none
	far     *farNode   // that the sink is a pod of; nil: both are the DUT's
	added   []*wiredPod
}

type wiredPod struct {
	Pod
	at *Network
}

// Names of the two pods.
const (
	generatorPod = "generator"
	sinkPod      = "sink"
)

// WiredNames are the subjects that pods can be joined by, as NewWired takes them.
func WiredNames() []string {
	return []string{"trunk", "trunk-ports", "trunk-service", "trunk-off", "trunk-polling", "direct", "direct-off", "veth",
		"bridge", "ptp", "kernel", "kernel-dnat"}
}

// NewWired makes a subject that joins two pods: a network of NewNetwork, viaduct's as a variant has it; two namespaces
// with one veth pair between them (veth); or the kernel's forwarding between two veth pairs, plainly (kernel) or to an
// address that nftables translates, with connection tracking (kernel-dnat).
func NewWired(name string, p Programs) (Subject, error) {
	switch name {
	case "kernel":
		return kernel{}, nil
	case "kernel-dnat":
		return &translating{}, nil
	case "veth":
		return veth{}, nil
	}
	w, err := newWired(name, p)
	if err != nil {
		return nil, fmt.Errorf("subject %q: want one of %s", name, strings.Join(WiredNames(), ", "))
	}
	return w, nil
}

func newWired(name string, p Programs) (*wired, error) {
	base, variant, _ := strings.Cut(name, "-")
	n, err := NewNetwork(base, p)
	if err != nil {
		return nil, err
	}
	w := &wired{name: name, network: n}
	if variant == "" {
		return w, nil
	}
	vary, known := variants[variant]
	if !known || n.daemons == nil {
		return nil, fmt.Errorf("network %q has no variant %q", base, variant)
	}
	vary(w)
	return w, nil
}

// variants of viaduct's networks, by what is behind the dash in a subject's name. Without one it has no policy.
var variants = map[string]func(*wired){
	// The kernel carries nothing: every packet is seen by the dataplane.
	"off": func(w *wired) { w.network.spec += "  offload: false\n" },
	// Policy looks at ports, so that each connection is decided about.
	"ports": func(w *wired) {
		w.network.furnish = func() map[string][]byte {
			return map[string][]byte{"policy.yaml": cluster.AdmitAll(measuredPorts()).JSON}
		}
	},
	// The generator reaches the sink by a service.
	"service": func(w *wired) { w.front = cluster.Services{Count: 1}.Address(0) },
	// Workers poll without a pause.
	"polling": func(w *wired) { w.network.daemons.flags = append(slices.Clip(w.network.daemons.flags), "--spin=-1ns") },
}

// measuredPorts are all that measurements use.
func measuredPorts() []cluster.Admitted {
	ports := []cluster.Admitted{{Protocol: "TCP", Port: ServicePort}}
	for i := range uint16(bpf.DestinationPorts) {
		ports = append(ports, cluster.Admitted{Protocol: "UDP", Port: bpf.DestinationPort + i})
	}
	return ports
}

func (w *wired) Name() string      { return w.name }
func (w *wired) Transparent() bool { return false }
func (w *wired) Wires() bool       { return true }
func (w *wired) Checksums() bool   { return true }

func (w *wired) PIDs() []int {
	pids := w.network.PIDs()
	if w.far != nil {
		pids = append(pids, w.far.network.PIDs()...)
	}
	return pids
}

// Socket is where viaduct's dataplane answers; of others it is empty.
func (w *wired) Socket() string {
	if w.network.daemons == nil {
		return ""
	}
	return w.network.Socket()
}

func (w *wired) Missing(rig.Options) string { return w.network.Missing() }

// Start wires the generator's and the sink's namespace as pods, and describes their devices in the rig.
func (w *wired) Start(ctx context.Context, r *rig.Rig, s Setup) error {
	if w.far != nil {
		if err := w.far.join(r); err != nil {
			return err
		}
	}
	if s.Flows > 0 {
		w.network.spec += fmt.Sprintf("  flows: %d\n  flowsPerPort: %d\n", s.Flows, s.Flows)
	}
	err := w.network.Start(ctx, r.DUT, s.CPUs)
	if err == nil && w.far != nil {
		err = w.far.network.Start(ctx, w.far.in, s.CPUs)
	}
	if err == nil {
		err = w.wire(r)
	}
	if err != nil {
		_ = w.Stop() // that a program has ended is what err says
	}
	return err
}

func (w *wired) wire(r *rig.Rig) (err error) {
	sinkAt := w.network
	if w.far != nil {
		sinkAt = w.far.network
	}
	for _, end := range []struct {
		pod    wiredPod
		device *rig.Device
		host   *rig.Device
	}{{wiredPod{Pod{generatorPod, r.Generator}, w.network}, &r.Gen, &r.Left},
		{wiredPod{Pod{sinkPod, r.Sink}, sinkAt}, &r.Sunk, &r.Right}} {
		w.added = append(w.added, &end.pod)
		if _, err := end.pod.at.Add(&end.pod.Pod); err != nil {
			return err
		}
		if *end.device, err = end.pod.In.Device(Interface); err != nil {
			return err
		}
		if *end.host, err = end.pod.In.Peer(*end.device, end.pod.at.node); err != nil {
			return err
		}
	}
	// What a pod sends to is not its host's end when that is a bridge's port.
	if r.Left.MAC, err = r.Generator.NextHop(r.Sunk.Addr4.Addr()); err != nil {
		return err
	}
	if r.Right.MAC, err = r.Sink.NextHop(r.Gen.Addr4.Addr()); err != nil || !w.front.IsValid() {
		return err
	}
	r.Front = w.front
	var service []byte
	for _, o := range cluster.Exposed(nodeName, w.front, r.Sunk.Addr4.Addr(), measuredPorts()) {
		service = fmt.Appendf(service, "---\n%s\n", o.JSON)
	}
	return w.network.Write("service.yaml", service)
}

func (w *wired) Stop() error {
	var errs []error
	for _, p := range w.added {
		_, err := p.at.Del(&p.Pod)
		errs = append(errs, err)
	}
	w.added = nil
	errs = append(errs, w.network.Stop())
	if w.far != nil {
		errs = append(errs, w.far.close())
	}
	return errors.Join(errs...)
}
