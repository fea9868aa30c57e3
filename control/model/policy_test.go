// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

func networkPolicy(spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec: " + spec
}

func clusterPolicyText(spec string) string {
	return "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec: {" +
		spec + "}"
}

// admin is a policy of the Admin tier for all pods.
func admin(rest string) string {
	return clusterPolicyText("tier: Admin, priority: 7, subject: {namespaces: {}}, " + rest)
}

func printSelector(s Selector) string {
	var parts []string
	for _, r := range s {
		parts = append(parts, r.Key+[]string{" in ", " not in ", "", " not there"}[r.Operator]+strings.Join(r.Values, "|"))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func printPeer(p *Peer) string {
	switch {
	case p.Kind == Nodes:
		return "nodes " + printSelector(p.Selector)
	case p.Kind == Blocks:
		return fmt.Sprint("blocks ", p.Blocks)
	case p.Kind == Domains:
		return fmt.Sprint("domains ", p.Domains)
	case p.Namespace != "":
		return "pods of " + p.Namespace + " " + printSelector(p.Selector)
	}
	return "pods of " + printSelector(p.Namespaces) + " " + printSelector(p.Selector)
}

// printPolicy has a line for the policy and one for each rule.
func printPolicy(p *Policy) string {
	lines := []string{fmt.Sprintf("tier %d priority %d ingress %t egress %t staged %t for %s", p.Tier, p.Priority,
		p.Ingress, p.Egress, p.Staged, printPeer(&p.Subject))}
	for _, r := range p.Rules {
		direction, peers := "from", []string{}
		if r.Egress {
			direction = "to"
		}
		for i := range r.Peers {
			peers = append(peers, printPeer(&r.Peers[i]))
		}
		if r.Any {
			peers = append(peers, "anybody")
		}
		lines = append(lines, fmt.Sprintf("%s: %s %s [%s] %v", r.Name, []string{"allow", "deny", "pass"}[r.Action], direction,
			strings.Join(peers, "; "), r.Ports))
	}
	return strings.Join(lines, "\n")
}

func checkPolicies(t *testing.T, cases [][2]string) {
	t.Helper()
	for _, c := range cases {
		if diff := cmp.Diff(c[1], printPolicy(decodeOne(t, c[0]).Spec.(*Policy))); diff != "" {
			t.Errorf("%s\n%s", c[0], diff)
		}
	}
}

// TestNetworkPolicy: what is absent, empty and said means what the text of the API says.
func TestNetworkPolicy(t *testing.T) {
	head := func(directions string) string {
		return "tier 1 priority 0 " + directions + " staged false for pods of shop {}"
	}
	const in, both, out = "ingress true egress false", "ingress true egress true", "ingress false egress true"
	checkPolicies(t, [][2]string{
		{networkPolicy("{}"), head(in)},
		{networkPolicy("{podSelector: {}}"), head(in)},
		{networkPolicy("{ingress: []}"), head(in)},
		{networkPolicy("{egress: []}"), head(in)},
		{networkPolicy("{policyTypes: []}"), head(in)},
		{networkPolicy("{policyTypes: [Egress]}"), head(out)},
		{networkPolicy("{policyTypes: [Egress, Ingress]}"), head(both)},
		{networkPolicy("{egress: [{}]}"), head(both) + "\nspec.egress[0]: allow to [anybody] []"},
		{networkPolicy("{ingress: [{}]}"), head(in) + "\nspec.ingress[0]: allow from [anybody] []"},
		{networkPolicy("{ingress: [{from: [], ports: []}]}"), head(in) + "\nspec.ingress[0]: allow from [anybody] []"},
		{networkPolicy("{ingress: [{}], policyTypes: [Egress]}"), head(out)},
		{networkPolicy("{egress: [{}], policyTypes: [Ingress]}"), head(in)},
		{networkPolicy("{podSelector: {matchLabels: {b: x, a: w}, matchExpressions: [{key: c, operator: Exists}, " +
			"{key: a, operator: NotIn, values: [z, w, z]}, {key: a, operator: In, values: [w]}, " +
			"{key: d/e, operator: DoesNotExist}]}}"),
			"tier 1 priority 0 " + in + " staged false for pods of shop " +
				"{a in w, a not in w|z, b in x, c, d/e not there}"},
		{networkPolicy("{ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}, " +
			"{namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: b}}}, " +
			"{ipBlock: {cidr: 10.0.0.1/8, except: [10.2.0.0/16, 10.1.0.0/16]}}, {ipBlock: {cidr: 'fd00::/8'}}]}]}"),
			head(in) + "\nspec.ingress[0]: allow from [pods of shop {}; pods of {} {}; pods of {team in a} {app in b}; " +
				"blocks [{10.0.0.0/8 [10.1.0.0/16 10.2.0.0/16]} {fd00::/8 []}]] []"},
		{networkPolicy("{ingress: [{ports: [{}, {port: 80}, {protocol: UDP}, {port: web}, " +
			"{protocol: SCTP, port: 1, endPort: 65535}, {port: 80, endPort: 80}]}]}"),
			head(in) + "\nspec.ingress[0]: allow from [anybody] [TCP TCP 80 UDP TCP web SCTP 1-65535 TCP 80]"},
	})
}

func TestClusterNetworkPolicy(t *testing.T) {
	const head = "tier 0 priority 7 ingress false egress false staged false for pods of {} {}"
	checkPolicies(t, [][2]string{
		{admin(""), head},
		{clusterPolicyText("tier: Baseline, priority: 0, subject: {pods: {namespaceSelector: {matchLabels: {a: b}}, " +
			"podSelector: {matchLabels: {c: d}}}}"),
			"tier 2 priority 0 ingress false egress false staged false for pods of {a in b} {c in d}"},
		{admin("ingress: [{action: Accept, from: [{namespaces: {}}]}, {name: web, action: Deny, from: [{pods: " +
			"{podSelector: {}}}, {namespaces: {matchLabels: {a: b}}}], protocols: [{tcp: {destinationPort: {number: 80}}}, " +
			"{udp: {destinationPort: {range: {start: 1, end: 9}}}}, {destinationNamedPort: http}]}]"),
			head + "\nspec.ingress[0]: allow from [pods of {} {}] []\n" +
				"spec.ingress[1] (web): deny from [pods of {} {}; pods of {a in b} {}] [TCP 80 UDP 1-9 http]"},
		{admin("egress: [{action: Pass, to: [{nodes: {}}, {networks: [10.0.0.1/8, 0.0.0.0/0]}, {networks: ['::/0']}]}, " +
			"{action: Accept, to: [{domainNames: [WWW.example.com., '*.b.org']}, {domainNames: [a_b.example.com]}], " +
			"protocols: [{sctp: {destinationPort: {number: 65535}}}]}]"),
			head + "\nspec.egress[0]: pass to [nodes {}; blocks [{0.0.0.0/0 []} {10.0.0.0/8 []} {::/0 []}]] []\n" +
				"spec.egress[1]: allow to [domains [*.b.org a_b.example.com www.example.com]] [SCTP 65535]"},
	})
}

// TestAnnotations: they mean the same on what an API server sends and in documents.
func TestAnnotations(t *testing.T) {
	with := func(text, annotations string) string {
		return strings.Replace(text, "{name: p", "{name: p, annotations: {"+annotations+"}", 1)
	}
	staged, nodes := `viaduct.dev/staged: "true"`, "viaduct.dev/subject: nodes"
	host := clusterPolicyText("tier: Admin, priority: 7, subject: {pods: {podSelector: {matchLabels: {role: db}}}}, " +
		"ingress: [{action: Deny, from: [{namespaces: {}}]}]")
	checkPolicies(t, [][2]string{
		{with(networkPolicy("{}"), staged+", example.com/a: b"),
			"tier 1 priority 0 ingress true egress false staged true for pods of shop {}"},
		{with(networkPolicy("{}"), `viaduct.dev/staged: "false"`),
			"tier 1 priority 0 ingress true egress false staged false for pods of shop {}"},
		{with(host, nodes+", "+staged), "tier 0 priority 7 ingress false egress false staged true for nodes {role in db}\n" +
			"spec.ingress[0]: deny from [pods of {} {}] []"},
		{with(admin(""), "viaduct.dev/subject: pods"),
			"tier 0 priority 7 ingress false egress false staged false for pods of {} {}"},
	})
	checkRefused(t, []refusal{
		{with(networkPolicy("{}"), "viaduct.dev/staged: 'yes'"), "metadata.annotations", `is "true" or "false"`},
		{with(networkPolicy("{}"), nodes), "metadata.annotations", `no annotation "viaduct.dev/subject" of this kind`},
		{with(admin(""), "viaduct.dev/stage: 'true'"), "metadata.annotations", "no annotation"},
		{with(admin(""), "viaduct.dev/subject: node"), "metadata.annotations", `"pods" or "nodes"`},
		{with(admin(""), nodes), "spec.subject.namespaces", "pods.podSelector is what selects nodes"},
		{with(clusterPolicyText("tier: Admin, priority: 7, subject: {pods: {namespaceSelector: {matchLabels: {a: b}}, "+
			"podSelector: {}}}"), nodes), "spec.subject.pods.namespaceSelector", "of no namespace"},
		{strings.Replace(with(host, nodes), "{namespaces: {}}]", "{namespaces: {}}], protocols: [{destinationNamedPort: a}]",
			1), "spec.ingress[0].protocols[0].destinationNamedPort", "have no names"},
	})
	policy := &networkingv1.NetworkPolicy{}
	policy.Name, policy.Namespace = "p", "shop"
	policy.Annotations = map[string]string{"viaduct.dev/staged": "true"}
	if o, refused := FromTyped(policy); refused != nil || !o.Spec.(*Policy).Staged {
		t.Errorf("typed: %+v, %v", o, refused)
	}
}

func TestRefusedPolicies(t *testing.T) {
	from := func(peer string) string { return networkPolicy("{ingress: [{from: [" + peer + "]}]}") }
	port := func(port string) string { return networkPolicy("{egress: [{ports: [{" + port + "}]}]}") }
	selector := func(s string) string { return networkPolicy("{podSelector: {" + s + "}}") }
	to := func(peer string) string { return admin("egress: [{action: Accept, to: [" + peer + "]}]") }
	protocol := func(p string) string {
		return admin("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [" + p + "]}]")
	}
	const peer, expression = "spec.ingress[0].from[0]", "spec.podSelector.matchExpressions[0]"
	many := strings.Repeat("{namespaces: {}}, ", 26)
	checkRefused(t, []refusal{
		{networkPolicy("{podselector: {}}"), "spec.podselector", "unknown field"},
		{networkPolicy("{policyTypes: [ingress]}"), "spec.policyTypes[0]", "not one of Ingress, Egress"},
		{from("{}"), peer, "needs podSelector"},
		{from("{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}"), peer + ".ipBlock", "excludes"},
		{from("{ipBlock: {cidr: 10.0.0.1}}"), peer + ".ipBlock.cidr", "not a prefix"},
		{from("{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}"), peer + ".ipBlock.except[0]", "not inside"},
		{from("{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}"), peer + ".ipBlock.except[0]", "not inside"},
		{from("{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/9']}}"), peer + ".ipBlock.except[0]", "not inside"},
		{from("{podSelector: {matchLabels: {'a b': c}}}"), peer + ".podSelector.matchLabels", "not a label's key"},
		{selector("matchLabels: {a: 'b c'}"), "spec.podSelector.matchLabels", "not a label's value"},
		{selector("matchExpressions: [{key: a, operator: Is}]"), expression + ".operator", "not one of In"},
		{selector("matchExpressions: [{key: a, operator: In}]"), expression + ".values", "needs one"},
		{selector("matchExpressions: [{key: a, operator: Exists, values: [b]}]"), expression + ".values", "has none"},
		{selector("matchExpressions: [{key: '', operator: Exists}]"), expression + ".key", "not a label's key"},
		{selector("matchExpressions: [{key: a, operator: NotIn, values: [b, 'c d']}]"),
			expression + ".values[1]", "not a label"},
		{port("protocol: ICMP"), "spec.egress[0].ports[0].protocol", "not one of TCP, UDP, SCTP"},
		{port("port: 0"), "spec.egress[0].ports[0].port", "between 1 and 65535"},
		{port("port: http_"), "spec.egress[0].ports[0].port", "not a port's name"},
		{port("endPort: 2"), "spec.egress[0].ports[0].endPort", "needs port"},
		{port("port: 3, endPort: 2"), "spec.egress[0].ports[0].endPort", "2 is less than port, 3"},
		{port("port: web, endPort: 2"), "spec.egress[0].ports[0].endPort", "excludes"},

		{clusterPolicyText("priority: 1, subject: {namespaces: {}}"), "spec.tier", "must be said"},
		{clusterPolicyText("tier: Namespace, priority: 1, subject: {namespaces: {}}"), "spec.tier",
			"not one of Admin, Baseline"},
		{clusterPolicyText("tier: Admin, subject: {namespaces: {}}"), "spec.priority", "must be said"},
		{clusterPolicyText("tier: Admin, priority: 1001, subject: {namespaces: {}}"), "spec.priority", "between 0 and 1000"},
		{clusterPolicyText("tier: Admin, priority: 1"), "spec.subject", "needs namespaces or pods"},
		{clusterPolicyText("tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}"), "spec.subject",
			"exclude each other"},
		{admin("ingress: [{action: Allow, from: [{namespaces: {}}]}]"), "spec.ingress[0].action", "not one of Accept"},
		{admin("ingress: [{action: Deny}]"), "spec.ingress[0].from", "1 to 25 peers, not 0"},
		{admin("ingress: [{action: Deny, from: [" + many + "]}]"), "spec.ingress[0].from", "not 26"},
		{admin("ingress: [{action: Deny, from: [{}]}]"), "spec.ingress[0].from[0]", "needs namespaces or pods"},
		{admin("ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]"), "spec.ingress[0].from[0].networks", "unknown"},
		{admin("ingress: [" + strings.Repeat("{action: Deny, from: [{namespaces: {}}]}, ", 26) + "]"), "spec.ingress",
			"not 26"},
		{admin("ingress: [{action: Deny, from: [{namespaces: {}}], name: " + strings.Repeat("x", 101) + "}]"),
			"spec.ingress[0].name", "longer than 100"},
		{to("{namespaces: {}, nodes: {}}"), "spec.egress[0].to[0]", "exclude each other"},
		{to("{networks: []}"), "spec.egress[0].to[0].networks", "1 to 25"},
		{to("{networks: [10.0.0.0]}"), "spec.egress[0].to[0].networks[0]", "not a prefix"},
		{to("{domainNames: [example]}"), "spec.egress[0].to[0].domainNames[0]", "not a domain name"},
		{to("{domainNames: ['a.*.example.com']}"), "spec.egress[0].to[0].domainNames[0]", "not a domain name"},
		{to("{domainNames: ['*." + strings.Repeat("abcde.", 41) + "abcdef']}"), "spec.egress[0].to[0].domainNames[0]",
			"not a domain name"},
		{to("{domainNames: [\u212a.example.com]}"), "spec.egress[0].to[0].domainNames[0]", "not a domain name"},
		{admin("egress: [{action: Deny, to: [{domainNames: [a.b]}]}]"), "spec.egress[0].to[0].domainNames", "that accept"},
		{admin("egress: [{action: Deny, to: [{nodes: {}}], protocols: [{destinationNamedPort: a}]}]"),
			"spec.egress[0].protocols[0].destinationNamedPort", "have no named ports"},
		{protocol(""), "spec.ingress[0].protocols", "1 to 25"},
		{protocol("{}"), "spec.ingress[0].protocols[0]", "needs tcp"},
		{protocol("{tcp: {}}"), "spec.ingress[0].protocols[0].tcp", "needs destinationPort"},
		{protocol("{tcp: {destinationPort: {}}}"), "spec.ingress[0].protocols[0].tcp.destinationPort",
			"needs number or range"},
		{protocol("{tcp: {destinationPort: {number: 65536}}}"), "spec.ingress[0].protocols[0].tcp.destinationPort.number",
			"between 1 and 65535"},
		{protocol("{udp: {destinationPort: {range: {start: 5, end: 5}}}}"),
			"spec.ingress[0].protocols[0].udp.destinationPort.range", "not less than"},
		{protocol("{udp: {destinationPort: {number: 1}}, sctp: {destinationPort: {number: 1}}}"),
			"spec.ingress[0].protocols[0]", "exclude each other"},
	})
}

// TestNewer: what an API server knows and we do not makes a rule fail closed.
func TestNewer(t *testing.T) {
	for _, c := range [][3]string{
		{"ingress: [{action: Accept, from: [{namespaces: {}}, {services: {}}]}]", "allow", "[]"},
		{"ingress: [{action: Deny, from: [{services: {}}]}]", "deny", "[anybody]"},
		{"ingress: [{action: Pass, from: [{namespaces: {}}], protocols: [{icmp: {type: 8}}]}]", "deny", "[anybody]"},
		{"ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {flags: syn}}]}]", "allow", "[]"},
		{"ingress: [{action: Accept, from: [{namespaces: {}}], " +
			"protocols: [{tcp: {destinationPort: {number: 80}, sourcePort: {number: 1}}}]}]", "allow", "[]"},
		{"ingress: [{action: Accept, from: [{pods: {podSelector: {}, serviceAccounts: {}}}]}]", "allow", "[]"},
		{"ingress: [{action: Deny, from: [{namespaces: {fields: {}}}]}]", "deny", "[anybody]"},
	} {
		text, err := yaml.YAMLToJSON([]byte(admin(c[0])))
		if err != nil {
			t.Fatal(err)
		}
		o, refused := FromServer(text)
		if refused != nil {
			t.Fatal(refused)
		}
		_, got, _ := strings.Cut(printPolicy(o.Spec.(*Policy)), "\n")
		if want := "spec.ingress[0], which has what is not known here: " + c[1] + " from " + c[2] + " []"; got != want {
			t.Errorf("%s: %s, want %s", c[0], got, want)
		}
		if _, refused := FromJSON(Place{}, text); refused == nil {
			t.Errorf("a document with %s was taken", c[0])
		}
	}
	var many []string
	for i := range 101 {
		many = append(many, fmt.Sprintf("x%d: 1", i))
	}
	text, err := yaml.YAMLToJSON([]byte(admin("ingress: [{action: Deny, from: [{pods: {podSelector: {}, " +
		strings.Join(many, ", ") + "}}]}]")))
	if err != nil {
		t.Fatal(err)
	}
	if _, refused := FromServer(text); refused == nil {
		t.Error("an object with more than can be told of was taken")
	}
	policy := &networkingv1.NetworkPolicy{}
	policy.Name, policy.Namespace = "p", "shop"
	policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{}}}}
	if o, refused := FromTyped(policy); refused != nil || o.Spec.(*Policy).Rules[0].Any {
		t.Errorf("typed: %+v, %v", o, refused)
	}
}

