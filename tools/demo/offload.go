// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/viaduct-net/viaduct/dataplane/api"
)

// carriedRounds is how often something goes to the other end and back while userspace is to see none of it.
const carriedRounds = 500

// carriedFlow has the kernel carry a connection between pods, whose packets userspace sees no more.
func carriedFlow(ctx context.Context, n *network) (string, error) {
	var text string
	for _, family := range []int{4, 6} {
		t, err := n.talk(podAddress(1, family))
		if err != nil {
			return "", err
		}
		before, err := n.awaitCarried(ctx, t)
		if err != nil {
			return "", err
		}
		for range carriedRounds {
			if err := echoed(t.conn, answerWithin); err != nil {
				return "", err
			}
		}
		after, err := n.flowOf(ctx, t.conn)
		if err != nil {
			return "", err
		}
		all := after.Packets + after.ReplyPackets
		if grown := seenPackets(after) - seenPackets(before); grown != 0 {
			return "", fmt.Errorf("userspace has seen %d packets of what is carried", grown)
		}
		text += fmt.Sprintf("; IPv%d: %d packets, userspace saw the first %d", family, all, seenPackets(after))
	}
	return text[2:], nil
}

// awaitCarried goes on until the kernel carries both directions of a connection.
func (n *network) awaitCarried(ctx context.Context, t talk) (*api.Flow, error) {
	for {
		if err := echoed(t.conn, answerWithin); err != nil {
			return nil, err
		}
		f, err := n.flowOf(ctx, t.conn)
		if err != nil || f.Carried && f.CarriedPackets > 0 && f.ReplyCarriedPackets > 0 {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("the kernel does not carry the connection")
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// flowOf is what the dataplane knows of a connection.
func (n *network) flowOf(ctx context.Context, c net.Conn) (*api.Flow, error) {
	reply, err := n.client.Flows(ctx, &api.FlowsRequest{Protocol: "tcp"})
	if err != nil {
		return nil, err
	}
	port := uint32(portOf(c.LocalAddr()))
	for _, f := range reply.Flows {
		if f.SourcePort == port && f.Destination == addrOf(c.RemoteAddr()) {
			return f, nil
		}
	}
	return nil, fmt.Errorf("the dataplane knows no connection from port %d", port)
}

// seenPackets are those of a flow that came to userspace.
func seenPackets(f *api.Flow) uint64 {
	return f.Packets + f.ReplyPackets - f.CarriedPackets - f.ReplyCarriedPackets
}

func addrOf(a net.Addr) string { return a.(*net.TCPAddr).AddrPort().Addr().Unmap().String() }
