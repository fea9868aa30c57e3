// SPDX-License-Identifier: Apache-2.0

package forwarder

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	dataplaneapi "github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// conversation is a TCP connection between two namespaces, whose other end sends back what it gets.
type conversation struct {
	t *testing.T
	c net.Conn
}

func (n *podNode) converse(from, to *netlab.Namespace, address string) *conversation {
	n.t.Helper()
	var l net.Listener
	n.must(to.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(address), 0).String())
		return err
	}))
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = l.Close()
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	c := &conversation{t: n.t}
	n.must(from.Do(func() (err error) {
		c.c, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		return err
	}))
	n.t.Cleanup(func() { _ = c.c.Close() })
	return c
}

// say sends so many bytes and waits for them to come back.
func (c *conversation) say(size int) error {
	_ = c.c.SetDeadline(time.Now().Add(20 * time.Second))
	sent := bytes.Repeat([]byte("viaduct "), size/8)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.c.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c.c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("what came back differs")
	}
	return <-wrote
}

func (c *conversation) mustSay(size int) {
	c.t.Helper()
	if err := c.say(size); err != nil {
		c.t.Fatal(err)
	}
}

// port is that of the end that has begun it.
func (c *conversation) port() uint32 { return uint32(c.c.LocalAddr().(*net.TCPAddr).Port) }

// flow is what the forwarder knows of the conversation, once it does: one of a pair that was withdrawn follows in the
// background.
func (n *podNode) flow(c *conversation) (is *dataplaneapi.Flow) {
	n.t.Helper()
	n.eventually("the flow to be known", func() bool {
		all, err := n.f.Flows(&dataplaneapi.FlowsRequest{Protocol: "tcp"})
		n.must(err)
		for flow := range all {
			if flow.SourcePort == c.port() {
				is = flow
			}
		}
		return is != nil
	})
	return is
}

// seen are the packets of it that userspace has seen.
func seen(f *dataplaneapi.Flow) uint64 {
	return f.Packets + f.ReplyPackets - f.CarriedPackets - f.ReplyCarriedPackets
}

// begun is a conversation that the kernel carries by now.
func (n *podNode) begun(from, to *netlab.Namespace, address string) *conversation {
	n.t.Helper()
	c := n.converse(from, to, address)
	n.carried(c)
	return c
}

func (n *podNode) carried(c *conversation) {
	n.t.Helper()
	n.eventually("both directions to be carried", func() bool {
		c.mustSay(1 << 10)
		f := n.flow(c)
		return f.Carried && f.CarriedPackets > 0 && f.ReplyCarriedPackets > 0
	})
}

// An established flow's packets do not come to userspace, whoever its ends are.
func TestFlowsAreCarried(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.offload = true
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	const size = 4 << 20
	for name, of := range map[string]struct {
		from, to *netlab.Namespace
		address  string
	}{
		"pods, IPv4": {a, b, "10.244.1.6"}, "pods, IPv6": {b, a, "fd00:244::5"},
		"host to pod, IPv4": {n.node, a, "10.244.1.5"}, "host to pod, IPv6": {n.node, a, "fd00:244::5"},
		"pod to host": {a, n.node, "10.244.1.1"}, "pod to world, IPv4": {a, n.world, "192.0.2.2"},
		"pod to world, IPv6": {b, n.world, "2001:db8::2"},
	} {
		t.Run(name, func(t *testing.T) {
			c := n.begun(of.from, of.to, of.address)
			before := n.flow(c)
			c.mustSay(size)
			after := n.flow(c)
			if seen(after) != seen(before) || after.CarriedBytes < size || after.ReplyCarriedBytes < size {
				t.Errorf("before %v\nafter %v", before, after)
			}
		})
	}
	n.balanced()
}

// uncarriedBy waits until the walk has taken the conversation out, without a packet of it.
func (n *podNode) uncarriedBy(c *conversation, state string) {
	n.t.Helper()
	n.eventually("the walk to take the flow out", func() bool {
		f := n.flow(c)
		return !f.Carried && f.State == state
	})
}

