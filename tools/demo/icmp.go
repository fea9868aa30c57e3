// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/packet"
)

const answerWithin = 2 * time.Second

// pinger is a raw ICMP socket on the left host.
type pinger struct {
	conn  net.PacketConn
	v6    bool
	proto int
	buf   []byte
}

// raw opens a socket for the ICMP of to's family.
func (n *network) raw(to netip.Addr) (*pinger, error) {
	p := &pinger{v6: to.Is6(), proto: int(packet.ProtoICMP), buf: make([]byte, 1<<16)}
	kind, address := "ip4:icmp", left4
	if p.v6 {
		kind, address, p.proto = "ip6:ipv6-icmp", left6, int(packet.ProtoICMPv6)
	}
	err := n.left.Do(func() (err error) {
		p.conn, err = net.ListenPacket(kind, address.String())
		return err
	})
	_, err = own(n, p.conn, err)
	return p, err
}

// receive returns the next message that is wanted, as bytes and parsed, and who sent it.
func (p *pinger) receive(wanted func(*icmp.Message, []byte) bool) (*icmp.Message, []byte, netip.Addr, error) {
	if err := p.conn.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, nil, netip.Addr{}, err
	}
	for {
		size, from, err := p.conn.ReadFrom(p.buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", answerWithin)
		}
		if err != nil {
			return nil, nil, netip.Addr{}, err
		}
		m, err := icmp.ParseMessage(p.proto, p.buf[:size])
		if err != nil || !wanted(m, p.buf[:size]) {
			continue
		}
		ip, ok := from.(*net.IPAddr)
		if !ok {
			continue
		}
		address, _ := netip.AddrFromSlice(ip.IP)
		return m, p.buf[:size], address.Unmap().WithZone(""), nil
	}
}

// echo sends echo requests of several sizes and compares what comes back.
func echo(to netip.Addr) func(context.Context, *network) (string, error) {
	return func(_ context.Context, n *network) (string, error) {
		p, err := n.raw(to)
		if err != nil {
			return "", err
		}
		sizes := []int{0, 56, 57, 1000, 1400, 56, 56, 56}
		if to != gateway4 && to != gateway6 {
			sizes = append(sizes, 9000, 40000)
		}
		var times []time.Duration
		for sequence, size := range sizes {
			took, err := p.echo(to, sequence, size)
			if err != nil {
				return "", fmt.Errorf("echo %d of %d bytes to %s: %w", sequence+1, size, to, err)
			}
			times = append(times, took)
		}
		slices.Sort(times)
		return fmt.Sprintf("%d of %d answered, 0 to %d bytes, median %v", len(times), len(times), slices.Max(sizes),
			times[len(times)/2].Round(time.Microsecond)), nil
	}
}

func (p *pinger) echo(to netip.Addr, sequence, size int) (time.Duration, error) {
	request := icmp.Message{Type: ipv4.ICMPTypeEcho}
	var answer icmp.Type = ipv4.ICMPTypeEchoReply
	if p.v6 {
		request.Type, answer = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	id := os.Getpid() & 0xffff
	data := payload(size, uint64(sequence))
	request.Body = &icmp.Echo{ID: id, Seq: sequence, Data: data}
	b, err := request.Marshal(nil) // the kernel computes the checksum of ICMPv6 on raw sockets (RFC 3542 3.1)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := p.conn.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, err
	}
	got, _, from, err := p.receive(func(m *icmp.Message, _ []byte) bool {
		e, ok := m.Body.(*icmp.Echo)
		return ok && m.Type == answer && e.ID == id && e.Seq == sequence
	})
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	if from != to {
		return 0, fmt.Errorf("%s answered", from)
	}
	if !bytes.Equal(got.Body.(*icmp.Echo).Data, data) {
		return 0, errors.New("the payload came back changed")
	}
	return took, nil
}

// maxHops is how far a traceroute goes.
const maxHops = 4

// tracePort is the UDP port of the first hop's probe; nobody listens there.
const tracePort = 33434

// traceroute sends UDP with a growing TTL and names who answers.
func traceroute(to netip.Addr) func(context.Context, *network) (string, error) {
	return func(ctx context.Context, n *network) (string, error) {
		names, err := n.names(ctx)
		if err != nil {
			return "", err
		}
		p, err := n.raw(to)
		if err != nil {
			return "", err
		}
		var hops []string
		var path []netip.Addr
		for ttl := 1; ttl <= maxHops && (len(path) == 0 || path[len(path)-1] != to); ttl++ {
			from, took, err := n.probe(p, to, ttl)
			if err != nil {
				return "", fmt.Errorf("hop %d: %w", ttl, err)
			}
			path = append(path, from)
			hops = append(hops, fmt.Sprintf("%d %s (%s) %v", ttl, from, names[from], took.Round(time.Microsecond)))
		}
		gateway := gateway4
		if to.Is6() {
			gateway = gateway6
		}
		if !slices.Equal(path, []netip.Addr{gateway, to}) {
			return "", fmt.Errorf("the path is %v, not by %s to %s", path, gateway, to)
		}
		return strings.Join(hops, ", "), nil
	}
}

