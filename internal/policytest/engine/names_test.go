// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/binary"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
	"github.com/viaduct-net/viaduct/internal/policytest/cases"
)

// accepting is a policy that accepts what goes to a name.
func accepting(policy string, name policyv1.DomainName) *policyv1.ClusterNetworkPolicy {
	p := &policyv1.ClusterNetworkPolicy{}
	p.Name = policy
	p.Spec = policyv1.ClusterNetworkPolicySpec{
		Tier: policyv1.AdminTier, Subject: policyv1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
		Egress: []policyv1.ClusterNetworkPolicyEgressRule{{Action: policyv1.ClusterNetworkPolicyRuleActionAccept,
			To: []policyv1.ClusterNetworkPolicyEgressPeer{{DomainNames: []policyv1.DomainName{name}}}}},
	}
	return p
}

// TestAnswers: of the answer to a pod's query is learned, also where policy changes while the pod waits for it.
func TestAnswers(t *testing.T) {
	all, err := cases.All()
	if err != nil {
		t.Fatal(err)
	}
	c := *all[0].Cluster
	c.NetworkPolicies, c.Domains = nil, nil
	c.ClusterNetworkPolicies = []*policyv1.ClusterNetworkPolicy{accepting("a", "www.example.com")}
	e, err := New(&c, "n1")
	if err != nil {
		t.Fatal(err)
	}
	const dns, ipv4UDP = 53, ethernet + ipv4
	var pod netip.Addr
	for _, a := range e.attached {
		if a.Addresses[0].Is4() {
			pod = a.Addresses[0]
		}
	}
	port, resolver := e.tables.ByName(e.portOf(pod)), netip.MustParseAddr("9.9.9.9")
	for i, change := range []bool{false, true} {
		if reason := e.send(port, pod, resolver, corev1.ProtocolUDP, dns); reason != verdict.Routed {
			t.Fatalf("query: %s", reason.Doc())
		}
		asker := e.source
		if change {
			c.ClusterNetworkPolicies = append(c.ClusterNetworkPolicies, accepting("b", "www.example.org"))
			if err := e.Apply(&c); err != nil {
				t.Fatal(err)
			}
		}
		address := netip.AddrFrom4([4]byte{9, 0, 0, byte(i + 1)})
		message, err := answer("www.example.com", address)
		if err != nil {
			t.Fatal(err)
		}
		const headroom = 256
		host := e.tables.ByName(model.HostPort)
		b := e.frame[headroom:]
		n := put(b, host.ID, connection{resolver, pod, corev1.ProtocolUDP, dns, asker})
		n += copy(b[n:], message)
		binary.BigEndian.PutUint16(b[ipv4UDP+4:], uint16(n-ipv4UDP))
		clear(b[ethernet+10 : ethernet+12]) // the sum is over it
		putIPv4(b[ethernet:], connection{from: resolver, to: pod, protocol: corev1.ProtocolUDP}, n-ipv4UDP)
		e.packet = packet.Packet{Frame: e.frame[:], Start: headroom, End: headroom + n}
		e.pipeline.Begin(e.tables, e.now)
		if reason := e.pipeline.Judge(&e.packet, host.DeviceIndex).Reason; reason != verdict.Routed {
			t.Fatalf("answer: %s", reason.Doc())
		}
		var hits names.Hits
		e.names.Lookup(port.ID, packet.AddrFrom(address), e.now, false, &hits)
		if hits.Len != 1 {
			t.Errorf("change of policy %t: %d patterns were learned of %s, want 1", change, hits.Len, address)
		}
	}
}
