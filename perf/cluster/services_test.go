// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"testing"

	"github.com/viaduct-net/viaduct/control/model"
)

// All objects are good, no two services or endpoints share an address, and a slice's revisions differ in one endpoint.
func TestServices(t *testing.T) {
	s := Services{Count: 300, Endpoints: 10}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	objects := s.MeasuredObjects("node", netip.MustParseAddrPort("10.1.0.1:5201"))
	for o := range s.Objects() {
		objects = append(objects, o)
	}
	keys, kinds := map[string]bool{}, map[string]int{}
	for _, o := range objects {
		if _, refused := model.FromJSON(model.Place{}, o.JSON); refused != nil {
			t.Fatal(refused)
		}
		keys[o.Key()] = true
		kinds[o.Kind]++
	}
	if len(keys) != 2*s.Count || kinds["Service"] != s.Count || kinds["EndpointSlice"] != s.Count {
		t.Errorf("%d keys of %v", len(keys), kinds)
	}
	addresses := map[netip.Addr]bool{}
	for i := range s.Count {
		if a := s.Address(i); !ServiceCIDR.Contains(a) || addresses[a] {
			t.Fatalf("service %d has %s", i, a)
		}
		addresses[s.Address(i)] = true
		for e := range s.Endpoints {
			addresses[s.Endpoint(i, e, 0).Addr()] = true
		}
	}
	if len(addresses) != s.Count*(1+s.Endpoints) {
		t.Errorf("%d addresses", len(addresses))
	}
	if s.Endpoint(3, 0, 1) != s.Endpoint(3, 0, 2) || s.Endpoint(3, 9, 1) == s.Endpoint(3, 9, 2) ||
		addresses[s.Endpoint(3, 9, 1).Addr()] || string(s.Slice(3, 1).JSON) == string(s.Slice(3, 2).JSON) {
		t.Error("a revision is not another one by its last endpoint")
	}
}

func TestServicesWithoutRoom(t *testing.T) {
	for _, s := range []Services{
		{Count: -1}, {Count: MaxServices + 1, Endpoints: 1}, {Count: 1}, {Count: 1, Endpoints: MaxEndpoints + 1},
	} {
		if s.Validate() == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
