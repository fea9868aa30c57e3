// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"net/netip"
	"testing"

	"github.com/viaduct-net/viaduct/control/model"
)

// The service's manifests are good, whatever backends there are.
func TestServiceManifests(t *testing.T) {
	for count := range backendCount + 1 {
		objects, refused := model.Decode("service.yaml", []byte(serviceManifest(firstPod, count)))
		if len(refused) > 0 || len(objects) != 3 {
			t.Errorf("%d objects, %v", len(objects), refused)
		}
	}
}

// Who answers is counted by name, and who is refused says so at once.
func TestVisitsOfWhoAnswers(t *testing.T) {
	n := kernelNetwork(t)
	n.from = n.left
	n.pods = []pod{{Namespace: n.right}, {Namespace: n.middle}}
	for _, to := range []netip.Addr{wide4, wide6} {
		if _, err := n.visit("TCP", netip.AddrPortFrom(to, httpTarget)); err == nil {
			t.Errorf("%s answers before anybody listens", to)
		}
	}
	if err := n.answer(); err != nil {
		t.Fatal(err)
	}
	for _, to := range []netip.Addr{wide4, wide6} {
		for protocol, port := range map[string]uint16{"TCP": httpTarget, "UDP": dnsTarget} {
			answered, err := n.visit(protocol, netip.AddrPortFrom(to, port))
			if err != nil || answered["a"] != visits || answered["b"] != 0 {
				t.Errorf("%s to %s: %v, %v", protocol, to, answered, err)
			}
		}
	}
}
