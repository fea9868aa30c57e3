// SPDX-License-Identifier: Apache-2.0

package xsk

import (
	"testing"

	"github.com/mdlayher/netlink"

	"github.com/viaduct-net/viaduct/dataplane/xsk/internal/veth"
)

func TestAskDriver(t *testing.T) {
	veth.Namespace(t)
	w := veth.New(t, 1500)
	d, err := askDriver(w.Near.Attrs().Index)
	must(t, err)
	// A veth that has an XDP program: basic and redirect (bits 0 and 1 of enum netdev_xdp_act), and no zero copy.
	if d.xdpFeatures&3 != 3 || d.txChecksum || d.maxSegments > 1 {
		t.Errorf("veth can %+v", d)
	}
	if _, err := askDriver(99999); err == nil {
		t.Error("a device that does not exist has features")
	}
}

func TestParseDriver(t *testing.T) {
	e := netlink.NewAttributeEncoder()
	e.Uint32(netdevMaxSegments, 8)
	e.Uint64(netdevXSKFeatures, 3)
	data, err := e.Encode()
	must(t, err)
	d, err := parseDriver(data)
	if err != nil || !d.txChecksum || d.maxSegments != 8 {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := parseDriver(data[:len(data)-3]); err == nil {
		t.Error("a truncated answer was accepted")
	}
}
