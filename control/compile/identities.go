// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// identities are addresses, which lead to sets of labels: an identity is in use while an address has it.
type identities struct {
	table[netip.Addr, *api.Identity]
	spaces map[string]*space   // namespaces that have pods
	turned map[string]struct{} // namespaces that have come to have pods or to have none, since the last compilation
	// attached are the attachments that have claimed their addresses, by port, and pods those of each Pod.
	attached map[string]*Attachment
	pods     map[model.Key][]claimant
}

// space is a namespace with pods.
type space struct {
	labels []string              // as identities have them
	pods   map[claimant]struct{} // Pod objects, and attachments
}

func newIdentities() identities {
	return identities{
		table:    newTable(newClaims(netip.Addr.Compare, addressLost)),
		spaces:   map[string]*space{},
		turned:   map[string]struct{}{},
		attached: map[string]*Attachment{},
		pods:     map[model.Key][]claimant{},
	}
}

// addressLost: that a pod's object says the same as its attachment is no conflict.
func addressLost(address netip.Addr, loser, winner *claim[*api.Identity]) *model.Error {
	if a, ok := winner.object.Spec.(*Attachment); ok && a.pod() == loser.object.Key {
		return nil
	}
	field := "status.podIPs"
	switch spec := loser.object.Spec.(type) {
	case *model.Node:
		if !slices.Contains(spec.Addresses, address) { // its pod CIDR is another's, as is said where routes are
			return nil
		}
		field = "status.addresses"
	case *Attachment:
		field = "addresses"
	}
	return refuse(loser.object, field, "%s is %s's already", address, winner.object.Origin())
}

// compileIdentities enters the addresses whose labels changed, and the identities that these are.
func (c *Compiler) compileIdentities(w *work) {
	t := &c.identities
	for _, key := range w.changed["Namespace"] {
		c.relabel(key.Name)
	}
	for _, key := range w.changed["Pod"] {
		c.claimPod(key)
		for _, who := range t.pods[key] {
			t.touch(who)
		}
	}
	for _, name := range w.ports {
		c.claimAddresses(name)
	}
	for name := range c.nodesToLookAt(w) {
		c.claimNodeAddresses(name)
	}
	moves := t.decide(c, w, c.identityOf)
	t.enter(moves, func(address netip.Addr, e entry[*api.Identity]) {
		w.delta.Set.IdentityPrefixes = append(w.delta.Set.IdentityPrefixes, &api.IdentityPrefix{
			Prefix: whole(address), Identity: e.number, Origin: e.origin,
		})
	}, func(address netip.Addr) {
		w.delta.RemovedIdentityPrefixes = append(w.delta.RemovedIdentityPrefixes, whole(address))
	})
	t.things.settle(func(one *thing[*api.Identity]) {
		if !one.said {
			one.said, one.value.Id = true, one.number
			w.born = append(w.born, one.value)
		}
	}, func(number uint32) { w.died = append(w.died, number) })
	w.delta.Set.Identities, w.delta.RemovedIdentities = w.born, w.died
}

// claimNodeAddresses has a node claim its addresses: those that its object says, and its own and its dataplane's in its
// pod CIDRs.
func (c *Compiler) claimNodeAddresses(name string) {
	key := model.Key{Kind: "Node", Name: name}
	t, who := &c.identities, claimant{byObject, key}
	t.withdraw(who)
	o := c.Object(key)
	if o == nil {
		return
	}
	addresses := slices.Clone(o.Spec.(*model.Node).Addresses)
	_, cidrs := c.podCIDRs(&c.self, name)
	for _, cidr := range cidrs {
		for _, a := range []netip.Addr{model.NodeAddress(cidr), model.DataplaneAddress(cidr)} {
			if a.IsValid() && !slices.Contains(addresses, a) {
				addresses = append(addresses, a)
			}
		}
	}
	t.claim(who, o, addresses)
}

// whole is the prefix that is one address.
func whole(a netip.Addr) *api.Prefix {
	return &api.Prefix{Address: a.AsSlice(), Bits: uint32(a.BitLen())}
}

func (t *identities) claim(who claimant, o *model.Object, addresses []netip.Addr) {
	for _, address := range addresses {
		t.add(address, &claim[*api.Identity]{claimant: who, object: o})
	}
}

