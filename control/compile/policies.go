// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
)

// policies are those of objects, and those that isolate namespaces.
type policies struct {
	sets     peerSets
	inForce  map[string]*policy // by name
	isolated map[string]string  // names of those that isolate, by namespace
}

// policy is one of the snapshot's.
type policy struct {
	said  *api.Policy
	sets  []*thing[*peerSet] // that it refers to
	owner model.Key          // of the object that says so
}

// draft is a policy that was looked at, before its sets have numbers.
type draft struct {
	name   string
	object *model.Object // that says so; nil: there is no such policy any more
	spec   *model.Policy
	sets   []*thing[*peerSet] // the subject's, and those of peers, in order
}

func newPolicies() policies {
	return policies{sets: newPeerSets(), inForce: map[string]*policy{}, isolated: map[string]string{}}
}

// compilePolicies enters policies that changed, and the sets that they speak of.
func (c *Compiler) compilePolicies(w *work) {
	p := &c.policies
	p.sets.move(w.died, w.born)
	drafts := c.isolate(w)
	for _, kind := range []string{"NetworkPolicy", "ClusterNetworkPolicy"} {
		for _, key := range w.changed[kind] {
			d := draft{name: key.String()}
			if o := c.Object(key); o != nil {
				d.object, d.spec = o, o.Spec.(*model.Policy)
			}
			drafts = append(drafts, d)
		}
	}
	slices.SortFunc(drafts, func(a, b draft) int { return strings.Compare(a.name, b.name) }) // sets are numbered so
	for i := range drafts {
		p.refer(&drafts[i])
	}
	p.sets.number()
	for i := range drafts {
		c.enterPolicy(w.delta, &drafts[i])
	}
	p.sets.enter(w.delta)
}

// refer counts references to the sets of a draft.
func (p *policies) refer(d *draft) {
	if d.object == nil {
		return
	}
	d.sets = append(d.sets, p.sets.take(&d.spec.Subject))
	for i := range d.spec.Rules {
		for j := range d.spec.Rules[i].Peers {
			d.sets = append(d.sets, p.sets.take(&d.spec.Rules[i].Peers[j]))
		}
	}
}

// enterPolicy puts the draft in the place of what has its name.
func (c *Compiler) enterPolicy(delta *api.Delta, d *draft) {
	p := &c.policies
	was := p.inForce[d.name]
	if d.object != nil {
		is := &policy{said: d.policy(c.origins.refer(d.object)), sets: d.sets, owner: d.object.Key}
		p.inForce[d.name] = is
		if was == nil || !proto.Equal(was.said, is.said) {
			delta.Set.Policies = append(delta.Set.Policies, is.said)
		}
	}
	if was == nil {
		return
	}
	for _, t := range was.sets {
		p.sets.forget(t)
	}
	c.origins.forget(was.owner)
	if d.object == nil {
		delete(p.inForce, d.name)
		delta.RemovedPolicies = append(delta.RemovedPolicies, d.name)
	}
}

var tiers = [...]api.Policy_Tier{
	model.TierAdmin:     api.Policy_TIER_ADMIN,
	model.TierNamespace: api.Policy_TIER_NAMESPACE,
	model.TierBaseline:  api.Policy_TIER_BASELINE,
}

var actions = [...]api.PolicyRule_Action{
	model.Allow: api.PolicyRule_ACTION_ALLOW,
	model.Deny:  api.PolicyRule_ACTION_DENY,
	model.Pass:  api.PolicyRule_ACTION_PASS,
}

var protocols = map[string]api.Protocol{
	"":     api.Protocol_PROTOCOL_ANY,
	"TCP":  api.Protocol_PROTOCOL_TCP,
	"UDP":  api.Protocol_PROTOCOL_UDP,
	"SCTP": api.Protocol_PROTOCOL_SCTP,
}

// policy is the draft as the snapshot has it. Its sets have numbers. A rule that matches nobody is left out.
func (d *draft) policy(origin uint32) *api.Policy {
	p := &api.Policy{
		Name: d.name, Tier: tiers[d.spec.Tier], Priority: d.spec.Priority, Subjects: []uint32{d.sets[0].number},
		Ingress: d.spec.Ingress, Egress: d.spec.Egress, Origin: origin, Staged: d.spec.Staged,
	}
	sets := d.sets[1:]
	for i := range d.spec.Rules {
		from := &d.spec.Rules[i]
		r := &api.PolicyRule{
			Name: from.Name, Action: actions[from.Action], AnyPeer: from.Any, AnyPort: len(from.Ports) == 0,
		}
		if from.Egress {
			r.Direction = api.PolicyRule_DIRECTION_EGRESS
		}
		for range from.Peers {
			r.Peers, sets = append(r.Peers, sets[0].number), sets[1:]
		}
		slices.Sort(r.Peers)
		r.Peers = slices.Compact(r.Peers)
		for _, port := range from.Ports {
			r.Ports = append(r.Ports, &api.PortRange{
				Protocol: protocols[port.Protocol], First: uint32(port.First), Last: uint32(port.Last), Name: port.Name,
			})
		}
		if r.AnyPeer || len(r.Peers) > 0 {
			p.Rules = append(p.Rules, r)
		}
	}
	return p
}

// isolationPriority is behind that of every ClusterNetworkPolicy.
const isolationPriority = 1001

// isolate drafts the policies that isolate namespaces that have pods, where the NodeConfig says that they are to be.
func (c *Compiler) isolate(w *work) (drafts []draft) {
	p, namespaces := &c.policies, c.identities.turned
	c.identities.turned = map[string]struct{}{}
	if w.whole {
		for namespace := range c.identities.spaces {
			namespaces[namespace] = struct{}{}
		}
		for namespace := range p.isolated {
			namespaces[namespace] = struct{}{}
		}
	}
	for namespace := range namespaces {
		name := ""
		if c.self.config.NamespaceIsolation && c.identities.spaces[namespace] != nil {
			name = c.self.object.Key.String() + " namespaceIsolation " + namespace
		}
		if was := p.isolated[namespace]; was != "" && was != name {
			drafts = append(drafts, draft{name: was})
			delete(p.isolated, namespace)
		}
		if name != "" {
			p.isolated[namespace] = name
			drafts = append(drafts, draft{name: name, object: c.self.object, spec: isolation(namespace)})
		}
	}
	return drafts
}

// isolation lets the namespace's pods in, and no others.
func isolation(namespace string) *model.Policy {
	own := model.Peer{Namespace: namespace}
	return &model.Policy{
		Tier: model.TierBaseline, Priority: isolationPriority, Subject: own,
		Rules: []model.PolicyRule{
			{Name: "spec.namespaceIsolation (from " + namespace + ")", Action: model.Allow, Peers: []model.Peer{own}},
			{Name: "spec.namespaceIsolation (from others)", Action: model.Deny, Peers: []model.Peer{{}}},
		},
	}
}
