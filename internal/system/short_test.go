// SPDX-License-Identifier: Apache-2.0

package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// hangUp is a server that says a byte to who connects, and closes.
func (s *site) hangUp(ns *netlab.Namespace, port uint16) {
	s.t.Helper()
	var l net.Listener
	s.must(ns.Do(func() (err error) { l, err = net.Listen("tcp", ":"+strconv.Itoa(int(port))); return err }))
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{1})
			_ = c.Close()
		}
	}()
}

// shortFrom connects from a port, 0 for any, hears all that the server says, and closes.
func shortFrom(from *netlab.Namespace, local, to netip.AddrPort) error {
	d := net.Dialer{Timeout: patient}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(local)
	}
	var c net.Conn
	err := from.Do(func() (err error) { c, err = d.Dial("tcp", to.String()); return err })
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
		return err
	}
	if said, err := io.ReadAll(c); err != nil || len(said) != 1 {
		return fmt.Errorf("heard %v, %w", said, err)
	}
	return sentOnce(c.(*net.TCPConn))
}

// flowsTo counts flows of TCP to a port by their states.
func (s *site) flowsTo(port uint16) (states map[string]int, err error) {
	states = map[string]int{}
	err = s.ask("dataplane.sock", func(ctx context.Context, c *grpc.ClientConn) error {
		stream, err := api.NewDataplaneClient(c).Flows(ctx, &api.FlowsRequest{Protocol: "tcp"})
		if err != nil {
			return err
		}
		for {
			reply, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			for _, f := range reply.Flows {
				if f.DestinationPort == uint32(port) {
					states[f.State]++
				}
			}
		}
	})
	return states, err
}

// TestShortConnections: of connections that have to be judged one by one userspace sees little more than the SYN; it
// knows all the same when they are over, and does not keep what the kernel had of them. An opener's port may be used
// again at once.
func TestShortConnections(t *testing.T) {
	s := newServiceStage(t)
	s.service("", []string{"web"})
	const listen, times, each = targetPort + 1, 200, 3
	s.hangUp(s.of("web"), listen)
	s.write("policy.yaml", networkPolicy("shop", "ports", fmt.Sprintf(
		"{podSelector: {matchLabels: {app: %s}}, ingress: [{ports: [{port: %d}, {port: %d}]}]}",
		cast["web"].app, listen, targetPort)))
	s.hasPolicies(1)
	for f := range families {
		spy, direct := s.address("spy", f), netip.AddrPortFrom(s.address("web", f), listen)
		for what, once := range map[string]func(i int) error{
			"to a pod": func(int) error { return shortFrom(s.of("spy"), netip.AddrPort{}, direct) },
			"from a port": func(i int) error {
				return shortFrom(s.of("spy"), netip.AddrPortFrom(spy, 7000+uint16(i%2)), direct)
			},
			"to a service": func(int) error {
				_, _, err := who(s.of("spy"), "tcp", frontends(f)["cluster address"])
				return err
			},
			"from the world": func(int) error { return shortFrom(s.of("world"), netip.AddrPort{}, direct) },
		} {
			before := s.visits("spy") + s.visits("web")
			for i := range times {
				if err := once(i); err != nil {
					t.Fatalf("IPv%d, %s, %d: %v", f, what, i, err)
				}
			}
			if n := s.visits("spy") + s.visits("web") - before; n > each*times {
				t.Errorf("IPv%d, %s: userspace saw %d packets of %d connections", f, what, n, times)
			} else {
				t.Logf("IPv%d, %s: userspace saw %d packets of %d connections", f, what, n, times)
			}
		}
	}
	for _, port := range []uint16{listen, servicePort} {
		s.eventually("connections to be over", func() error {
			states, err := s.flowsTo(port)
			for state, n := range states {
				if state != "time_wait" && state != "closed" {
					err = errors.Join(err, fmt.Errorf("%d %s", n, state))
				}
			}
			return err
		})
	}
	s.eventually("the kernel's table to be given back", func() error {
		status, err := s.dataplaneStatus()
		if n := status.GetOffload().GetRecords(); n > times/4 {
			err = fmt.Errorf("%d records", n)
		}
		return err
	})
	s.balanced()
}