// TestServedNames: an API server's definition does not bound the lengths of names. One that nobody can ask for matches
// nobody, and what the dataplane would refuse is not handed to it.
func TestServedNames(t *testing.T) {
	text, err := yaml.YAMLToJSON([]byte(admin("egress: [{action: Accept, to: [{domainNames: [" +
		strings.Repeat("a", 64) + ".org, '*." + strings.Repeat("abcde.", 41) + "abcdef', _sip._tcp.a.org]}]}, " +
		"{action: Deny, to: [{networks: ['::/0']}]}]")))
	if err != nil {
		t.Fatal(err)
	}
	o, refused := FromServer(text)
	if refused != nil {
		t.Fatal(refused)
	}
	_, got, _ := strings.Cut(printPolicy(o.Spec.(*Policy)), "\n")
	if want := "spec.egress[0]: allow to [domains [_sip._tcp.a.org]] []\n" +
		"spec.egress[1]: deny to [blocks [{::/0 []}]] []"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestServedBlocks: prefixes that an API server takes are taken, with the meaning that they have there.
func TestServedBlocks(t *testing.T) {
	for text, want := range map[string]string{
		"010.001.0.0/16":       "10.1.0.0/16",
		"::ffff:10.1.2.3/112":  "10.1.0.0/16",
		"::ffff:10.1.2.3/128":  "10.1.2.3/32",
		"10.0.0.1/08":          "10.0.0.0/8",
		"::ffff:0:0/64":        "::/64",
		"fd00::1/8":            "fd00::/8",
		"10.0.0.0/33":          "",
		"10.0.0.0":             "",
		"fe80::%eth0/64":       "",
		"::ffff:300.0.0.0/112": "",
	} {
		p := &networkingv1.NetworkPolicy{}
		p.Name, p.Namespace = "p", "shop"
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{IPBlock: &networkingv1.IPBlock{CIDR: text}}}}}
		o, refused := FromTyped(p)
		got := ""
		if refused == nil {
			got = o.Spec.(*Policy).Rules[0].Peers[0].Blocks[0].Prefix.String()
		}
		if got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
}

// TestPairs: what the dataplane makes of a policy does not grow with the product of what the policy says.
func TestPairs(t *testing.T) {
	rule := func(peers, ports int) string {
		var from, to []string
		for i := range peers {
			from = append(from, fmt.Sprintf("{podSelector: {matchLabels: {app: a%d}}}", i))
		}
		for i := range ports {
			to = append(to, fmt.Sprintf("{port: %d}", 2*i+1))
		}
		return fmt.Sprintf("{from: [%s], ports: [%s]}", strings.Join(from, ", "), strings.Join(to, ", "))
	}
	decodeOne(t, networkPolicy("{ingress: ["+rule(128, 128)+", "+rule(128, 128)+"]}"))
	decodeOne(t, networkPolicy("{ingress: ["+rule(0, 32767)+"]}"))
	checkRefused(t, []refusal{
		{networkPolicy("{ingress: [" + rule(128, 128) + ", " + rule(128, 128) + ", " + rule(1, 1) + "]}"), "spec",
			"32769 pairs of a peer and a port"},
	})
}
