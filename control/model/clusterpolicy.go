// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	strictjson "sigs.k8s.io/json"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Limits of a ClusterNetworkPolicy, as its definition has them.
const (
	maxPriority = 1000
	maxRules    = 25 // of one direction
	maxPeers    = 25 // of a rule; prefixes and domain names of a peer; protocols of a rule
	maxRuleName = 100
)

// Bytes of a domain name, the star of a pattern included, and of one of its labels (RFC 1035 2.3.4).
const (
	maxDomainName  = 253
	maxDomainLabel = 63
)

// clusterPolicy decodes a ClusterNetworkPolicy.
func clusterPolicy(c *checker, text []byte) *Policy {
	from := new(policyv1alpha2.ClusterNetworkPolicy)
	unknown, err := strictjson.UnmarshalStrict(text, from)
	if len(unknown) >= maxUnknown && err == nil {
		c.check(false, "spec", "has %d fields or more that are not known here", maxUnknown)
		return nil
	}
	c.newer = map[string]bool{}
	for _, e := range unknown {
		if rule := newer.FindStringSubmatch(e.Error()); c.served && rule != nil {
			c.newer[rule[1]] = true
		} else if err == nil {
			err = e
		}
	}
	if err != nil {
		field, reason := wordStrict(err)
		c.check(false, field, "%s", reason)
		return nil
	}
	var said struct { // what the types have no way to leave out
		Spec struct {
			Priority *json.Number `json:"priority"`
		} `json:"spec"`
	}
	_ = json.Unmarshal(text, &said) // it was read above
	c.check(said.Spec.Priority != nil, "spec.priority", "must be said")
	return clusterPolicyOf(c, from)
}

// maxUnknown is how many fields that are not known sigs.k8s.io/json tells of (saveStrictError): of which rules more
// are, nobody says.
const maxUnknown = 100

// newer matches what a definition that is newer than ours may have in a peer or a protocol. The API's text says what
// becomes of such a rule: see clusterRule.
var newer = regexp.MustCompile(
	`^unknown field "(spec\.(?:ingress|egress)\[\d+\])\.(?:from|to|protocols)\[\d+\]\.[^"]+"$`)

func clusterPolicyOf(c *checker, from *policyv1alpha2.ClusterNetworkPolicy) *Policy {
	p := &Policy{}
	staged, nodes := c.annotations(from.Annotations, stagedAnnotation, subjectAnnotation)
	p.Staged = staged
	c.within("spec", func() {
		c.check(from.Spec.Tier != "", "tier", "must be said")
		if c.oneOf("tier", string(from.Spec.Tier), "Admin", "Baseline") == "Baseline" {
			p.Tier = TierBaseline
		}
		p.Priority = int32(c.between("priority", int64(from.Spec.Priority), 0, maxPriority))
		c.within("subject", func() { p.Subject = c.subject(&from.Spec.Subject, nodes) })
		c.check(len(from.Spec.Ingress) <= maxRules, "ingress", "at most %d rules, not %d", maxRules, len(from.Spec.Ingress))
		c.check(len(from.Spec.Egress) <= maxRules, "egress", "at most %d rules, not %d", maxRules, len(from.Spec.Egress))
		for i := range from.Spec.Ingress {
			c.within(index("ingress", i), func() { p.Rules = append(p.Rules, c.clusterIngress(i, &from.Spec.Ingress[i])) })
		}
		for i := range from.Spec.Egress {
			c.within(index("egress", i), func() { p.Rules = append(p.Rules, c.clusterEgress(i, &from.Spec.Egress[i])) })
		}
		if nodes {
			c.checkNodeRules(p.Rules)
		}
	})
	return p
}

// subject reads whom the policy is for. The annotation makes it nodes: those whose labels the selector of pods selects.
func (c *checker) subject(from *policyv1alpha2.ClusterNetworkPolicySubject, nodes bool) Peer {
	c.check(from.Namespaces == nil || from.Pods == nil, "", "namespaces and pods exclude each other")
	c.check(from.Namespaces != nil || from.Pods != nil, "", "needs namespaces or pods")
	if !nodes {
		return c.podsOf(from.Namespaces, from.Pods)
	}
	c.check(from.Pods != nil, "namespaces", "a node is of none: pods.podSelector is what selects nodes")
	if from.Pods == nil {
		return Peer{Kind: Nodes}
	}
	s := Peer{Kind: Nodes}
	c.within("pods", func() {
		namespaces := c.selector("namespaceSelector", &from.Pods.NamespaceSelector)
		c.check(len(namespaces) == 0, "namespaceSelector", "a node is of no namespace")
		s.Selector = c.selector("podSelector", &from.Pods.PodSelector)
	})
	return s
}

