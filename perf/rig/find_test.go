// SPDX-License-Identifier: Apache-2.0

package rig_test

import (
	"testing"

	"github.com/viaduct-net/viaduct/perf/rig"
)

func TestFindWhatOthersHaveMade(t *testing.T) {
	needRoot(t)
	r, err := rig.New(rig.Options{Queues: 1, MTU: 9000})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.ConfigureEnds(false); err != nil {
		t.Fatal(err)
	}
	if err := r.DUT.Configure(r.Left); err != nil {
		t.Fatal(err)
	}
	found, err := r.Generator.Device("gen")
	if err != nil || found.Index != r.Gen.Index || found.Addr4 != r.Gen.Addr4 || found.Addr6 != r.Gen.Addr6 ||
		found.MAC.String() != r.Gen.MAC.String() {
		t.Errorf("found %+v, %v; want %+v", found, err, r.Gen)
	}
	peer, err := r.Generator.Peer(found, r.DUT)
	if err != nil || peer.Index != r.Left.Index || peer.Name != r.Left.Name {
		t.Errorf("peer is %+v, %v; want %+v", peer, err, r.Left)
	}
	if _, err := r.Generator.Device("none"); err == nil {
		t.Error("found a device that is not there")
	}
	checkPaths(t, r)
}

// checkPaths looks where packets go: beyond the gateway, and to the gateway itself.
func checkPaths(t *testing.T, r *rig.Rig) {
	t.Helper()
	for _, to := range []rig.Device{r.Sunk, r.Left} {
		hop, err := r.Generator.NextHop(to.Addr4.Addr())
		if err != nil || hop.String() != r.Left.MAC.String() {
			t.Errorf("to %s packets go to %v, %v; want %v", to.Addr4, hop, err, r.Left.MAC)
		}
		if err := r.Generator.LimitMTU(to.Addr4.Addr(), 1500); err != nil {
			t.Error(err)
		}
		if mtu := pathMTU(t, r, to); mtu != 1500 {
			t.Errorf("MTU of the path to %s is %d", to.Addr4, mtu)
		}
	}
	hop, err := r.Generator.NextHop(r.Sunk.Addr6.Addr())
	if err != nil || hop.String() != r.Left.MAC.String() {
		t.Errorf("IPv6 packets go to %v, %v; want %v", hop, err, r.Left.MAC)
	}
}

func pathMTU(t *testing.T, r *rig.Rig, to rig.Device) int {
	t.Helper()
	h, err := r.Generator.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	routes, err := h.RouteGet(to.Addr4.Addr().AsSlice())
	if err != nil || len(routes) == 0 {
		t.Fatal(err)
	}
	return routes[0].MTU
}
