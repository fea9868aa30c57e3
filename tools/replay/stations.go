// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/tools/manifests"
)

// compiled reads the manifests, and has the pods of the node attached as the CNI plugin would: with devices and MACs
// that are made up.
func compiled(dir, node string) (*api.Snapshot, error) {
	objects, err := manifests.Read(dir)
	if err != nil {
		return nil, err
	}
	c := compile.New(compile.Node{Name: node, Sole: node == ""})
	c.Replace(objects)
	step, err := c.Compile(1)
	if err != nil {
		return nil, fmt.Errorf("manifests in %s: %w", dir, err)
	}
	if pods := attachments(objects, step.Snapshot.GetNode()); len(pods) > 0 {
		c.Attach(pods, nil)
		if step, err = c.Compile(2); err != nil {
			return nil, fmt.Errorf("manifests in %s: %w", dir, err)
		}
	}
	return step.Snapshot, manifests.Refused(c.Errors())
}

// attachments are those of the node's pods that have addresses.
func attachments(objects []*model.Object, node *api.NodeSettings) (list []*compile.Attachment) {
	for _, o := range objects {
		pod, is := o.Spec.(*model.Pod)
		if !is || pod.HostNetwork || pod.Finished || len(pod.Addresses) == 0 || !ours(pod, node) {
			continue
		}
		n := len(list) + 1
		list = append(list, &compile.Attachment{
			Port: o.Key.Namespace + "/" + o.Key.Name, Device: fmt.Sprintf("pod%d", n),
			MAC: []byte{0x02, 0x70, 0x6f, byte(n >> 16), byte(n >> 8), byte(n)}, Addresses: pod.Addresses,
			PodNamespace: o.Key.Namespace, PodName: o.Key.Name,
		})
	}
	return list
}

// ours says whether a pod is the node's: by its name, or, where that is not said, by the node's pod CIDRs.
func ours(pod *model.Pod, node *api.NodeSettings) bool {
	if pod.Node != "" {
		return pod.Node == node.GetName()
	}
	return slices.ContainsFunc(node.GetPodPrefixes(), func(cfg *api.Prefix) bool {
		p, reason := identity.Parse(cfg)
		return reason == "" && slices.ContainsFunc(pod.Addresses, func(a netip.Addr) bool { return p.Contains(a) })
	})
}

// atTrunk says whether packets of a port come and go by the trunk.
func atTrunk(p *api.Port) bool {
	return p.GetAttach() == api.Port_ATTACH_TRUNK || p.GetAttach() == api.Port_ATTACH_HOST
}

// inPort is the port by which a packet of the capture comes: of those that were named the one whose station has its
// source; for what no station has, the first that forwards for others.
func (b *bench) inPort(data []byte) *tables.Port {
	if len(b.ports) == 1 {
		return b.ports[0]
	}
	p := packet.Packet{Frame: data, End: len(data)}
	p.Parse() // a malformed packet has no source, or one that is as good as any
	for _, port := range b.ports {
		if port.Station.Has(p.Src) {
			return port
		}
	}
	for _, port := range b.ports {
		if !port.Station.Only() || port.Station.Router {
			return port
		}
	}
	return b.ports[0]
}

// interfaceOf is the number, in the output, of the interface by which a device sent a frame. Stations at the trunk have
// one each: the trunk names them by the destination.
func (b *bench) interfaceOf(device int, data []byte) (int, error) {
	if device != b.trunk || len(data) < 6 {
		return b.numbers[device], nil
	}
	id := packet.TrunkPort(packet.MAC(data[:6]))
	if number, known := b.stations[id]; known {
		return number, nil
	}
	number, err := b.sinks.Device(b.name(id))
	b.stations[id] = number
	return number, err
}