// checkNodeRules: nodes' ports have no names.
func (c *checker) checkNodeRules(rules []PolicyRule) {
	for i := range rules {
		for j, port := range rules[i].Ports {
			if !rules[i].Egress {
				c.check(port.Name == "", fmt.Sprintf("ingress[%d].protocols[%d].destinationNamedPort", i, j),
					"ports of nodes have no names")
			}
		}
	}
}

func (c *checker) podsOf(namespaces *metav1.LabelSelector, pods *policyv1alpha2.NamespacedPod) Peer {
	if pods == nil {
		return Peer{Namespaces: c.selector("namespaces", namespaces)}
	}
	var p Peer
	c.within("pods", func() {
		p.Namespaces = c.selector("namespaceSelector", &pods.NamespaceSelector)
		p.Selector = c.selector("podSelector", &pods.PodSelector)
	})
	return p
}

// clusterRule is a rule that is being read.
type clusterRule struct {
	PolicyRule
	blocks, domains Peer
	unnamed         bool // a peer has no named ports
	strange         bool // a peer or a protocol is of a kind that came later
}

func (c *checker) clusterIngress(i int, from *policyv1alpha2.ClusterNetworkPolicyIngressRule) PolicyRule {
	r := c.clusterRule(rulePath("ingress", i, from.Name), from.Name, from.Action)
	c.check(1 <= len(from.From) && len(from.From) <= maxPeers, "from", "1 to %d peers, not %d", maxPeers, len(from.From))
	for i, peer := range from.From {
		c.within(index("from", i), func() {
			if c.one(r, "namespaces or pods", peer.Namespaces != nil, peer.Pods != nil) {
				r.Peers = append(r.Peers, c.podsOf(peer.Namespaces, peer.Pods))
			}
		})
	}
	c.clusterPorts(r, from.Protocols)
	return r.finish()
}

func (c *checker) clusterEgress(i int, from *policyv1alpha2.ClusterNetworkPolicyEgressRule) PolicyRule {
	r := c.clusterRule(rulePath("egress", i, from.Name), from.Name, from.Action)
	r.Egress = true
	c.check(1 <= len(from.To) && len(from.To) <= maxPeers, "to", "1 to %d peers, not %d", maxPeers, len(from.To))
	for i := range from.To {
		c.within(index("to", i), func() { c.egressPeer(r, &from.To[i]) })
	}
	c.clusterPorts(r, from.Protocols)
	return r.finish()
}

var actions = map[policyv1alpha2.ClusterNetworkPolicyRuleAction]Action{
	policyv1alpha2.ClusterNetworkPolicyRuleActionAccept: Allow,
	policyv1alpha2.ClusterNetworkPolicyRuleActionDeny:   Deny,
	policyv1alpha2.ClusterNetworkPolicyRuleActionPass:   Pass,
}

func (c *checker) clusterRule(
	path, name string, action policyv1alpha2.ClusterNetworkPolicyRuleAction,
) *clusterRule {
	c.check(len([]rune(name)) <= maxRuleName, "name", "longer than %d characters", maxRuleName)
	a, known := actions[action]
	c.check(known, "action", "%q is not one of Accept, Deny, Pass", action)
	return &clusterRule{PolicyRule: PolicyRule{Name: path, Action: a},
		blocks: Peer{Kind: Blocks}, domains: Peer{Kind: Domains}, strange: c.newer[strings.Join(c.path, ".")]}
}

// one says whether just one of what excludes each other is there. From an API server none is something that came later.
func (c *checker) one(r *clusterRule, choices string, there ...bool) bool {
	n := 0
	for _, is := range there {
		if is {
			n++
		}
	}
	c.check(n <= 1, "", "%s exclude each other", choices)
	c.check(n > 0 || c.served, "", "needs %s", choices)
	r.strange = r.strange || n == 0
	return n == 1
}

