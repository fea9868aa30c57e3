// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// serve has a namespace answer connections to a port of its own, each with what it gets, until the test ends.
func (n *podNode) serve(in *netlab.Namespace, port uint16) {
	n.t.Helper()
	var l net.Listener
	n.must(in.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		return err
	}))
	n.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
}

// dial opens a connection, from a port of its own or one that is given.
func (n *podNode) dial(from *netlab.Namespace, to string, local int) (net.Conn, error) {
	var c net.Conn
	err := from.Do(func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{Port: local},
			Control: func(_, _ string, s syscall.RawConn) (err error) {
				failed := s.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
				return errors.Join(failed, err)
			}}
		c, err = d.Dial("tcp", to)
		return err
	})
	return c, err
}

// ask is a short connection: what is sent comes back, and both ends close it.
func (n *podNode) ask(from *netlab.Namespace, to string, local int) error {
	c, err := n.dial(from, to, local)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("viaduct")); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "viaduct" {
		return fmt.Errorf("%q came back: %w", got, err)
	}
	return nil
}

func (n *podNode) mustAsk(from *netlab.Namespace, to string) {
	n.t.Helper()
	if err := n.ask(from, to, 0); err != nil {
		n.t.Fatal(err)
	}
}

// info is what the kernel knows of a connection.
func (n *podNode) info(c net.Conn) (info *unix.TCPInfo) {
	n.t.Helper()
	s, err := c.(*net.TCPConn).SyscallConn()
	n.must(err)
	n.must(s.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) }))
	n.must(err)
	return info
}

// pairOf is what is listed of the pair of two addresses, nil: there is none.
func (n *podNode) pairOf(a, b string) *dataplaneapi.Flow {
	n.t.Helper()
	all, err := n.f.Flows(&dataplaneapi.FlowsRequest{Address: a})
	n.must(err)
	for flow := range all {
		if flow.Pair && (flow.Source == a && flow.Destination == b || flow.Source == b && flow.Destination == a) {
			return flow
		}
	}
	return nil
}

// paired has so many connections be opened that there is a pair.
func (n *podNode) paired(from *netlab.Namespace, a, b string, port uint16) {
	n.t.Helper()
	n.eventually("the pair to be entered", func() bool {
		n.mustAsk(from, netip.AddrPortFrom(netip.MustParseAddr(b), port).String())
		return n.pairOf(a, b) != nil
	})
}

// received is how many packets userspace has got.
func (n *podNode) received() (sum uint64) {
	for _, t := range n.f.Ledger() {
		sum += t.Get(ledger.Received)
	}
	return sum
}

func pairNode(t *testing.T) (n *podNode, a, b *netlab.Namespace) {
	n = newPodNode(t, Config{Cleanup: true})
	n.offload = true
	a, b = n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	return n, a, b
}

// Short connections between pods of which policy lets everything do not come to userspace, whoever opens them.
func TestPairsCarry(t *testing.T) {
	n, a, b := pairNode(t)
	for _, of := range []struct{ a, b string }{{"10.244.1.5", "10.244.1.6"}, {"fd00:244::5", "fd00:244::6"}} {
		t.Run(of.a, func(t *testing.T) {
			n.t = t
			n.serve(a, 80)
			n.serve(b, 80)
			n.paired(a, of.a, of.b, 80)
			before, packets := n.received(), n.pairOf(of.a, of.b).Packets
			const connections = 1000
			for i := range connections {
				if i%2 == 0 {
					n.mustAsk(a, netip.AddrPortFrom(netip.MustParseAddr(of.b), 80).String())
				} else {
					n.mustAsk(b, netip.AddrPortFrom(netip.MustParseAddr(of.a), 80).String())
				}
			}
			// What neighbours ask of each other comes to userspace, and what was under way.
			if got := n.received() - before; got > connections/10 {
				t.Errorf("userspace got %d packets of %d connections", got, connections)
			}
			is := n.pairOf(of.a, of.b)
			if is.State != "pair" || !is.Carried || is.Packets+is.ReplyPackets-packets < 5*connections {
				t.Errorf("%v", is)
			}
			list, err := n.f.carrier.kernel.PairOpenings()
			if err != nil || len(list) > connections/10 {
				t.Errorf("%d connections are remembered that are over, %v", len(list), err)
			}
		})
	}
	ask := dataplaneapi.ExplainRequest{Source: "10.244.1.5", Destination: "10.244.1.6", Protocol: "tcp", Port: 80}
	if r, err := n.f.Explain(&ask); err != nil || !r.Pair {
		t.Errorf("explained: %v, %v", r, err)
	}
	if o := n.f.Status().Offload; o.Pairs != 2 || o.PairsWithdrawn != 0 {
		t.Errorf("%v", o)
	}
	n.t = t
	n.balanced()
}

