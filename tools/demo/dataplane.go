// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/api"
)

// showPorts checks that all ports are up, and says how packets come.
func showPorts(ctx context.Context, n *network) (string, error) {
	reply, err := n.client.Ports(ctx, "")
	if err != nil {
		return "", err
	}
	var words []string
	lab := 0
	for _, p := range reply.Ports {
		if p.State != api.PortState_PORT_STATE_UP {
			return "", fmt.Errorf("port %s is not up: %s", p.Name, p.Reason)
		}
		words = append(words, fmt.Sprintf("%s (%s XDP, MTU %d)", p.Name, p.XdpMode, p.Mtu))
		if !p.Trunk {
			lab++
		}
	}
	if lab != 3 || len(words) != 4 {
		return "", fmt.Errorf("%d ports, %d of them with devices of their own; want 4 and 3", len(words), lab)
	}
	return strings.Join(words, ", "), nil
}

// portTo is the port by which the route to an address leaves.
func (n *network) portTo(ctx context.Context, to netip.Addr) (string, error) {
	reply, err := n.client.Routes(ctx, &api.RoutesRequest{Address: to.String()})
	if err != nil {
		return "", err
	}
	if len(reply.Routes) != 1 || len(reply.Routes[0].Hops) != 1 {
		return "", fmt.Errorf("no single route to %s", to)
	}
	return reply.Routes[0].Hops[0].Port, nil
}

// balance checks the ledger.
func balance(ctx context.Context, n *network) (string, error) {
	reply, err := n.client.Ledger(ctx, "")
	if err != nil {
		return "", err
	}
	t := reply.Total
	text := fmt.Sprintf("received %d = forwarded %d + consumed %d + dropped %d + held %d%s", t.Received, t.Forwarded,
		t.Consumed, t.Dropped, t.Held, reasons(t, "dropped"))
	if !reply.Balanced || t.Received != t.Forwarded+t.Consumed+t.Dropped+t.Held {
		return "", fmt.Errorf("does not balance: %s", text)
	}
	if t.Forwarded == 0 || t.Consumed == 0 {
		return "", fmt.Errorf("counted too little: %s", text)
	}
	return text, nil
}

// drops says what was dropped, for the message of a step that lost something.
func (n *network) drops() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	reply, err := n.client.Ledger(ctx, "")
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("the dataplane dropped %d%s", reply.Total.GetDropped(), reasons(reply.Total, "dropped"))
}

// reasons lists the reasons of a verdict with their counts, the most frequent first.
func reasons(l *api.PortLedger, verdict string) string {
	var of []*api.ReasonCount
	for _, r := range l.GetReasons() {
		if r.Verdict == verdict {
			of = append(of, r)
		}
	}
	if len(of) == 0 {
		return ""
	}
	slices.SortStableFunc(of, func(a, b *api.ReasonCount) int { return cmp.Compare(b.Packets, a.Packets) })
	words := make([]string, len(of))
	for i, r := range of {
		words[i] = fmt.Sprintf("%s %d", r.Reason, r.Packets)
	}
	return " (" + strings.Join(words, ", ") + ")"
}

// stop ends the dataplane and looks at how it went.
func stop(_ context.Context, n *network) (string, error) {
	if n.client != nil {
		if err := n.client.Close(); err != nil {
			return "", err
		}
		n.client = nil
	}
	start := time.Now()
	if err := n.dataplane.Stop(stopWithin); err != nil {
		return "", fmt.Errorf("the dataplane: %w: %s", err, n.log.last())
	}
	took := time.Since(start)
	for _, port := range []string{"left", "wide", "narrow"} {
		link, err := n.middle.Links().LinkByName(port)
		if err != nil {
			return "", err
		}
		if xdp := link.Attrs().Xdp; xdp != nil && xdp.Attached {
			return "", errors.New("an XDP program stayed on " + port)
		}
	}
	if link, err := n.middle.Links().LinkByName("viaduct0"); err == nil {
		return "", errors.New(link.Attrs().Name + " stayed")
	}
	return fmt.Sprintf("the dataplane ended by itself in %v, its hooks are detached", took.Round(time.Millisecond)), nil
}
