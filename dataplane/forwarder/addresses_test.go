// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"net/netip"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// Node ports are at the addresses of the host's devices, in the tables in force and in those that follow; the tables
// stay the same ones where the addresses do.
func TestNodeAddresses(t *testing.T) {
	f := New(Config{Logger: zaptest.NewLogger(t)})
	defer f.Close()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	f.setNodeAddresses([]netip.Addr{b, a, b})
	at := f.tables.Load()
	if !at.IsNode(packet.AddrFrom(a)) || !at.IsNode(packet.AddrFrom(b)) {
		t.Error("the addresses are not known")
	}
	f.setNodeAddresses([]netip.Addr{a, b})
	if f.tables.Load() != at {
		t.Error("the same addresses in another order made other tables")
	}
	if err := f.Apply(t.Context(), &api.Snapshot{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	if next := f.tables.Load(); next == at || !next.IsNode(packet.AddrFrom(a)) || next.Backends != at.Backends {
		t.Error("the next tables do not know them")
	}
	f.setNodeAddresses(nil)
	if f.tables.Load().IsNode(packet.AddrFrom(a)) {
		t.Error("an address that is gone is known")
	}
}
