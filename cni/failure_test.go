// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api/attach"
)

// fails adds, and wants the code, and nothing left.
func (r *rig) fails(p *pod, more string, want uint) {
	r.Helper()
	r.denied(p, more, want)
	r.control.Before(nil)
	r.clean(p)
}

// denied adds, and wants the code.
func (r *rig) denied(p *pod, more string, want uint) {
	r.Helper()
	_, err := r.cni.AddNetworkList(context.Background(), r.list("1.1.0", more), p.runtime)
	if code(err) != want {
		r.Errorf("%v, want code %d", err, want)
	}
}

func TestWhatControlRefuses(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	for c, want := range map[codes.Code]uint{
		codes.Unavailable: 11, codes.DeadlineExceeded: 11, codes.ResourceExhausted: 100, codes.AlreadyExists: 101,
		codes.InvalidArgument: 7, codes.FailedPrecondition: 102, codes.Internal: 999, codes.Unknown: 999,
	} {
		r.control.Before(func(_ context.Context, method string) error {
			if method != "Add" {
				return nil
			}
			return status.Error(c, "because\nof this")
		})
		r.fails(p, "", want)
	}
	r.control.Before(func(_ context.Context, method string) error { return status.Error(codes.Unavailable, method) })
	r.fails(p, `, "attach": "direct"`, 11)
}

func TestControlDies(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	dying := r.control
	dying.Before(func(ctx context.Context, _ string) error {
		go dying.Close()
		<-ctx.Done()
		return ctx.Err()
	})
	r.denied(p, "", 11)
	if left := append(r.links(r.host), r.links(p.Namespace)...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	r.denied(p, "", 11) // there is nobody
	r.serve()
	r.clean(p)
}

func TestControlHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the deadline of an ADD")
	}
	t.Parallel()
	r := node(t)
	p := r.pod("one")
	r.control.Before(func(ctx context.Context, method string) error {
		if method == "Add" {
			<-ctx.Done()
		}
		return ctx.Err()
	})
	r.fails(p, "", 11)
}

// What follows control's answer fails when the namespace has in place what is to be added.
func TestTheContainerFails(t *testing.T) {
	r := node(t)
	for name, occupy := range map[string]func(*pod, netlink.Link) error{
		"address": func(p *pod, l netlink.Link) error {
			a, err := netlink.ParseAddr("10.244.1.7/32")
			return errors.Join(err, p.Links().AddrAdd(l, a))
		},
		"IPv6 address": func(p *pod, l netlink.Link) error {
			a, err := netlink.ParseAddr("fd00:10:244:1::7/128")
			return errors.Join(err, p.Links().AddrAdd(l, a))
		},
		"device": func(p *pod, l netlink.Link) error { return p.Links().LinkSetName(l, "away") },
		"pair":   func(p *pod, l netlink.Link) error { return p.Links().LinkDel(l) },
	} {
		t.Run(name, func(t *testing.T) {
			p := r.pod("one")
			p.runtime.CapabilityArgs = map[string]any{"ips": []string{"10.244.1.7", "fd00:10:244:1::7"}}
			r.control.Before(func(_ context.Context, method string) error {
				if method != "Add" {
					return nil
				}
				l, err := p.Links().LinkByName("eth0")
				return errors.Join(err, occupy(p, l))
			})
			r.fails(p, "", 5)
			r.ok(r.del(r.list("1.1.0", ""), p))
		})
	}
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	for name, spoil := range map[string]func(*attach.AddReply){
		"no address":              func(a *attach.AddReply) { a.Addresses = nil },
		"address":                 func(a *attach.AddReply) { a.Addresses[0] = "ten" },
		"no MTU":                  func(a *attach.AddReply) { a.Mtu = 0 },
		"gateway":                 func(a *attach.AddReply) { a.Gateways[0] = "x" },
		"destination":             func(a *attach.AddReply) { a.Routes[0].Destination = "x" },
		"family without a router": func(a *attach.AddReply) { a.Routes[0].Destination = "::/0" },
	} {
		a := answer()
		spoil(a)
		r.control.Answer(a)
		t.Log(name)
		r.fails(p, "", 6)
	}
}

