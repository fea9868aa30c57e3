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

// flow is what the forwarder knows of the conversation.
func (n *podNode) flow(c *conversation) *dataplaneapi.Flow {
	n.t.Helper()
	all, err := n.f.Flows(&dataplaneapi.FlowsRequest{Protocol: "tcp"})
	n.must(err)
	for flow := range all {
		if flow.SourcePort == c.port() {
			return flow
		}
	}
	n.t.Fatal("the flow is not known")
	return nil
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
