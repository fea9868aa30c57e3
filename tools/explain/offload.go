// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/dataplane/tables"
)

// judgeOffload adds to a reply why the kernel would not carry the flow, as far as manifests say it: of the bandwidth
// that a pod may have, and of how it is attached, the container runtime tells.
func (d *desired) judgeOffload(q *service.Query, r *api.ExplainReply) {
	if r.Reason != "" {
		return
	}
	dst, port := explain.LedTo(q, r)
	t := &tables.Tables{Node: d.snapshot.GetNode(), Policy: d.table}
	if r.Uncarried = pipeline.Uncarried(t, &tables.Port{}, &tables.Port{}, q.Proto, port); r.Uncarried != "" {
		return
	}
	from, to := d.places[q.Src.Netip()], d.places[dst.Netip()]
	for _, end := range []place{from, to} {
		if r.Uncarried = d.uncarried(end); r.Uncarried != "" {
			return
		}
	}
	if q.Proto == packet.ProtoTCP && dst == q.Dst && from.pod != to.pod && from.isPod() && to.isPod() &&
		from.node != "" && from.node == to.node {
		out, in := d.queries(q.Proto, q.Src.Netip(), dst.Netip(), port)
		out.Ingress, out.ToNode = in.Ingress, in.ToNode
		r.Pair = d.table.Plain(&out)
	}
}

func (p place) isPod() bool { return p.pod != (model.Key{}) }

// uncarried is why the kernel does not carry flows of an end.
func (d *desired) uncarried(end place) string {
	switch config := d.configOf(end.node); {
	case config != nil && !config.Offload:
		return "offload is off on node " + end.node
	case end.isPod() && d.noOffload(end.pod):
		return tables.PortOff.Of(&tables.Port{Name: end.pod.Namespace + "/" + end.pod.Name})
	}
	return ""
}

// configOf is a node's NodeConfig, or everyone's; nil: neither is there.
func (d *desired) configOf(node string) *model.NodeConfig {
	for _, name := range []string{node, "default"} {
		if o := d.objects[model.Key{Kind: "NodeConfig", Name: name}]; o != nil && node != "" {
			return o.Spec.(*model.NodeConfig)
		}
	}
	return nil
}

// noOffload says whether a pod's flows are to go through userspace alone: as it says, or else its namespace.
func (d *desired) noOffload(pod model.Key) bool {
	if said := d.objects[pod].Spec.(*model.Pod).Offload; said != "" {
		return said == "false"
	}
	o := d.objects[model.Key{Kind: "Namespace", Name: pod.Namespace}]
	return o != nil && o.Spec.(*model.Namespace).Offload == "false"
}
