// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
)

// Policies is how much policy a cluster of one namespace has. Its pods are of deployments of podsPerDeployment, with a
// label app each. A pod with the label role: server is reached by those with role: client on the admitted ports alone.
type Policies struct {
	Count int // NetworkPolicies, at least 1
	Rules int // of each, at least 1: pods of one deployment, and one port
	Pods  int // of other nodes, at least 1
	// Own: each policy but the one that admits selects the pods of a deployment, and not all of them the server.
	Own      bool
	Admitted []Admitted // to the server, from the client
}

// Admitted is a port and its protocol.
type Admitted struct {
	Protocol string `json:"protocol"` // "TCP" or "UDP"
	Port     uint16 `json:"port"`
}

// Names of what Policies and those who measure share.
const (
	PolicyNamespace = "default"
	RoleLabel       = "role"
	Client          = "client"
	Server          = "server"

	podsPerDeployment = 10
	firstRulePort     = 10_000 // of rules that admit nobody who comes
	rulePorts         = 10_000
)

// Validate says what is wrong with the numbers.
func (p Policies) Validate() error {
	switch {
	case p.Count < 1 || p.Count > MaxPolicies:
		return fmt.Errorf("%d policies: want 1 to %d", p.Count, MaxPolicies)
	case p.Rules < 1 || p.Rules > MaxRules:
		return fmt.Errorf("%d rules of a policy: want 1 to %d", p.Rules, MaxRules)
	case p.Pods < 1 || p.Pods > MaxNodes*MaxPerNode:
		return fmt.Errorf("%d pods: want 1 to %d", p.Pods, MaxNodes*MaxPerNode)
	case len(p.Admitted) == 0:
		return errors.New("no port is admitted")
	}
	return nil
}

// Bounds of Policies.
const (
	MaxPolicies = 100_000
	MaxRules    = 1000
)

// Objects are the other nodes' pods and all policies.
func (p Policies) Objects() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for i := range p.Pods {
			if !yield(p.pod(i)) {
				return
			}
		}
		for i := range p.Count {
			if !yield(p.Policy(i, 0)) {
				return
			}
		}
	}
}

// Address is that of the i-th of other nodes' pods; numbers behind the last begin again.
func (p Policies) Address(i int) netip.Addr {
	size := Size{Nodes: (p.Pods-1)/MaxPerNode + 2} // the first is the measured one
	n := i % p.Pods
	return size.PodAddress(n/(size.Nodes-1)*size.Nodes + 1 + n%(size.Nodes-1))
}

// RulePort is the port that the r-th rule of the i-th policy lets in.
func (p Policies) RulePort(i, r int) uint16 {
	return uint16(firstRulePort + (i*p.Rules+r)%rulePorts)
}

// Admits is the number of the policy that admits the client: it stands in the middle.
func (p Policies) Admits() int { return p.Count / 2 }

func (p Policies) deployment(i int) string {
	return fmt.Sprintf("app-%d", i%((p.Pods-1)/podsPerDeployment+1))
}

func (p Policies) pod(i int) Object {
	address := p.Address(i).String()
	return object("v1", "Pod", PolicyNamespace, fmt.Sprintf("pod-%05d", i),
		map[string]string{"app": p.deployment(i / podsPerDeployment)}, fields{
			"spec":   fields{"nodeName": "other", "containers": []any{fields{"name": "main", "image": "app"}}},
			"status": fields{"phase": "Running", "podIP": address, "podIPs": []any{fields{"ip": address}}},
		})
}

// LocalPod is a pod of the measured node, by the name that it is wired with.
func LocalPod(node, name, role string) Object {
	return object("v1", "Pod", PolicyNamespace, name, map[string]string{RoleLabel: role}, fields{
		"spec": fields{"nodeName": node, "containers": []any{fields{"name": "main", "image": "app"}}},
	})
}

// PolicyName is that of the i-th policy.
func PolicyName(i int) string { return fmt.Sprintf("policy-%05d", i) }

// RevisionPort is the port of a policy's first rule in a revision of it, 0 being as it is at first.
func (p Policies) RevisionPort(i, revision int) uint16 {
	if revision == 0 {
		return p.RulePort(i, 0)
	}
	const first = firstRulePort + rulePorts
	return uint16(first + revision%rulePorts)
}

// Policy is the i-th policy in a revision, of which its first rule's port tells.
func (p Policies) Policy(i, revision int) Object {
	selected := map[string]string{RoleLabel: Server}
	if p.Own && i != p.Admits() {
		selected = map[string]string{"app": p.deployment(i)}
	}
	var rules []any
	for r := range p.Rules {
		port := p.RulePort(i, r)
		if r == 0 {
			port = p.RevisionPort(i, revision)
		}
		rules = append(rules, rule("app", p.deployment(i*p.Rules+r), []Admitted{{"TCP", port}}))
	}
	if i == p.Admits() {
		rules = append(rules, rule(RoleLabel, Client, p.Admitted))
	}
	return object("networking.k8s.io/v1", "NetworkPolicy", PolicyNamespace, PolicyName(i), nil, fields{"spec": fields{
		"podSelector": fields{"matchLabels": selected}, "policyTypes": []string{"Ingress"}, "ingress": rules,
	}})
}

func rule(label, value string, ports []Admitted) fields {
	return fields{
		"from":  []any{fields{"podSelector": fields{"matchLabels": map[string]string{label: value}}}},
		"ports": ports,
	}
}

// AdmitAll is a policy by which all pods are reached by everybody on some ports alone.
func AdmitAll(ports []Admitted) Object {
	return object("networking.k8s.io/v1", "NetworkPolicy", PolicyNamespace, "admit-all", nil, fields{"spec": fields{
		"podSelector": fields{}, "policyTypes": []string{"Ingress"}, "ingress": []any{fields{"ports": ports}},
	}})
}
