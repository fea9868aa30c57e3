// SPDX-License-Identifier: Apache-2.0

// Package engine is Viaduct's own answer to what policytest/oracle answers: a packet is made for a connection, and the
// pipeline of a node judges it, by tables that the compiler's snapshot of the same objects gives. It takes the daemons'
// way, without the stream and the rings between them.
//
// engine.go is the node, objects.go what it is told, names.go what it hears of names, packet.go what it is sent.
package engine

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/dataplane/conntrack"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/internal/policytest/oracle"
)

// Engine is one node: its pods are attached, all others are behind the host's port.
type Engine struct {
	node     string
	compiler *compile.Compiler
	attached map[string]*compile.Attachment // by port
	snapshot *api.Snapshot
	tables   *tables.Tables
	names    *names.Store
	pipeline pipeline.Pipeline
	now      int64 // nanoseconds
	source   uint16
	packet   packet.Packet
	frame    [2048]byte
	// Updates says how many of the changes were made at the cost of what they touched.
	Updates int
}

// flows is more than any test tries: none is answered, and none is closed.
const flows = 1 << 15

// maxPods and maxNames, of a pod, are more than any test learns for.
const maxPods, maxNames = 256, 256

// New is the node of that name, which the cluster has.
func New(c *oracle.Cluster, node string) (*Engine, error) {
	e := &Engine{node: node, compiler: compile.New(compile.Node{Name: node}), now: 1e12,
		attached: map[string]*compile.Attachment{}, names: names.NewStore(maxPods, maxNames)}
	e.pipeline.Init(conntrack.New(conntrack.Config{
		Flows: flows, PerPort: flows, PerSource: flows, Handshakes: flows,
	}), e.names)
	return e, e.Apply(c)
}

// Apply makes the cluster the one that the node judges in: what differs from the last one goes the way of a change.
func (e *Engine) Apply(c *oracle.Cluster) error {
	objects, err := objectsOf(c)
	if err != nil {
		return err
	}
	e.compiler.Replace(objects)
	e.attach(c)
	step, err := e.compiler.Compile(e.epoch() + 1)
	if err != nil {
		return err
	}
	if all := e.compiler.Errors(); len(all) > 0 {
		return fmt.Errorf("the compiler refuses %w", all[0])
	}
	if err := e.enter(step); err != nil {
		return fmt.Errorf("epoch %d: %w", step.Snapshot.Epoch, err)
	}
	e.compiler.Acked(step.Snapshot.Epoch)
	return e.learn(c)
}

func (e *Engine) epoch() uint64 { return e.snapshot.GetEpoch() }

// attach says which of the cluster's pods are at this node, and which are not any more.
func (e *Engine) attach(c *oracle.Cluster) {
	gone := maps.Clone(e.attached)
	var set []*compile.Attachment
	for _, pod := range c.Pods {
		if !local(pod, e.node) {
			continue
		}
		a := &compile.Attachment{Port: pod.Namespace + "/" + pod.Name, PodNamespace: pod.Namespace, PodName: pod.Name,
			Device: "vd-" + pod.Namespace + "-" + pod.Name, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
		for _, own := range pod.Status.PodIPs {
			a.Addresses = append(a.Addresses, netip.MustParseAddr(own.IP))
		}
		delete(gone, a.Port)
		if was := e.attached[a.Port]; was == nil || !slices.Equal(was.Addresses, a.Addresses) {
			set = append(set, a)
			e.attached[a.Port] = a
		}
	}
	for port := range gone {
		delete(e.attached, port)
	}
	e.compiler.Attach(set, slices.Collect(maps.Keys(gone)))
}

// local says whether a pod is behind a port of the node.
func local(pod *corev1.Pod, node string) bool {
	return pod.Spec.NodeName == node && !pod.Spec.HostNetwork && pod.Status.Phase == corev1.PodRunning
}

// enter puts a step in force, as a dataplane does: by its delta where that may be.
func (e *Engine) enter(step *compile.Step) error {
	var next *tables.Tables
	var err error
	switch {
	case step.Snapshot == e.snapshot:
		return nil
	case step.Delta != nil && tables.Updatable(e.tables, step.Delta):
		e.Updates++
		next, err = tables.Update(e.tables, step.Snapshot, step.Delta, link)
	case e.tables == nil:
		next, err = tables.Build(nil, step.Snapshot, link, neighbor.NewTable(neighbor.Config{}))
	default:
		next, err = tables.Build(e.tables, step.Snapshot, link, e.tables.Neighbors)
	}
	if err != nil {
		return err
	}
	next.Enter(e.tables)
	e.snapshot, e.tables = step.Snapshot, next
	return nil
}

// link is any device; all are there.
func link(name string) (tables.Link, bool) {
	return tables.Link{MAC: packet.MAC{2, 0, 0, 0, 1, 1}, MTU: 1500, Up: true, Index: 0}, name != ""
}

// At says whether the address is one of the node's pods: what goes to it or comes from it, the node judges.
func (e *Engine) At(address netip.Addr) bool { return e.portOf(address) != "" }

func (e *Engine) portOf(address netip.Addr) string {
	for name, a := range e.attached {
		if slices.Contains(a.Addresses, address) {
			return name
		}
	}
	return ""
}

// Judge sends the first packet of a connection, and returns what became of it. One end at least is at the node. What
// becomes of it otherwise than that it leaves by the right port, or is denied by policy, is an error.
func (e *Engine) Judge(
	from, to netip.Addr, protocol corev1.Protocol, port uint16,
) (egressDenied, ingressDenied bool, err error) {
	in, out := e.portOf(from), e.portOf(to)
	if in == "" {
		in = model.HostPort
	}
	if out == "" {
		out = model.HostPort
	}
	reason := e.send(e.tables.ByName(in), from, to, protocol, port)
	switch reason {
	case verdict.EgressDenied:
		return true, false, nil
	case verdict.IngressDenied:
		return false, true, nil
	case verdict.Routed:
	default:
		return false, false, fmt.Errorf("%s from port %q: %s", reason, in, reason.Doc())
	}
	if got := e.tables.Port(e.packet.Out); got == nil || got.Name != out {
		return false, false, fmt.Errorf("a packet for port %q left by port %d", out, e.packet.Out)
	}
	return false, false, nil
}

// send has the pipeline judge a packet from the port's station.
func (e *Engine) send(
	in *tables.Port, from, to netip.Addr, protocol corev1.Protocol, port uint16,
) verdict.Reason {
	e.now += 1e6
	e.source = max(e.source+1, firstSource)
	const headroom = 256
	e.packet = packet.Packet{Frame: e.frame[:], Start: headroom}
	e.packet.End = headroom + put(e.frame[headroom:], in.ID, connection{from, to, protocol, e.source, port})
	e.pipeline.Begin(e.tables, e.now)
	return e.pipeline.Judge(&e.packet, in.DeviceIndex).Reason
}