func (c *checker) egressPeer(r *clusterRule, from *policyv1alpha2.ClusterNetworkPolicyEgressPeer) {
	if !c.one(r, "namespaces, pods, nodes, networks or domainNames", from.Namespaces != nil, from.Pods != nil,
		from.Nodes != nil, from.Networks != nil, from.DomainNames != nil) {
		return
	}
	r.unnamed = r.unnamed || from.Namespaces == nil && from.Pods == nil
	switch {
	case from.Nodes != nil:
		r.Peers = append(r.Peers, Peer{Kind: Nodes, Selector: c.selector("nodes", from.Nodes)})
	case from.Networks != nil:
		c.listed("networks", len(from.Networks))
		for i, text := range from.Networks {
			r.blocks.Blocks = append(r.blocks.Blocks, Block{Prefix: c.block(index("networks", i), string(text))})
		}
	case from.DomainNames != nil:
		c.listed("domainNames", len(from.DomainNames))
		c.check(r.Action == Allow, "domainNames", "only rules that accept may have them")
		for i, text := range from.DomainNames {
			if name, can := c.domain(index("domainNames", i), string(text)); can {
				r.domains.Domains = append(r.domains.Domains, name)
			}
		}
	default:
		r.Peers = append(r.Peers, c.podsOf(from.Namespaces, from.Pods))
	}
}

func (c *checker) listed(field string, n int) {
	c.check(1 <= n && n <= maxPeers, field, "1 to %d, not %d", maxPeers, n)
}

// domain reads a name of at least two labels, or "*." and such a name. From an API server, whose definition has no
// bounds on lengths, a name that is too long for any to be asked for is left out: nobody matches it.
func (c *checker) domain(field, text string) (name string, can bool) {
	name = lower(strings.TrimSuffix(text, "."))
	rest := strings.TrimPrefix(name, "*.")
	valid, short := strings.Contains(rest, "."), len(name) <= maxDomainName
	for label := range strings.SplitSeq(rest, ".") {
		valid = valid && framed(strings.TrimLeft(label, "_"), lowerOrDigit, "-_")
		short = short && len(label) <= maxDomainLabel
	}
	c.check(valid && (short || c.served), field, "%q is not a domain name (www.example.com, *.example.com)", text)
	return name, valid && short
}

// lower has ASCII letters in lower case; that of other letters may be ASCII.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

func (c *checker) clusterPorts(r *clusterRule, from []policyv1alpha2.ClusterNetworkPolicyProtocol) {
	c.check(from == nil || 1 <= len(from) && len(from) <= maxPeers, "protocols", "1 to %d, not %d", maxPeers, len(from))
	for i := range from {
		c.within(index("protocols", i), func() { c.clusterPort(r, &from[i]) })
	}
}

func (c *checker) clusterPort(r *clusterRule, from *policyv1alpha2.ClusterNetworkPolicyProtocol) {
	if !c.one(r, "tcp, udp, sctp or destinationNamedPort", from.TCP != nil, from.UDP != nil, from.SCTP != nil,
		from.DestinationNamedPort != "") {
		return
	}
	switch {
	case from.TCP != nil:
		c.within("tcp", func() { c.destination(r, "TCP", from.TCP.DestinationPort) })
	case from.UDP != nil:
		c.within("udp", func() { c.destination(r, "UDP", from.UDP.DestinationPort) })
	case from.SCTP != nil:
		c.within("sctp", func() { c.destination(r, "SCTP", from.SCTP.DestinationPort) })
	default:
		const field = "destinationNamedPort"
		c.check(!r.unnamed, field, "nodes, networks and domain names have no named ports")
		r.Ports = append(r.Ports, PortRange{Name: c.portName(field, from.DestinationNamedPort)})
	}
}

func (c *checker) destination(r *clusterRule, protocol string, from *policyv1alpha2.Port) {
	if !c.one(r, "destinationPort", from != nil) {
		return
	}
	c.within("destinationPort", func() {
		if !c.one(r, "number or range", from.Number != 0, from.Range != nil) {
			return
		}
		first, last, end := int64(from.Number), int64(from.Number), "number"
		if from.Range != nil {
			first, last, end = int64(from.Range.Start), int64(from.Range.End), "range.end"
			c.between("range.start", first, 1, maxPort)
			c.check(first < last, "range", "start, %d, is not less than end, %d", first, last)
		}
		c.between(end, last, 1, maxPort)
		r.Ports = append(r.Ports, PortRange{Protocol: protocol, First: uint16(first), Last: uint16(last)})
	})
}

// finish returns the rule. One with a peer or a protocol that is not known here fails closed, as the API's text says:
// it accepts nothing, and else it denies everything.
func (r *clusterRule) finish() PolicyRule {
	for _, peer := range []*Peer{&r.blocks, &r.domains} {
		if peer.ordered(); len(peer.Blocks)+len(peer.Domains) > 0 {
			r.Peers = append(r.Peers, *peer)
		}
	}
	if r.strange {
		r.Name += ", which has what is not known here"
		r.Peers, r.Ports = nil, nil
		if r.Action != Allow {
			r.Action, r.Any = Deny, true
		}
	}
	return r.PolicyRule
}