// names maps addresses to who has them; those of the dataplane as it says itself.
func (n *network) names(ctx context.Context) (map[netip.Addr]string, error) {
	names := map[netip.Addr]string{wide4: "host right", wide6: "host right"}
	reply, err := n.client.Ports(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, p := range reply.Ports {
		for _, a := range p.Addresses {
			if prefix, err := netip.ParsePrefix(a); err == nil {
				names[prefix.Addr()] = "viaduct port " + p.Name
			}
		}
	}
	return names, nil
}

// probe returns who answered to a datagram with this TTL.
func (n *network) probe(p *pinger, to netip.Addr, ttl int) (netip.Addr, time.Duration, error) {
	port := uint16(tracePort + ttl)
	c, err := n.dial(to, port, func(fd int) error { return setTTL(fd, to, ttl) })
	if err != nil {
		return netip.Addr{}, 0, err
	}
	start := time.Now()
	if _, err := c.Write([]byte("viaduct demo")); err != nil {
		return netip.Addr{}, 0, err
	}
	last := false
	_, _, from, err := p.receive(func(m *icmp.Message, _ []byte) bool {
		var quoted []byte
		switch body := m.Body.(type) {
		case *icmp.TimeExceeded:
			quoted = body.Data
		case *icmp.DstUnreach:
			quoted, last = body.Data, true
		}
		return quotedPort(quoted, p.v6) == port
	})
	if err == nil && last != (from == to) {
		err = fmt.Errorf("%s answered with the wrong message", from)
	}
	return from, time.Since(start), err
}

// quotedPort is the UDP destination port of the packet that an ICMP error quotes, 0 for none.
func quotedPort(quoted []byte, v6 bool) uint16 {
	header := 40
	if !v6 {
		if len(quoted) < 20 {
			return 0
		}
		header = int(quoted[0]&15) * 4
	}
	if len(quoted) < header+4 {
		return 0
	}
	return binary.BigEndian.Uint16(quoted[header+2:])
}

// pathMTU sends a datagram that the narrow link cannot carry and may not be split, and looks at what the sender
// learns: the ICMP message itself, the kernel's path MTU, and that what fits then arrives.
func pathMTU(to netip.Addr) func(context.Context, *network) (string, error) {
	return func(_ context.Context, n *network) (string, error) {
		receiver, err := n.listen(to, 0)
		if err != nil {
			return "", err
		}
		port := portOf(receiver.LocalAddr())
		p, err := n.raw(to)
		if err != nil {
			return "", err
		}
		c, err := n.dial(to, port, func(fd int) error { return forbidFragments(fd, to) })
		if err != nil {
			return "", err
		}
		if err := forgetPathMTU(n, to); err != nil {
			return "", err
		}
		if _, err := c.Write(make([]byte, 9000)); err != nil {
			return "", fmt.Errorf("send 9000 bytes: %w", err)
		}
		var mtu int
		_, _, from, err := p.receive(func(m *icmp.Message, b []byte) bool {
			var quoted []byte
			mtu, quoted = tooBig(m, b)
			return quotedPort(quoted, p.v6) == port
		})
		if err != nil {
			return "", fmt.Errorf("too big: %w", err)
		}
		if mtu != narrowMTU {
			return "", fmt.Errorf("%s said %d, want %d", from, mtu, narrowMTU)
		}
		if err := awaitMTU(c, to, narrowMTU); err != nil {
			return "", err
		}
		if _, err := c.Write(make([]byte, 9000)); !errors.Is(err, unix.EMSGSIZE) {
			return "", fmt.Errorf("a second send of 9000 bytes, which wants EMSGSIZE: %w", err)
		}
		if err := arrives(c, receiver, fitting(to, narrowMTU)); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s said MTU %d, the sender keeps to it, %d bytes arrive", from, mtu, narrowMTU), nil
	}
}

// tooBig returns the MTU that a message tells of, and the packet that it quotes; a nil one for other messages.
func tooBig(m *icmp.Message, b []byte) (int, []byte) {
	switch body := m.Body.(type) {
	case *icmp.PacketTooBig:
		return body.MTU, body.Data
	case *icmp.DstUnreach:
		const fragmentationNeeded = 4
		if m.Type == ipv4.ICMPTypeDestinationUnreachable && m.Code == fragmentationNeeded {
			return int(binary.BigEndian.Uint16(b[6:])), body.Data // RFC 1191 4
		}
	}
	return 0, nil
}
