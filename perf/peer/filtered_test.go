// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/perf/cluster"
)

var somePolicies = cluster.Policies{Count: 5, Rules: 2, Pods: 20,
	Admitted: []cluster.Admitted{{Protocol: "TCP", Port: 80}, {Protocol: "UDP", Port: 53}}}

// TestRules: one for each policy, and in the middle those that admit the client.
func TestRules(t *testing.T) {
	client, server := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.2.0.2")
	rules := (&firewall{policies: somePolicies}).rules(client, server)
	if len(rules) != somePolicies.Count-1+len(somePolicies.Admitted) {
		t.Fatalf("%d rules", len(rules))
	}
	for i, r := range rules {
		admits := i == 2 || i == 3
		if r.to != server || admits != (r.from == client) || admits != (r.port == 80 || r.port == 53) {
			t.Errorf("rule %d is %+v", i, r)
		}
	}
}

// TestPolicyManifests: each policy has a file of its own while there are few, and pods are what they are wired as.
func TestPolicyManifests(t *testing.T) {
	files := manifests(somePolicies)
	if len(files) != somePolicies.Count+2 {
		t.Errorf("%d files", len(files))
	}
	for file, want := range map[string]string{
		"policy-00003.yaml": "NetworkPolicy", "pod.yaml": `"podIP"`, "local.yaml": `"name":"` + sinkPod + `"`,
	} {
		if !strings.Contains(string(files[file]), want) {
			t.Errorf("%s has no %s: %s", file, want, files[file])
		}
	}
	many := somePolicies
	many.Count = Changeable + 10
	if files := manifests(many); len(files) != Changeable+3 {
		t.Errorf("%d files of %d policies", len(files), many.Count)
	}
}

func TestFilteredSubjects(t *testing.T) {
	for _, name := range FilteredNames() {
		f, err := NewFiltered(name, Programs{}, somePolicies)
		if err != nil || (f.Network() != nil) != strings.HasPrefix(name, "trunk") {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	if _, err := NewFiltered("ovs", Programs{}, somePolicies); err == nil || !strings.Contains(err.Error(), "ovs") {
		t.Errorf("error is %v", err)
	}
	if _, err := NewSite("ovs", Programs{}, nil); err == nil || !strings.Contains(err.Error(), "ovs") {
		t.Errorf("error is %v", err)
	}
}