// relabel has all of the namespace's pods looked at.
func (c *Compiler) relabel(namespace string) {
	s := c.identities.spaces[namespace]
	if s == nil {
		return
	}
	s.labels = c.namespaceLabels(namespace)
	for who := range s.pods {
		c.identities.touch(who)
	}
}

// join makes the pod one of its namespace's.
func (c *Compiler) join(namespace string, who claimant) {
	s := c.identities.spaces[namespace]
	if s == nil {
		s = &space{labels: c.namespaceLabels(namespace), pods: map[claimant]struct{}{}}
		c.identities.spaces[namespace] = s
		c.identities.turned[namespace] = struct{}{}
	}
	s.pods[who] = struct{}{}
}

// quit undoes join.
func (t *identities) quit(namespace string, who claimant) {
	if s := t.spaces[namespace]; s != nil {
		delete(s.pods, who)
		if len(s.pods) == 0 {
			delete(t.spaces, namespace)
			t.turned[namespace] = struct{}{}
		}
	}
}

// claimPod has a pod claim its addresses. Those on the host's network have their node's, and those that have finished
// have none any more.
func (c *Compiler) claimPod(key model.Key) {
	t, who := &c.identities, claimant{byObject, key}
	t.withdraw(who)
	t.quit(key.Namespace, who)
	o := c.Object(key)
	if o == nil {
		return
	}
	pod := o.Spec.(*model.Pod)
	if pod.HostNetwork || pod.Finished || len(pod.Addresses) == 0 {
		return
	}
	c.join(key.Namespace, who)
	t.claim(who, o, pod.Addresses)
}

// namespaceLabels are those of its object. Without one it exists all the same, with its name for a label.
func (c *Compiler) namespaceLabels(name string) []string {
	if o := c.Object(model.Key{Kind: "Namespace", Name: name}); o != nil {
		return sortedLabels(o.Labels)
	}
	return []string{model.NamespaceLabel + "=" + name}
}

// identityOf is what the winner's address leads to, without a number yet.
func (c *Compiler) identityOf(won *claim[*api.Identity]) (content string, id *api.Identity, some bool) {
	o := won.object
	id = &api.Identity{Kind: api.Identity_KIND_POD, Namespace: o.Key.Namespace}
	switch spec := o.Spec.(type) {
	case *model.Node:
		id.Kind = api.Identity_KIND_NODE
	case *Attachment:
		id.Namespace = spec.PodNamespace
		o = c.podOf(spec)
	}
	if o != nil {
		id.Labels = sortedLabels(o.Labels)
		if pod, is := o.Spec.(*model.Pod); is {
			id.NamedPorts = namedPorts(pod.Ports)
		}
	}
	if id.Kind == api.Identity_KIND_POD {
		id.NamespaceLabels = c.identities.spaces[id.Namespace].labels
	}
	return identityContent(id), id, true
}

// identityContent is equal for equal identities, and for no others.
func identityContent(id *api.Identity) string {
	content := appendText([]byte{byte(id.Kind)}, id.Namespace)
	for _, list := range [][]string{id.Labels, id.NamespaceLabels} {
		content = appendTexts(content, list)
	}
	for _, p := range id.NamedPorts {
		content = binary.AppendUvarint(appendText(content, p.Name), uint64(p.Protocol)<<16|uint64(p.Port))
	}
	return string(content)
}

// namedPorts are a pod's, ordered by name, protocol and number. Containers may say one twice.
func namedPorts(of []model.ContainerPort) (list []*api.NamedPort) {
	for _, p := range of {
		list = append(list, &api.NamedPort{Name: p.Name, Protocol: protocols[p.Protocol], Port: uint32(p.Port)})
	}
	compare := func(a, b *api.NamedPort) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	}
	slices.SortFunc(list, compare)
	return slices.CompactFunc(list, func(a, b *api.NamedPort) bool { return compare(a, b) == 0 })
}

// appendTexts appends the number of texts, and each.
func appendTexts(b []byte, texts []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(texts)))
	for _, text := range texts {
		b = appendText(b, text)
	}
	return b
}

// appendText appends the length, so that no text reads as two.
func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// sortedLabels returns "key=value", sorted.
func sortedLabels(labels map[string]string) []string {
	list := make([]string, 0, len(labels))
	for k, v := range labels {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}
