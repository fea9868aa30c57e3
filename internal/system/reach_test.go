// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// peerPort is where peers answer by TCP and UDP.
const peerPort = 7

// peer tells whoever asks, by TCP or UDP, from which address the question came.
type peer struct {
	listener net.Listener
	v4       *ipv4.PacketConn
	v6       *ipv6.PacketConn
	done     sync.WaitGroup
}

func startPeer(in *netlab.Namespace) (*peer, error) {
	p := &peer{}
	at := fmt.Sprintf(":%d", peerPort)
	err := in.Do(func() (err error) {
		if p.listener, err = net.Listen("tcp", at); err != nil {
			return err
		}
		v4, err := net.ListenPacket("udp4", at)
		if err != nil {
			return err
		}
		v6, err := net.ListenPacket("udp6", at)
		if err != nil {
			return err
		}
		// Answers come from the address that was asked, of several.
		p.v4, p.v6 = ipv4.NewPacketConn(v4), ipv6.NewPacketConn(v6)
		return errors.Join(p.v4.SetControlMessage(ipv4.FlagDst, true), p.v6.SetControlMessage(ipv6.FlagDst, true))
	})
	if err != nil {
		return nil, err
	}
	p.done.Go(p.accept)
	p.done.Go(p.answer4)
	p.done.Go(p.answer6)
	return p, nil
}

func (p *peer) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte(c.RemoteAddr().String()))
		_ = c.Close()
	}
}

func (p *peer) answer4() {
	buffer := make([]byte, 64)
	for {
		_, asked, from, err := p.v4.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = p.v4.WriteTo([]byte(from.String()), &ipv4.ControlMessage{Src: asked.Dst}, from)
		}
	}
}

func (p *peer) answer6() {
	buffer := make([]byte, 64)
	for {
		_, asked, from, err := p.v6.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = p.v6.WriteTo([]byte(from.String()), &ipv6.ControlMessage{Src: asked.Dst}, from)
		}
	}
}

func (p *peer) close() {
	_, _, _ = p.listener.Close(), p.v4.Close(), p.v6.Close()
	p.done.Wait()
}

// patient is how long one question waits for its answer, which is sent once.
const patient = 5 * time.Second

// ask asks the peer at an address once and returns the address that it saw. That nothing was lost on the way is a part
// of the answer: a segment that was sent again is an error.
func ask(from *netlab.Namespace, network string, to netip.AddrPort) (seen netip.Addr, err error) {
	return askWithin(from, network, to, patient)
}

// askWithin is ask with as much patience.
func askWithin(
	from *netlab.Namespace, network string, to netip.AddrPort, patience time.Duration,
) (seen netip.Addr, err error) {
	if network == "icmp" {
		return netip.Addr{}, ping(from, to.Addr(), patience)
	}
	var c net.Conn
	err = from.Do(func() (err error) {
		c, err = net.DialTimeout(network, to.String(), patience)
		return err
	})
	if err != nil {
		return seen, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return seen, err
	}
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return seen, err
		}
	}
	text := make([]byte, 128)
	n, err := c.Read(text)
	if err != nil {
		return seen, fmt.Errorf("%s to %v: %w", network, to, err)
	}
	answer, err := netip.ParseAddrPort(string(text[:n]))
	if err != nil {
		return seen, err
	}
	if tcp, is := c.(*net.TCPConn); is {
		err = sentOnce(tcp)
	}
	return answer.Addr().Unmap(), err
}

// sentOnce says whether segments of a connection had to be sent again.
func sentOnce(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var info *unix.TCPInfo
	var infoErr error
	if err := raw.Control(func(fd uintptr) {
		info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil || infoErr != nil {
		return errors.Join(err, infoErr)
	}
	if info.Total_retrans > 0 {
		return fmt.Errorf("tcp to %v: %d segments were sent again", c.RemoteAddr(), info.Total_retrans)
	}
	return nil
}

// ping sends one echo request and waits for its reply.
func ping(from *netlab.Namespace, to netip.Addr, patience time.Duration) error {
	network, any, request, reply, proto := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho),
		icmp.Type(ipv4.ICMPTypeEchoReply), unix.IPPROTO_ICMP
	if to.Is6() {
		network, any, request, reply, proto = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest,
			ipv6.ICMPTypeEchoReply, unix.IPPROTO_ICMPV6
	}
	var c net.PacketConn
	if err := from.Do(func() (err error) { c, err = net.ListenPacket(network, any); return err }); err != nil {
		return err
	}
	defer c.Close()
	id := os.Getpid() & 0xffff
	m := icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Data: []byte("there and back")}}
	message, err := m.Marshal(nil)
	if err == nil {
		_, err = c.WriteTo(message, &net.IPAddr{IP: to.AsSlice()})
	}
	if err == nil {
		err = c.SetReadDeadline(time.Now().Add(patience))
	}
	buffer := make([]byte, 1500)
	for err == nil {
		var n int
		var who net.Addr
		if n, who, err = c.ReadFrom(buffer); err != nil {
			break
		}
		m, parseErr := icmp.ParseMessage(proto, buffer[:n])
		if parseErr == nil && m.Type == reply && who.String() == to.String() {
			return nil
		}
	}
	return fmt.Errorf("icmp to %v: %w", to, err)
}

// reaches checks that the peer at an address is reached by TCP, UDP and ICMP, and sees one of the addresses.
func (s *site) reaches(from *netlab.Namespace, to netip.Addr, seen ...string) {
	s.t.Helper()
	for _, network := range []string{"tcp", "udp", "icmp"} {
		saw, err := ask(from, network, netip.AddrPortFrom(to, peerPort))
		if err != nil {
			s.t.Fatalf("from %s: %v\n%s", from.Name(), err, s.tails())
		}
		if saw.IsValid() && !strings.Contains(" "+strings.Join(seen, " ")+" ", " "+saw.String()+" ") {
			s.t.Errorf("%s from %s to %v came from %v, want %v", network, from.Name(), to, saw, seen)
		}
	}
}

// peerIn answers in a namespace until the test ends.
func (s *site) peerIn(ns *netlab.Namespace) {
	s.t.Helper()
	p, err := startPeer(ns)
	s.must(err)
	s.t.Cleanup(p.close)
}

// echo asks who answers with the question, from the node.
func (s *site) echo(network string, at netip.AddrPort) error {
	var c net.Conn
	err := s.node.Do(func() (err error) { c, err = net.DialTimeout(network, at.String(), patient); return err })
	if err != nil {
		return err
	}
	defer c.Close()
	question, answer := []byte("there and back"), make([]byte, 64)
	if err := c.SetDeadline(time.Now().Add(patient)); err != nil {
		return err
	}
	if _, err := c.Write(question); err != nil {
		return err
	}
	n, err := c.Read(answer)
	if err == nil && !bytes.Equal(answer[:n], question) {
		err = fmt.Errorf("%q came back", answer[:n])
	}
	return err
}
