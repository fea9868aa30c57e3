// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/explain"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/service"
	"github.com/viaduct-net/viaduct/tools/manifests"
)

// desired is the state that manifests say.
type desired struct {
	dir      string
	objects  map[model.Key]*model.Object
	places   map[netip.Addr]place // who has an address
	madeUp   map[model.Key]bool   // objects that were given addresses
	ids      *identity.Set
	table    *policy.Table
	refused  []*model.Error // what of the manifests does not count
	services *service.Table
	// snapshot is of the node, whose node ports and local backends are known.
	snapshot *controlapi.Snapshot
	node     string
}

// place is where an address is.
type place struct {
	node string // empty: not known
	host bool   // it is the node's own
	pod  model.Key
}

// offline has manifests judged, without what of them is refused. node names the NodeConfig, where there are several.
func offline(dir, node string, q *question) (judge, []*model.Error, error) {
	objects, refused, err := manifests.ReadAll(dir)
	if err != nil {
		return nil, nil, err
	}
	d := &desired{dir: dir, refused: refused, objects: map[model.Key]*model.Object{}, places: map[netip.Addr]place{},
		madeUp: map[model.Key]bool{}}
	for _, o := range objects {
		d.objects[o.Key] = o
	}
	for i, e := range []*end{&q.from, &q.to} {
		if err := d.locate(e, i); err != nil {
			return nil, d.refused, fmt.Errorf("%s: %w", e.flag, err)
		}
	}
	if err := d.build(node, q); err != nil {
		return nil, d.refused, err
	}
	return func(_ context.Context, src, dst netip.Addr) (*api.ExplainReply, error) {
		return d.judge(q, src, dst), nil
	}, d.refused, nil
}

// locate finds an end's addresses. number tells the ends apart.
func (d *desired) locate(e *end, number int) error {
	switch e.kind {
	case byNode:
		return d.locateNode(e, e.node, number)
	case byAddress:
		for f, a := range e.addresses {
			if setAside[f].Contains(a) {
				return fmt.Errorf("%s is of %s, whose addresses are for ends without one", e.text, setAside[f])
			}
		}
		return nil
	}
	o := d.objects[model.Key{Kind: "Pod", Namespace: e.namespace, Name: e.pod}]
	if o == nil {
		return d.stranger(e)
	}
	pod := o.Spec.(*model.Pod)
	for _, p := range pod.Ports {
		proto, err := explain.ParseProtocol(strings.ToLower(p.Protocol))
		if err != nil {
			return err
		}
		e.ports = append(e.ports, namedPort{p.Name, proto, p.Port})
	}
	switch {
	case pod.Finished:
		return fmt.Errorf("%s has run to its end, and has no address any more", e)
	case pod.HostNetwork && pod.Node == "":
		return fmt.Errorf("%s has its node's addresses, and spec.nodeName does not say which node that is", e)
	case pod.HostNetwork:
		return d.locateNode(e, pod.Node, number)
	}
	if len(pod.Addresses) == 0 {
		with := *pod
		with.Addresses = invented(number)
		pod = &with
		d.invent(o, pod)
	}
	e.take(pod.Addresses, d.madeUp[o.Key])
	return nil
}

// stranger says what is not known of a pod that is not.
func (d *desired) stranger(e *end) error {
	for key := range d.objects {
		if key.Kind == "Namespace" && key.Name == e.namespace || key.Kind == "Pod" && key.Namespace == e.namespace {
			return fmt.Errorf("no pod %s is in %s", e.text, d.dir)
		}
	}
	return fmt.Errorf("no namespace %s is in %s: neither its object nor a pod of it", e.namespace, d.dir)
}

func (d *desired) locateNode(e *end, name string, number int) error {
	o := d.objects[model.Key{Kind: "Node", Name: name}]
	if o == nil {
		return fmt.Errorf("no Node %s is in %s: without it nobody knows its addresses", name, d.dir)
	}
	addresses := d.nodeAddresses(o)
	if len(addresses) == 0 {
		addresses = invented(number)
		with := *o.Spec.(*model.Node)
		with.Addresses = addresses
		d.invent(o, &with)
	}
	e.take(addresses, d.madeUp[o.Key])
	return nil
}

// nodeAddresses are those that the object says, and the node's own and its dataplane's in its pod CIDRs.
func (d *desired) nodeAddresses(node *model.Object) []netip.Addr {
	spec := node.Spec.(*model.Node)
	addresses, cidrs := slices.Clone(spec.Addresses), spec.PodCIDRs
	if o := d.objects[model.Key{Kind: "NodeConfig", Name: node.Key.Name}]; o != nil {
		if own := o.Spec.(*model.NodeConfig).PodCIDRs; len(own) > 0 {
			cidrs = own
		}
	}
	for _, cidr := range cidrs {
		for _, a := range []netip.Addr{model.NodeAddress(cidr), model.DataplaneAddress(cidr)} {
			if a.IsValid() {
				addresses = append(addresses, a)
			}
		}
	}
	return addresses
}

// setAside is where the addresses of ends are of that have none: prefixes for tests of networks (RFC 2544 C.2.2, RFC
// 5180 8). No prefix of a policy is meant for them.
var setAside = [families]netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:2::/48")}