// denyIngress is a policy for a pod that nobody may reach.
func denyIngress(i int) func(*api.Snapshot) {
	return func(s *api.Snapshot) {
		v4, _ := podAddr(i)
		s.Identities = []*api.Identity{{Id: 1, Kind: api.Identity_KIND_POD, Namespace: "default", Labels: []string{"app=a"}}}
		s.IdentityPrefixes = []*api.IdentityPrefix{
			{Prefix: &api.Prefix{Address: v4.AsSlice(), Bits: 32}, Identity: 1}}
		s.PeerSets = []*api.PeerSet{{Id: 1, Identities: []uint32{1}}}
		s.Policies = []*api.Policy{{Name: "NetworkPolicy default/none", Tier: api.Policy_TIER_NAMESPACE,
			Subjects: []uint32{1}, Ingress: true}}
	}
}

// What policy no longer lets, the kernel does not carry any more, though no packet of it came to userspace; what it
// lets still goes on being carried, and counts under the policy in force.
func TestWalkRevokes(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.offload = true
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	denied, let := n.begun(a, b, "10.244.1.6"), n.begun(b, a, "10.244.1.5")
	before := n.flow(let)
	n.policies = denyIngress(6)
	n.update()
	n.uncarriedBy(denied, "revoked")
	n.eventually("the walk to say so", func() bool { return n.f.Status().Offload.WalkDenied == 1 })
	_ = denied.c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, _ = denied.c.Write([]byte("viaduct"))
	if k, err := denied.c.Read(make([]byte, 8)); err == nil {
		t.Errorf("%d bytes came back against policy", k)
	}
	let.mustSay(1 << 20)
	if after := n.flow(let); seen(after) != seen(before) || !after.Carried {
		t.Errorf("before %v\nafter %v", before, after)
	}
	reply, err := n.f.Denials(&dataplaneapi.DenialsRequest{Address: "10.244.1.6"})
	if err != nil || len(reply.Denials) != 1 || reply.Denials[0].Reason != "ingress_denied" {
		t.Errorf("denials %v, %v", reply, err)
	}
}

// What is carried to a next hop, or by a way of an MTU, that is another one by now comes to userspace, and is carried
// anew.
func TestWalkFollowsRoutes(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.offload = true
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	c := n.begun(a, b, "10.244.1.6")
	anew := n.f.Status().Offload.WalkAnew
	n.policies = func(s *api.Snapshot) { // which is anything else here
		for _, g := range s.Groups {
			if g.Id == 106 {
				g.Hops[0].Mtu = 9000
			}
		}
	}
	n.update()
	n.eventually("the walk to take the flow out", func() bool { return n.f.Status().Offload.WalkAnew > anew })
	n.carried(c)
	for f := range n.f.flows.Load().Carried() {
		if f.Ways[0].MTU != 9000 {
			t.Errorf("carried by %+v", f.Ways)
		}
	}
	c.mustSay(1 << 20)
}

// Switched off at run time, on and off again, under way: no connection breaks, no datagram is lost.
func TestOffloadOffAndOn(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.offload = true
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	c := n.begun(a, b, "10.244.1.6")
	stop := n.datagrams(a, b, "10.244.1.6")
	talk := make(chan error, 1)
	go func() { talk <- c.say(256 << 20) }()
	for range 3 {
		n.offload = false
		n.apply()
		n.uncarriedBy(c, "established")
		n.eventually("nothing to be carried", func() bool {
			s := n.f.Status().Offload
			return !s.On && s.Records == 0
		})
		n.offload = true
		n.update()
		n.eventually("the flow to be carried", func() bool { return n.flow(c).Carried })
	}
	if lost := stop(); lost != 0 {
		t.Errorf("%d datagrams were lost", lost)
	}
	if err := <-talk; err != nil {
		t.Error(err)
	}
	n.balanced()
}