// exchange sends a little by a connection and waits for it to come back.
func exchange(c net.Conn, patience time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("viaduct")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 7))
	return err
}

// onlyPort80 is policy for pod 6: nobody may reach it but at port 80.
func onlyPort80(s *api.Snapshot) {
	denyIngress(6)(s)
	s.Policies[0].Rules = []*api.PolicyRule{{Name: "spec.ingress[0]", Direction: api.PolicyRule_DIRECTION_INGRESS,
		Action: api.PolicyRule_ACTION_ALLOW, AnyPeer: true,
		Ports: []*api.PortRange{{Protocol: api.Protocol_PROTOCOL_TCP, First: 80, Last: 80}}}}
}

// When policy comes to look at ports, the connections of a pair that it lets go on without a break, whether they were
// opened before the pair or by it, and so do those that it lets since the end that answers is asked nothing; others
// stop. Once policy lets everything again they go on, and there is a pair again.
func TestPairWithdrawn(t *testing.T) {
	n, a, b := pairNode(t)
	for _, port := range []uint16{80, 81} {
		n.serve(a, port)
		n.serve(b, port)
	}
	dial := func(from *netlab.Namespace, to string) net.Conn {
		t.Helper()
		c, err := n.dial(from, to, 0)
		n.must(err)
		t.Cleanup(func() { _ = c.Close() })
		n.must(exchange(c, 5*time.Second))
		return c
	}
	early80, early81 := dial(a, "10.244.1.6:80"), dial(a, "10.244.1.6:81")
	n.paired(a, "10.244.1.5", "10.244.1.6", 80)
	late80, late81, other81 := dial(a, "10.244.1.6:80"), dial(a, "10.244.1.6:81"), dial(b, "10.244.1.5:81")
	n.eventually("what was under way to be settled", func() bool {
		n.f.carrier.pairs.mu.Lock()
		defer n.f.carrier.pairs.mu.Unlock()
		return n.f.carrier.pairs.since == 0
	})

	n.policies = onlyPort80
	began := time.Now()
	n.update()
	n.eventually("the pair to be withdrawn", func() bool { return n.pairOf("10.244.1.5", "10.244.1.6") == nil })
	t.Logf("withdrawn %v after the change, of which the walk says %v", time.Since(began),
		time.Duration(n.f.Status().Offload.LastSettleNanoseconds))
	for name, c := range map[string]net.Conn{"early": early80, "late": late80, "the other way": other81} {
		for range 3 {
			if err := exchange(c, 5*time.Second); err != nil {
				t.Errorf("let, %s: %v", name, err)
			}
		}
	}
	for name, c := range map[string]net.Conn{"early": early81, "late": late81} {
		if err := exchange(c, 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("denied, %s: %v", name, err)
		}
	}
	if c, err := n.dial(b, "10.244.1.5:80", 0); err != nil {
		t.Error("connections that are let are not opened")
	} else {
		_ = c.Close()
	}
	flow := n.flow(&conversation{t: t, c: late80})
	if flow.State != "established" || !flow.Carried || flow.Rule != "NetworkPolicy default/none spec.ingress[0]" {
		t.Errorf("%v", flow)
	}
	if o := n.f.Status().Offload; o.Pairs != 0 || o.PairsWithdrawn != 1 || o.ConnectionsResumed < 2 ||
		o.ConnectionsDenied != 1 {
		t.Errorf("%v", o)
	}

	n.policies = nil
	n.update()
	n.paired(a, "10.244.1.5", "10.244.1.6", 81)
	for name, c := range map[string]net.Conn{"early": early80, "late": late80, "the other way": other81} {
		if err := exchange(c, 5*time.Second); err != nil {
			t.Errorf("at last, %s: %v", name, err)
		}
	}
	for name, c := range map[string]net.Conn{"early": early81, "late": late81} {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, make([]byte, 7)); err != nil {
			t.Errorf("denied for a while, %s: %v", name, err)
		}
	}
	n.balanced()
}

