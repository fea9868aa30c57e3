// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/viaduct-net/viaduct/perf/cluster"
	"github.com/viaduct-net/viaduct/perf/rig"
)

// veth is nothing between two namespaces but a veth pair: what no way between two pods is shorter than.
type veth struct{}

func (veth) Name() string               { return "veth" }
func (veth) Missing(rig.Options) string { return "" }
func (veth) Transparent() bool          { return true }
func (veth) Wires() bool                { return true }
func (veth) Checksums() bool            { return true }
func (veth) PIDs() []int                { return nil }
func (veth) Stop() error                { return nil } // all of it goes with the rig

func (veth) Start(_ context.Context, r *rig.Rig, _ Setup) error {
	return r.Shorten(Interface, rig.Options{Queues: 1, MTU: jumbo})
}

// translating is the kernel's forwarding to an address that it translates into the sink's, flow by flow.
type translating struct{ kernel }

// translated is that address.
var translated = cluster.Services{Count: 1}.Address(0)

func (*translating) Name() string { return "kernel-dnat" }

func (*translating) Missing(rig.Options) string { return executable(nftProgram) }

func (t *translating) Start(ctx context.Context, r *rig.Rig, s Setup) error {
	if err := t.kernel.Start(ctx, r, s); err != nil {
		return err
	}
	route := netip.PrefixFrom(translated, translated.BitLen())
	if err := r.Generator.AddRoute(route, r.Left.Addr4.Addr()); err != nil {
		return err
	}
	r.Front = translated
	return runNFT(r.DUT, func(w io.Writer) {
		fmt.Fprintln(w, "table ip nat {\nchain prerouting {\ntype nat hook prerouting priority dstnat;")
		fmt.Fprintf(w, "ip daddr %s dnat to %s\n}\n}\n", translated, r.Sunk.Addr4.Addr())
	})
}