// datagrams sends numbered ones, one at a time so that no socket's buffer is full, until stop says how many of them
// have not come back.
func (n *podNode) datagrams(from, to *netlab.Namespace, address string) (stop func() int) {
	n.t.Helper()
	var server net.PacketConn
	n.must(to.Do(func() (err error) {
		server, err = net.ListenPacket("udp", netip.AddrPortFrom(netip.MustParseAddr(address), 0).String())
		return err
	}))
	var client net.Conn
	n.must(from.Do(func() (err error) {
		client, err = net.Dial("udp", server.LocalAddr().String())
		return err
	}))
	go func() {
		b := make([]byte, 64)
		for {
			k, peer, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:k], peer)
		}
	}()
	end, done := make(chan struct{}), make(chan int, 1)
	go func() {
		lost, b := 0, make([]byte, 64)
		for i := 0; ; i++ {
			select {
			case <-end:
				done <- lost
				return
			default:
			}
			_, _ = fmt.Fprint(client, i)
			_ = client.SetReadDeadline(time.Now().Add(2 * time.Second))
			if k, err := client.Read(b); err != nil || string(b[:k]) != fmt.Sprint(i) {
				lost++
			}
		}
	}()
	return func() int {
		close(end)
		defer server.Close()
		defer client.Close()
		return <-done
	}
}

// A port that says so, or has a bandwidth limit, is not carried; nor is one any more that comes to say so.
func TestPortsAreNotCarried(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.offload = true
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	c := n.begun(a, b, "10.244.1.6")
	explained := func() string {
		r, err := n.f.Explain(&dataplaneapi.ExplainRequest{Source: "10.244.1.5", Destination: "10.244.1.6", Protocol: "tcp"})
		n.must(err)
		return r.Uncarried
	}
	if why := explained(); why != "" {
		t.Errorf("it is carried, and said not to be: %s", why)
	}
	n.uncarried = map[int]bool{6: true}
	n.update()
	n.uncarriedBy(c, "established")
	c.mustSay(1 << 16)
	if why := explained(); n.flow(c).Carried || why != "offload is off for port default/pod6" {
		t.Errorf("carried: %v; %s", n.flow(c), why)
	}
	n.uncarried = nil
	n.update()
	n.carried(c)
	n.limits = []*api.Limit{{Port: 5, FromPortBitsPerSecond: 1e9}}
	n.update()
	n.uncarriedBy(c, "established")
	c.mustSay(1 << 16)
	if why := explained(); n.flow(c).Carried || why != "port default/pod5 has a bandwidth limit" {
		t.Errorf("carried: %v; %s", n.flow(c), why)
	}
}

// A pod's flows are gone with its port; who gets its port's number and address next, gets nothing of what was carried
// to it.
func TestCarriedToPodThatIsGone(t *testing.T) {
	n := newPodNode(t, Config{Cleanup: true})
	n.offload = true
	a, b := n.pod(5, api.Port_ATTACH_TRUNK), n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	n.begun(a, b, "10.244.1.6")
	delete(n.pods, 6)
	n.update()
	if s := n.f.Status().Offload; s.Records != 0 {
		t.Errorf("the port is gone: %v", s)
	}
	link, err := n.node.Links().LinkByName("vd6")
	n.must(err)
	n.must(n.node.Links().LinkDel(link))
	again := n.pod(6, api.Port_ATTACH_TRUNK)
	n.update()
	c := n.begun(a, again, "10.244.1.6")
	// Replaced in one change: the same number, name and address, another device.
	link, err = n.node.Links().LinkByName("vd6")
	n.must(err)
	n.must(n.node.Links().LinkDel(link))
	again = n.pod(6, api.Port_ATTACH_TRUNK)
	n.apply()
	if s := n.f.Status().Offload; s.Records != 0 {
		t.Errorf("the pod is another one: %v", s)
	}
	if c.say(8) == nil {
		t.Error("a pod's connection goes on with another one")
	}
	n.begun(a, again, "10.244.1.6").mustSay(1 << 20)
}
