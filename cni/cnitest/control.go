// SPDX-License-Identifier: Apache-2.0

// Package cnitest is a control for the CNI plugin to talk to, for tests and measurements: it leases addresses and says
// yes, or whatever it is told to say, and wires nothing.
package cnitest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// Control serves attach.AttachmentsService in memory. Its node has 10.244.1.0/24 and fd00:10:244:1::/64.
type Control struct {
	server *ttrpc.Server
	done   chan struct{}

	mu     sync.Mutex
	leases map[string]*lease
	next   int
	before func(ctx context.Context, method string) error
	calls  []string
	answer *attach.AddReply
}

type lease struct {
	request *attach.AddRequest
	reply   *attach.AddReply
}

// Queues is what Ready answers.
const Queues = 3

// RouteMTU is that of the default routes, in bytes.
const RouteMTU = 1450

// Serve listens at cni.sock in the run directory until Close.
func Serve(runDir string) (*Control, error) {
	c := &Control{leases: map[string]*lease{}, next: 2, done: make(chan struct{})}
	var err error
	if c.server, err = ttrpc.NewServer(); err != nil {
		return nil, err
	}
	attach.RegisterAttachmentsService(c.server, c)
	listener, err := net.Listen("unix", filepath.Join(runDir, "cni.sock"))
	if err != nil {
		return nil, err
	}
	go func() {
		_ = c.server.Serve(context.Background(), listener) // until Close
		close(c.done)
	}()
	return c, nil
}

// Close ends the service, and every connection, at once.
func (c *Control) Close() {
	_ = c.server.Close()
	<-c.done
}

// Before has f called before each request, with the name of its method; its error is the answer. nil: no more.
func (c *Control) Before(f func(ctx context.Context, method string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = f
}

// Answer has every Add answered with this, whatever it is.
func (c *Control) Answer(reply *attach.AddReply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = reply
}

// Forget drops all leases.
func (c *Control) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.leases)
}

// Leases are the requests in force, in no order.
func (c *Control) Leases() []*attach.AddRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	var requests []*attach.AddRequest
	for _, l := range c.leases {
		requests = append(requests, l.request)
	}
	return requests
}

// Calls are the names of the methods called so far.
func (c *Control) Calls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// enter notes the call, and asks the test.
func (c *Control) enter(ctx context.Context, method string) error {
	c.mu.Lock()
	c.calls = append(c.calls, method)
	before := c.before
	c.mu.Unlock()
	if before != nil {
		return before(ctx, method)
	}
	return nil
}

func id(k *attach.Key) string {
	return strings.Join([]string{k.GetNetwork(), k.GetContainer(), k.GetInterface()}, "\x00")
}

func (c *Control) Add(ctx context.Context, r *attach.AddRequest) (*attach.AddReply, error) {
	if err := c.enter(ctx, "Add"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.leases[id(r.Key)]; l != nil && proto.Equal(l.request, r) {
		return l.reply, nil
	}
	reply := c.lease(r)
	c.leases[id(r.Key)] = &lease{proto.Clone(r).(*attach.AddRequest), reply}
	return reply, nil
}

// lease makes the answer.
func (c *Control) lease(r *attach.AddRequest) *attach.AddReply {
	if c.answer != nil {
		return c.answer
	}
	reply := &attach.AddReply{Mtu: 65535, Addresses: r.Addresses}
	if len(r.Addresses) == 0 {
		reply.Addresses = []string{fmt.Sprintf("10.244.1.%d", c.next), fmt.Sprintf("fd00:10:244:1::%x", c.next)}
		c.next++
	}
	for _, a := range reply.Addresses {
		reply.Gateways, reply.Routes = routed(reply, a)
	}
	return reply
}

// routed adds what an address's family has to have.
func routed(r *attach.AddReply, address string) ([]string, []*attach.Route) {
	gateway, own, all := "169.254.1.1", "10.244.1.0/24", "0.0.0.0/0"
	if a, err := netip.ParseAddr(address); err == nil && !a.Is4() {
		gateway, own, all = "fe80::1", "fd00:10:244:1::/64", "::/0"
	}
	if slices.Contains(r.Gateways, gateway) {
		return r.Gateways, r.Routes
	}
	return append(r.Gateways, gateway),
		append(r.Routes, &attach.Route{Destination: own}, &attach.Route{Destination: all, Mtu: RouteMTU})
}

func (c *Control) Remove(ctx context.Context, r *attach.RemoveRequest) (*attach.RemoveReply, error) {
	if err := c.enter(ctx, "Remove"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, found := c.leases[id(r.Key)]
	delete(c.leases, id(r.Key))
	return &attach.RemoveReply{Found: found}, nil
}

func (c *Control) Check(ctx context.Context, r *attach.CheckRequest) (*attach.AddReply, error) {
	if err := c.enter(ctx, "Check"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.leases[id(r.Key)]; l != nil {
		same := func(a, b *attach.HostPort) bool { return proto.Equal(a, b) }
		if !slices.EqualFunc(l.request.HostPorts, r.HostPorts, same) {
			return nil, status.Errorf(codes.FailedPrecondition, "other host ports of %s", r.Key.GetContainer())
		}
		return l.reply, nil
	}
	return nil, status.Errorf(codes.NotFound, "there is no attachment %s of %s", r.Key.GetInterface(),
		r.Key.GetContainer())
}

func (c *Control) Collect(ctx context.Context, r *attach.CollectRequest) (*attach.CollectReply, error) {
	if err := c.enter(ctx, "Collect"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	stays := map[string]bool{}
	for _, k := range r.Valid {
		stays[id(k)] = true
	}
	reply := &attach.CollectReply{}
	for key, l := range c.leases {
		if l.request.Key.GetNetwork() == r.Network && !stays[key] {
			reply.Devices = append(reply.Devices, l.request.Device)
			delete(c.leases, key)
		}
	}
	return reply, nil
}

func (c *Control) Ready(ctx context.Context, _ *attach.ReadyRequest) (*attach.ReadyReply, error) {
	if err := c.enter(ctx, "Ready"); err != nil {
		return nil, err
	}
	return &attach.ReadyReply{Queues: Queues}, nil
}