// invented are addresses for an end.
func invented(number int) (list []netip.Addr) {
	for _, p := range setAside {
		a := p.Addr().Next()
		for range number {
			a = a.Next()
		}
		list = append(list, a)
	}
	return list
}

// invent puts the spec, with addresses that were made up, in the place of the object's own.
func (d *desired) invent(o *model.Object, spec any) {
	with := *o
	with.Spec = spec
	d.objects[o.Key], d.madeUp[o.Key] = &with, true
}

// build compiles the state and makes the tables that policy is judged by.
func (d *desired) build(node string, q *question) error {
	sole := node == "" // as viaduct-control: who is said by name has no other's
	d.settle(&node)
	objects := make([]*model.Object, 0, len(d.objects))
	for _, o := range d.objects {
		objects = append(objects, o)
		d.place(o)
	}
	slices.SortFunc(objects, func(a, b *model.Object) int { return a.Key.Compare(b.Key) })
	d.node = node
	var errs []*model.Error
	var err error
	d.snapshot, errs, err = compile.Once(objects, compile.Node{Name: node, Sole: sole})
	if err != nil {
		return fmt.Errorf("manifests in %s: %w", d.dir, err)
	}
	d.refused = append(d.refused, slices.DeleteFunc(errs, ofService)...)
	if d.ids, err = identity.Build(d.snapshot); err != nil {
		return fmt.Errorf("build identities: %w", err)
	}
	if d.table, err = policy.Build(d.snapshot, d.ids, d.local(q)); err != nil {
		return fmt.Errorf("build policies: %w", err)
	}
	if d.services, err = service.Build(nil, d.snapshot, service.NewBackends()); err != nil {
		return fmt.Errorf("build services: %w", err)
	}
	if q.to.kind == byAddress {
		for _, a := range q.to.addresses {
			if a.IsValid() {
				q.to.ports = namedPorts(d.ids.Get(d.ids.Of(packet.AddrFrom(a))).GetNamedPorts())
			}
		}
	}
	return q.namePort()
}

// ofService: what is wrong with a service alone. It is in force without that, or not at all, and policy is what it is:
// of manifests from elsewhere services have no address yet.
func ofService(e *model.Error) bool { return e.Key.Kind == "Service" || e.Key.Kind == "EndpointSlice" }

// settle gives a node to manifests that have none: policy is judged as on the nodes of the two ends.
func (d *desired) settle(node *string) {
	for key := range d.objects {
		if key.Kind == "NodeConfig" || key.Kind == "Node" && key.Name == *node {
			return
		}
	}
	*node = cmp.Or(*node, "default")
	key := model.Key{Kind: "NodeConfig", Name: *node}
	d.objects[key] = &model.Object{Key: key, Spec: model.DefaultNodeConfig()}
}

// place notes whose the object's addresses are.
func (d *desired) place(o *model.Object) {
	switch spec := o.Spec.(type) {
	case *model.Node:
		for _, a := range d.nodeAddresses(o) {
			d.places[a] = place{node: o.Key.Name, host: true}
		}
	case *model.Pod:
		if spec.HostNetwork || spec.Finished {
			return
		}
		for _, a := range spec.Addresses {
			d.places[a] = place{node: spec.Node, pod: o.Key}
		}
	}
}

// local are the identities of the ends, and of whom services would lead the flow to.
func (d *desired) local(q *question) []identity.ID {
	var list []identity.ID
	for _, a := range slices.Concat(q.from.addresses[:], q.to.addresses[:]) {
		if !a.IsValid() {
			continue
		}
		for _, a := range append(explain.Backends(d.snapshot, a), a) {
			if id := d.ids.Of(packet.AddrFrom(a)); id != identity.World {
				list = append(list, id)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// judge asks the policy of each end, as its own node does, and where a service leads the flow.
func (d *desired) judge(q *question, src, dst netip.Addr) *api.ExplainReply {
	to := d.places[dst]
	asked := service.Query{
		Src: packet.AddrFrom(src), Dst: packet.AddrFrom(dst), Proto: q.proto, DstPort: q.port,
		Inside: d.ids.Of(packet.AddrFrom(src)) != identity.World,
		ToNode: to.host && to.node == d.node && explain.HasNodePorts(d.snapshot, dst),
	}
	r := explain.To(d.services, &asked, func(to netip.Addr, port uint16) *api.ExplainReply {
		return d.between(q, src, to, port)
	})
	d.judgeOffload(&asked, r)
	return r
}

// between is judge of a flow that goes where it is addressed.
func (d *desired) between(q *question, src, dst netip.Addr, port uint16) *api.ExplainReply {
	out, in := d.queries(q.proto, src, dst, port)
	return explain.Between(d.table, &out, &in)
}

// queries are what the two ends' nodes ask policy.
func (d *desired) queries(proto packet.IPProto, src, dst netip.Addr, port uint16) (out, in policy.Query) {
	from, to := d.places[src], d.places[dst]
	same := from.node != "" && from.node == to.node
	out = policy.Query{Src: packet.AddrFrom(src), Dst: packet.AddrFrom(dst), Proto: proto, DstPort: port,
		Self: same && from.host && to.host}
	in = out
	out.Egress, out.FromNode, out.ToNode = true, from.host, to.host && same
	in.Ingress, in.FromNode, in.ToNode = true, from.host && same, to.host
	return out, in
}