func answer() *attach.AddReply {
	return &attach.AddReply{Addresses: []string{"10.0.0.1"}, Gateways: []string{"169.254.1.1"}, Mtu: 65535,
		Routes: []*attach.Route{{Destination: "0.0.0.0/0"}}}
}

func TestTheLinkMTUIsControls(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	a := answer()
	a.Mtu = 9000
	r.control.Answer(a)
	result := r.add(r.list("1.1.0", ""), p)
	l, err := p.Links().LinkByName("eth0")
	r.ok(err)
	if l.Attrs().MTU != 9000 || result.Interfaces[1].Mtu != 9000 {
		t.Errorf("MTU %d, in the result %d", l.Attrs().MTU, result.Interfaces[1].Mtu)
	}
}

func TestInterfacesOfOthers(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	device := r.add(list, p).Interfaces[0].Name
	r.ok(r.del(list, p))
	away := r.namespace("away")

	r.ok(r.lab.Veth(r.end(p.Namespace, "eth0", "192.0.2.1/24"), r.end(away, "peer", "192.0.2.2/24")))
	r.denied(p, "", types.ErrInvalidEnvironmentVariables)
	r.ok(r.del(list, p))
	if links := append(r.links(p.Namespace), r.links(r.host)...); !slices.Equal(links, []string{"eth0"}) {
		t.Errorf("%v", links)
	}

	q := r.pod("two")
	q.runtime.ContainerID = "one"
	r.ok(r.lab.Veth(r.end(r.host, device, "198.51.100.1/24"), r.end(away, "peer2", "198.51.100.2/24")))
	l, err := r.host.Links().LinkByName(device)
	r.ok(err)
	r.ok(r.host.Links().LinkSetAlias(l, "mine"))
	r.denied(q, "", 103)
	r.ok(r.del(list, q))
	if links := append(r.links(q.Namespace), r.links(r.host)...); !slices.Equal(links, []string{device}) {
		t.Errorf("%v", links)
	}
}

func TestTheResultCannotBePrinted(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	r.ok(err)
	defer full.Close()
	r.ok(r.host.Do(func() error {
		c := r.plugin(environment(p), r.configuration(""))
		c.Stdout = full
		if c.Run() == nil {
			t.Error("no error")
		}
		return nil
	}))
	r.clean(p)
}

func TestDelWithoutTheRest(t *testing.T) {
	r := node(t)
	list := r.list("1.1.0", "")

	p := r.pod("gone") // the record
	r.add(list, p)
	r.control.Forget()
	r.ok(r.del(list, p))
	r.clean(p)

	p = r.pod("away") // the daemon
	r.add(list, p)
	socket := filepath.Join(r.runDir, "cni.sock")
	r.ok(os.Rename(socket, socket+".away"))
	r.ok(r.del(list, p))
	r.ok(os.Rename(socket+".away", socket))
	if left := append(r.links(r.host), r.links(p.Namespace)...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	r.ok(r.del(list, p))

	p = r.pod("half") // the device
	r.add(list, p)
	l, err := p.Links().LinkByName("eth0")
	r.ok(err)
	r.ok(p.Links().LinkDel(l))
	r.ok(r.del(list, p))
	r.clean(p)

	p = r.pod("nothing") // the namespace's path
	r.add(list, p)
	p.runtime.NetNS = ""
	r.ok(r.del(list, p))
	r.clean(p)

	p = r.pod("refused")
	r.add(list, p)
	r.control.Before(func(context.Context, string) error { return status.Error(codes.Internal, "no") })
	if err := r.del(list, p); code(err) != 999 {
		t.Errorf("%v", err)
	}
	r.control.Before(nil)
	r.ok(r.del(list, p))
	r.clean(p)
}
