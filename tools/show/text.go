// SPDX-License-Identifier: Apache-2.0

package show

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/api"
)

func nonEmpty(separator string, parts ...string) string {
	kept := parts[:0]
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, separator)
}

// section writes a table after an empty line, and nothing where it has no rows.
func section(w io.Writer, t *table) error {
	if len(t.rows) == 0 {
		return nil
	}
	_, err := fmt.Fprintln(w)
	return errors.Join(err, t.write(w))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func portsText(w io.Writer, r *api.PortsReply) error {
	t := newTable("PORT", ">ID", "STATE", "DEVICE", "VLAN", ">MTU", "MAC", "ADDRESSES", "STATION", "XDP", "QUEUES",
		"REASON")
	for _, p := range r.Ports {
		t.add(p.Name, p.Id, enumWord(p.State.Descriptor(), p.State.Number()), p.Device, vlanText(p), p.Mtu, p.Mac,
			strings.Join(p.Addresses, " "), strings.Join(p.Station, " "), xdpText(p), queuesText(p), p.Reason)
	}
	return t.write(w)
}

func vlanText(p *api.Port) string {
	switch {
	case p.OuterVlan == 0:
		return ""
	case p.InnerVlan == 0:
		return fmt.Sprint(p.OuterVlan)
	}
	return fmt.Sprintf("%d.%d", p.OuterVlan, p.InnerVlan)
}

// xdpText says how packets come: by the device's own hook and sockets, or by the trunk's.
func xdpText(p *api.Port) string {
	if p.Trunk {
		return "trunk"
	}
	if p.XdpMode != "" && p.MultiBuffer {
		return p.XdpMode + ",multi-buffer"
	}
	return p.XdpMode
}

func queuesText(p *api.Port) string {
	if p.Trunk {
		return ""
	}
	words := make([]string, len(p.Queues))
	for i, q := range p.Queues {
		mode := "copy"
		if q.ZeroCopy {
			mode = "zero-copy"
		}
		words[i] = fmt.Sprintf("%d:%s", q.Queue, mode)
	}
	return strings.Join(words, " ")
}

func routesText(w io.Writer, r *api.RoutesReply) error {
	t := newTable("DESTINATION", "KIND", "VIA", "PORT", ">WEIGHT", ">MTU", "ORIGIN")
	for _, route := range r.Routes {
		if len(route.Hops) == 0 {
			t.add(route.Destination, route.Kind, "", "", "", "", route.Origin)
		}
		for i, h := range route.Hops {
			destination, kind, origin := route.Destination, route.Kind, route.Origin
			if i > 0 { // a further next hop of the same route
				destination, kind, origin = " ", " ", " "
			}
			via := h.Via
			if via == "" {
				via = "on-link"
			}
			t.add(destination, kind, via, h.Port, h.Weight, mtuText(h.Mtu), origin)
		}
	}
	return t.write(w)
}

func mtuText(mtu uint32) string {
	if mtu == 0 {
		return ""
	}
	return fmt.Sprint(mtu)
}

func neighborsText(w io.Writer, r *api.NeighborsReply) error {
	t := newTable("PORT", "ADDRESS", "MAC", "STATE", ">CONFIRMED", ">WAITING")
	for _, n := range r.Neighbors {
		age := ""
		if n.AgeNanoseconds > 0 {
			age = time.Duration(n.AgeNanoseconds).Round(time.Millisecond).String() + " ago"
		}
		t.add(n.Port, n.Address, n.Mac, n.State, age, n.Waiting)
	}
	return t.write(w)
}

func identitiesText(w io.Writer, r *api.IdentitiesReply) error {
	t := newTable(">ID", "KIND", "NAMESPACE", "LABELS", "ADDRESSES", "ORIGIN")
	for _, identity := range r.Identities {
		labels := strings.Join(identity.Labels, " ")
		if len(identity.Prefixes) == 0 {
			t.add(identity.Id, identity.Kind, identity.Namespace, labels, "", "")
		}
		for i, p := range identity.Prefixes {
			if i == 0 {
				t.add(identity.Id, identity.Kind, identity.Namespace, labels, p.Prefix, p.Origin)
				continue
			}
			t.add(" ", " ", " ", " ", p.Prefix, p.Origin) // a further address of the same identity
		}
	}
	return t.write(w)
}

func dropsText(w io.Writer, r *api.LedgerReply) error {
	t := newTable("PORT", "VERDICT", "REASON", ">PACKETS", "MEANING")
	for _, p := range r.Ports {
		for _, c := range p.Reasons {
			t.add(p.Name, c.Verdict, c.Reason, c.Packets, c.Meaning)
		}
	}
	ledger := newTable("LEDGER", ">RECEIVED", ">FORWARDED", ">CONSUMED", ">DROPPED", ">HELD", ">ORIGINATED",
		">TRANSMITTED", ">FAILED")
	for _, p := range append(r.Ports[:len(r.Ports):len(r.Ports)], r.Total) {
		if p == nil {
			continue
		}
		name := p.Name
		if p.Gone && p.Id != 0 { // packets without a port are under 0
			name += " (gone)"
		}
		ledger.add(name, p.Received, p.Forwarded, p.Consumed, p.Dropped, p.Held, p.Originated, p.Transmitted,
			p.TransmitFailures)
	}
	err := errors.Join(t.write(w), section(w, ledger), section(w, beforeText(r.Ports)))
	_, lineErr := fmt.Fprintf(w, "\n%s\n", balanceText(r))
	return errors.Join(err, lineErr)
}

// beforeText is what was counted before the packet loop: by the hook, and by the kernel for the sockets.
func beforeText(ports []*api.PortLedger) *table {
	t := newTable("BEFORE", "COUNTED BY", "COUNTER", ">PACKETS")
	for _, p := range ports {
		for _, name := range sortedKeys(p.Hook) {
			if p.Hook[name] > 0 {
				t.add(p.Name, "hook", name, p.Hook[name])
			}
		}
		s := p.Sockets
		for _, c := range []struct {
			name string
			n    uint64
		}{
			{"rx_dropped", s.GetRxDropped()}, {"rx_invalid_descriptors", s.GetRxInvalidDescriptors()},
			{"tx_invalid_descriptors", s.GetTxInvalidDescriptors()}, {"rx_ring_full", s.GetRxRingFull()},
			{"rx_fill_ring_empty", s.GetRxFillRingEmpty()},
		} {
			if c.n > 0 {
				t.add(p.Name, "socket", c.name, c.n)
			}
		}
	}
	return t
}

func balanceText(r *api.LedgerReply) string {
	if r.Balanced {
		return "the ledger balances: received = forwarded + consumed + dropped + held"
	}
	return fmt.Sprintf("the ledger does NOT balance: received differs by %d", r.Difference)
}