// withService has pod 6 answer for a service at 10.96.0.1, port 80, by its port 8080.
func withService(s *api.Snapshot) {
	s.Services = []*api.Service{{Id: 1, Name: "default/web", Protocol: api.Protocol_PROTOCOL_TCP,
		Algorithm: api.Service_ALGORITHM_ROUND_ROBIN, Removal: api.Service_REMOVAL_RESET,
		Frontends: []*api.Frontend{{Kind: api.Frontend_KIND_CLUSTER_IP, Address: []byte{10, 96, 0, 1}, Port: 80}},
		Backends:  []*api.Backend{{Address: []byte{10, 244, 1, 6}, Port: 8080, Weight: 1, Cluster: true}},
	}}
}

// Connections by a service and to its backend itself, at once and from the same ports, do not meet, though there is a
// pair of the two.
func TestPairBesideService(t *testing.T) {
	n, a, b := pairNode(t)
	n.policies = withService
	n.apply()
	n.serve(b, 8080)
	n.paired(a, "10.244.1.5", "10.244.1.6", 8080)
	var asking sync.WaitGroup
	for _, to := range []string{"10.96.0.1:80", "10.244.1.6:8080"} {
		asking.Go(func() {
			for range 300 {
				if err := n.ask(a, to, 0); err != nil {
					t.Errorf("%s: %v", to, err)
					return
				}
			}
		})
	}
	asking.Wait()
	const first, last = 20000, 20020
	repeated := 0
	for local := first; local < last; local++ {
		service, err := n.dial(a, "10.96.0.1:80", local)
		n.must(err)
		n.must(exchange(service, 5*time.Second))
		direct, err := n.dial(a, "10.244.1.6:8080", local)
		if err != nil {
			t.Fatalf("from port %d: %v", local, err)
		}
		for range 3 {
			if err := errors.Join(exchange(service, 5*time.Second), exchange(direct, 5*time.Second)); err != nil {
				t.Fatalf("from port %d: %v", local, err)
			}
		}
		if info := n.info(direct); info.Total_retrans > 0 {
			repeated++
		}
		_ = service.Close()
		_ = direct.Close()
	}
	if repeated > (last-first)/2 {
		t.Errorf("%d of %d connections were only opened by a SYN that was repeated", repeated, last-first)
	}
	if n.pairOf("10.244.1.5", "10.244.1.6") == nil {
		t.Error("the pair is gone")
	}
	n.balanced()
}

// A pair that nobody uses is withdrawn, and what is open goes on.
func TestIdlePair(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.offload = true
	n.f.carrier.pairs.idleAfter = 300 * time.Millisecond
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	n.serve(b, 80)
	n.paired(a, "10.244.1.5", "10.244.1.6", 80)
	c, err := n.dial(a, "10.244.1.6:80", 0)
	n.must(err)
	defer c.Close()
	n.must(exchange(c, 5*time.Second))
	n.eventually("the pair to be withdrawn", func() bool { return n.pairOf("10.244.1.5", "10.244.1.6") == nil })
	if flow := n.flow(&conversation{t: t, c: c}); flow.State != "established" {
		t.Errorf("%v", flow)
	}
	n.must(exchange(c, 5*time.Second))
}

// What policy, or a port, would have each connection be looked at for keeps the kernel from carrying the pair.
func TestUnpaired(t *testing.T) {
	for name, edit := range map[string]func(*podNode){
		"policy by port": func(n *podNode) { n.policies = onlyPort80 },
		"a staged policy": func(n *podNode) {
			n.policies = func(s *api.Snapshot) {
				onlyPort80(s)
				s.Policies[0].Staged = true
			}
		},
		"offload is off": func(n *podNode) { n.offload = false },
	} {
		t.Run(name, func(t *testing.T) {
			n := newPodNode(t, Config{Cleanup: true})
			n.offload = true
			a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
			edit(n)
			n.apply()
			n.serve(b, 80)
			for range 20 {
				n.mustAsk(a, "10.244.1.6:80")
			}
			if o := n.f.Status().Offload; o.Pairs != 0 {
				t.Errorf("%v", o)
			}
		})
	}
}
