// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// farNode is the second of two nodes on one wire, of which the DUT is the first:
//
//	Generator ── DUT: up ── up :in ── Sink
type farNode struct {
	network *Network
	in      *rig.Namespace
	stacks  [2]netip.Prefix // addresses of the nodes' own stacks on the wire; the zero value: the dataplane has it
}

// ApartNames are the subjects that NewApart takes.
func ApartNames() []string {
	return []string{"trunk", "trunk-shared", "trunk-owned", "trunk-off", "trunk-shared-off", "ptp"}
}

// NewApart makes a subject that joins two pods of two nodes, whose uplinks are one veth pair with an MTU of 1500:
// viaduct's trunk with the uplink in mode kernel, or in the mode that the name has; or the reference plugin ptp, with
// which the kernel of each node forwards. With -off viaduct's kernel hooks carry nothing.
func NewApart(name string, p Programs) (Subject, error) {
	base, variant, _ := strings.Cut(name, "-")
	mode, off := strings.CutSuffix(variant, "off")
	mode = strings.TrimSuffix(mode, "-")
	switch {
	case mode == "" && (base == "trunk" || base == "ptp" && !off):
		mode = "kernel"
	case base == "trunk" && (mode == "shared" || mode == "owned"):
	default:
		return nil, fmt.Errorf("subject %q: want one of %s", name, strings.Join(ApartNames(), ", "))
	}
	var networks [2]*Network
	for i := range networks {
		n, err := NewNetwork(base, p)
		if err != nil {
			return nil, err
		}
		n.host, n.cidr = wireNode(i), wireCIDR(i)
		if n.daemons != nil {
			n.describe(i, mode, off)
		}
		networks[i] = n
	}
	far := &farNode{network: networks[1]}
	for i := range far.stacks {
		if mode != "owned" {
			far.stacks[i] = wireAddress(i)
		}
	}
	return &wired{name: name, network: networks[0], far: far}, nil
}

// Of the i-th node, 0 or 1.

func wireNode(i int) string { return fmt.Sprintf("%s-%d", nodeName, i+1) }

func wireCIDR(i int) string { return fmt.Sprintf("10.244.%d.0/24", i+1) }

func wireAddress(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 24)
}

// describe has the i-th node know its uplink, and the other node.
func (n *Network) describe(i int, mode string, off bool) {
	n.spec = fmt.Sprintf("  masquerade: false\n  uplink: {device: %s, mode: %s}\n", upDevice, mode)
	if off {
		n.spec += "  offload: false\n"
	}
	var address netip.Prefix
	switch mode {
	case "shared": // beside that of the node's own stack
		address = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 11)}), 24)
	case "owned":
		address = wireAddress(i)
	}
	if address.IsValid() {
		n.spec += fmt.Sprintf("  ports:\n  - {name: %s, device: %s, addresses: [%s]}\n", upDevice, upDevice, address)
	}
	n.furnish = func() map[string][]byte {
		text := fmt.Appendf(nil, "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: %s}\n"+
			"spec: {podCIDRs: [%s]}\n", wireNode(1-i), wireCIDR(1-i))
		for i := range 2 {
			text = fmt.Appendf(text, "---\napiVersion: v1\nkind: Node\nmetadata: {name: %s}\n"+
				"status: {addresses: [{type: InternalIP, address: %s}]}\n", wireNode(i), wireAddress(i).Addr())
		}
		return map[string][]byte{"nodes.yaml": text}
	}
}

// join makes the second node and the wire. Where no daemon does, the nodes' stacks are told of each other's pods.
func (f *farNode) join(r *rig.Rig) (err error) {
	if f.in, err = rig.NewNamespace(); err != nil {
		return err
	}
	if err := f.connect(r); err != nil {
		return errors.Join(err, f.close())
	}
	return nil
}

func (f *farNode) connect(r *rig.Rig) error {
	if err := rig.Join(r.DUT, f.in, upDevice, pathMTU); err != nil {
		return err
	}
	for i, in := range []*rig.Namespace{r.DUT, f.in} {
		if !f.stacks[i].IsValid() {
			continue
		}
		if err := in.AddAddress(upDevice, f.stacks[i]); err != nil {
			return err
		}
		if f.network.daemons != nil {
			continue
		}
		if err := in.AddRoute(netip.MustParsePrefix(wireCIDR(1-i)), wireAddress(1-i).Addr()); err != nil {
			return err
		}
	}
	return nil
}

func (f *farNode) close() error {
	err := f.network.Stop()
	if f.in == nil {
		return err
	}
	err = errors.Join(err, f.in.Close())
	f.in = nil
	return err
}
