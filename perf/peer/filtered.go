// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// Filtered is a subject that joins two ends, the generator and the sink of a rig, with policy in the way: the sink is
// let be reached by the generator on admitted ports alone, among much else that is admitted for others.
type Filtered struct {
	Subject
	network  *Network // nil: the kernel's forwarding
	policies cluster.Policies
}

// FilteredNames are the subjects that NewFiltered takes.
func FilteredNames() []string { return []string{"trunk", "trunk-own", "nft-set", "nft", "iptables"} }

// NewFiltered makes a subject with policy of that size: viaduct by its trunk, whose policies all select the sink's pod
// (trunk) or each a deployment of its own (trunk-own); or the kernel's forwarding between two veth pairs with one rule
// for each policy: nftables with all of them in one set (nft-set) or one a line (nft), or iptables over nftables.
func NewFiltered(name string, p Programs, policies cluster.Policies) (*Filtered, error) {
	switch name {
	case "trunk", "trunk-own":
		policies.Own = name == "trunk-own"
		w, err := NewWired("trunk", p)
		if err != nil {
			return nil, err
		}
		n := w.(*wired).network
		n.furnish = func() map[string][]byte { return manifests(policies) }
		return &Filtered{w, n, policies}, nil
	case "nft":
		return &Filtered{&firewall{policies: policies, install: nftRules}, nil, policies}, nil
	case "nft-set":
		return &Filtered{&firewall{policies: policies, install: nftSet}, nil, policies}, nil
	case "iptables":
		f := &firewall{policies: policies, install: iptablesRules, program: iptablesRestore}
		return &Filtered{f, nil, policies}, nil
	}
	return nil, fmt.Errorf("subject %q: want one of %s", name, strings.Join(FilteredNames(), ", "))
}

// Policies are what the subject was made with.
func (f *Filtered) Policies() cluster.Policies { return f.policies }

// Network is viaduct's, nil for the kernel's subjects.
func (f *Filtered) Network() *Network { return f.network }

// Changeable policies, the first ones, have files of their own, so that one of them can be written without the others.
const Changeable = 100

// manifests are the objects as files: the two pods, and a cluster around them.
func manifests(policies cluster.Policies) map[string][]byte {
	files := map[string]*bytes.Buffer{}
	add := func(file string, o cluster.Object) {
		if files[file] == nil {
			files[file] = &bytes.Buffer{}
		}
		fmt.Fprintf(files[file], "---\n%s\n", o.JSON)
	}
	add("local.yaml", cluster.LocalPod(nodeName, generatorPod, cluster.Client))
	add("local.yaml", cluster.LocalPod(nodeName, sinkPod, cluster.Server))
	i := 0
	for o := range policies.Objects() {
		file := o.Name
		if i >= Changeable || o.Kind != "NetworkPolicy" {
			file = o.Kind
		}
		if o.Kind == "NetworkPolicy" {
			i++
		}
		add(strings.ToLower(file)+".yaml", o)
	}
	texts := map[string][]byte{}
	for name, b := range files {
		texts[name] = b.Bytes()
	}
	return texts
}

// firewall is the kernel's forwarding with a packet filter in its way.
type firewall struct {
	kernel
	policies cluster.Policies
	program  string // that install needs, "" for none
	install  func(in *rig.Namespace, rules []rule) error
}

func (f *firewall) Missing(rig.Options) string {
	if f.program == "" {
		return ""
	}
	return executable(f.program)
}

func (f *firewall) Start(ctx context.Context, r *rig.Rig, s Setup) error {
	if err := f.kernel.Start(ctx, r, s); err != nil {
		return err
	}
	if err := f.install(r.DUT, f.rules(r.Gen.Addr4.Addr(), r.Sunk.Addr4.Addr())); err != nil {
		return fmt.Errorf("install %d rules: %w", f.policies.Count, err)
	}
	return nil
}

// rule lets one host reach a port of another one.
type rule struct {
	from, to netip.Addr
	protocol string // TCP or UDP
	port     uint16
}

// rules are one for each policy, the first rule of it. In the middle stand those that admit the client.
func (f *firewall) rules(client, server netip.Addr) []rule {
	var rules []rule
	for i := range f.policies.Count {
		if i == f.policies.Admits() {
			for _, a := range f.policies.Admitted {
				rules = append(rules, rule{client, server, a.Protocol, a.Port})
			}
			continue
		}
		rules = append(rules, rule{f.policies.Address(i), server, "TCP", f.policies.RulePort(i, 0)})
	}
	return rules
}

// iptablesRestore is Debian's, over nftables.
const iptablesRestore = "/usr/sbin/iptables-nft-restore"

// iptablesRules is a line for each rule.
func iptablesRules(in *rig.Namespace, rules []rule) error {
	var text bytes.Buffer
	text.WriteString("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n")
	for _, r := range rules {
		fmt.Fprintf(&text, "-A FORWARD -s %s/32 -d %s/32 -p %s --dport %d -j ACCEPT\n", r.from, r.to, r.protocol, r.port)
	}
	text.WriteString("COMMIT\n")
	return in.Do(func() error {
		cmd := exec.Command(iptablesRestore)
		cmd.Stdin = &text
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", iptablesRestore, err, strings.Join(strings.Fields(string(out)), " "))
		}
		return nil
	})
}
