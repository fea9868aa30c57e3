// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/perf/cluster"
)

var someServices = cluster.Services{Count: 4, Endpoints: 2}

// TestServiceRules: each service has its choice of endpoints, and the one in the middle leads to the sink.
func TestServiceRules(t *testing.T) {
	for _, mapped := range []bool{false, true} {
		d := &dnat{services: someServices, mapped: mapped, sink: netip.MustParseAddr("10.2.0.2")}
		var text bytes.Buffer
		d.write(&text)
		if n := strings.Count(text.String(), "numgen"); n != someServices.Count-1 {
			t.Errorf("%d choices in\n%s", n, &text)
		}
		if n := strings.Count(text.String(), "dnat to 10.2.0.2:5201"); n != 1 {
			t.Errorf("%d ways to the sink in\n%s", n, &text)
		}
		if !strings.Contains(text.String(), someServices.Address(2).String()) {
			t.Errorf("no address of the measured service in\n%s", &text)
		}
	}
}

// TestServiceManifests: endpoints of services that change have a file of their own.
func TestServiceManifests(t *testing.T) {
	files := serviceManifests(someServices)
	if len(files) != someServices.Count-1+1 {
		t.Errorf("%d files", len(files))
	}
	if !strings.Contains(string(files["service-00003.yaml"]), `"EndpointSlice"`) ||
		strings.Count(string(files["service.yaml"]), `"clusterIP"`) != someServices.Count-1 {
		t.Errorf("%s", files["service.yaml"])
	}
	many := cluster.Services{Count: Changeable * 3, Endpoints: 2}
	if files := serviceManifests(many); len(files) != Changeable+2 {
		t.Errorf("%d files of %d services", len(files), many.Count)
	}
}

func TestBalancedSubjects(t *testing.T) {
	for _, name := range BalancedNames() {
		b, err := NewBalanced(name, Programs{}, someServices)
		if err != nil || (b.Network() != nil) != (name == "trunk") || b.Changes() != (name != "nft") {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	if _, err := NewBalanced("ovs", Programs{}, someServices); err == nil || !strings.Contains(err.Error(), "ovs") {
		t.Errorf("error is %v", err)
	}
}
