// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// datagrams sends UDP of many sizes to a host that sends them back, and compares.
func datagrams(to netip.Addr) func(context.Context, *network) (string, error) {
	return func(_ context.Context, n *network) (string, error) {
		server, err := n.listen(to, 0)
		if err != nil {
			return "", err
		}
		go reflectAll(server)
		c, err := n.dial(to, portOf(server.LocalAddr()), nil)
		if err != nil {
			return "", err
		}
		const count = 1000
		start, total, b := time.Now(), 0, make([]byte, 1<<16)
		for i := range count {
			data := payload(1+i*7%1400, uint64(i))
			if err := exchange(c, data, b); err != nil {
				return "", fmt.Errorf("datagram %d of %d bytes: %w", i+1, len(data), err)
			}
			total += len(data)
		}
		each := time.Since(start) / count
		return fmt.Sprintf("%d datagrams there and back, %d bytes intact, %v each", count, total,
			each.Round(time.Microsecond)), nil
	}
}

func exchange(c *net.UDPConn, data, b []byte) error {
	if _, err := c.Write(data); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	got, err := c.Read(b)
	if err == nil && !bytes.Equal(b[:got], data) {
		err = fmt.Errorf("%d bytes came back changed", got)
	}
	return err
}

// reflectAll sends every datagram back, until the socket is closed.
func reflectAll(server *net.UDPConn) {
	b := make([]byte, 1<<16)
	for {
		size, from, err := server.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if _, err := server.WriteToUDPAddrPort(b[:size], from); err != nil {
			return
		}
	}
}

// jumbo sends datagrams of 9000 bytes and of all that one packet carries, which no one may split.
func jumbo(to netip.Addr) func(context.Context, *network) (string, error) {
	return func(_ context.Context, n *network) (string, error) {
		receiver, err := n.listen(to, 0)
		if err != nil {
			return "", err
		}
		c, err := n.dial(to, portOf(receiver.LocalAddr()), func(fd int) error { return forbidFragments(fd, to) })
		if err != nil {
			return "", err
		}
		for _, size := range []int{9000, fitting(to, jumboMTU)} {
			if err := arrives(c, receiver, size); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("datagrams of 9000 and %d bytes arrive whole, DF set", fitting(to, jumboMTU)), nil
	}
}

// fragments sends datagrams that the dataplane has to split for the narrow link.
func fragments(_ context.Context, n *network) (string, error) {
	receiver, err := n.listen(narrow4, 0)
	if err != nil {
		return "", err
	}
	c, err := n.dial(narrow4, portOf(receiver.LocalAddr()), allowFragments)
	if err != nil {
		return "", err
	}
	before, err := n.right.Counters()
	if err != nil {
		return "", err
	}
	for _, size := range []int{1473, 4000, 9000} {
		if err := arrives(c, receiver, size); err != nil {
			return "", err
		}
	}
	after, err := n.right.Counters()
	if err != nil {
		return "", err
	}
	pieces := after["Ip.ReasmReqds"] - before["Ip.ReasmReqds"]
	if pieces != 2+3+7 {
		return "", fmt.Errorf("the receiver put %d pieces together, want 12", pieces)
	}
	return fmt.Sprintf("datagrams of 1473 to 9000 bytes split into %d for MTU %d, put together intact", pieces,
		narrowMTU), nil
}

// stream sends size bytes over TCP and compares their SHA-256 on both sides; segments must be of at least minimum and
// at most maximum bytes.
func stream(to netip.Addr, size, minimum, maximum int) func(context.Context, *network) (string, error) {
	return func(ctx context.Context, n *network) (string, error) {
		var listener net.Listener
		err := n.to.Do(func() (err error) {
			listener, err = net.Listen("tcp"+network4(to), netip.AddrPortFrom(to, 0).String())
			return err
		})
		if _, err := own(n, listener, err); err != nil {
			return "", err
		}
		go serveSums(n, listener)
		var c net.Conn
		err = n.from.Do(func() (err error) {
			dialer := net.Dialer{Timeout: answerWithin}
			c, err = dialer.DialContext(ctx, "tcp"+network4(to), listener.Addr().String())
			return err
		})
		if _, err := own(n, c, err); err != nil {
			return "", err
		}
		start := time.Now()
		if err := sendSummed(c.(*net.TCPConn), size); err != nil {
			return "", err
		}
		took := time.Since(start)
		info, err := tcpInfo(c.(*net.TCPConn))
		if err != nil {
			return "", err
		}
		if mss := int(info.Snd_mss); mss < minimum || mss > maximum {
			return "", fmt.Errorf("segments of %d bytes, want %d to %d", mss, minimum, maximum)
		}
		return fmt.Sprintf("%d MiB intact, %.1f Gb/s, segments of %d bytes, %d sent again", size>>20,
			float64(size)*8/took.Seconds()/1e9, info.Snd_mss, info.Total_retrans), nil
	}
}

// serveSums answers one connection with the sum of what it read.
func serveSums(n *network, listener net.Listener) {
	c, err := listener.Accept()
	if _, err := own(n, c, err); err != nil {
		return
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, c); err == nil {
		_, _ = c.Write(sum.Sum(nil)) // the client sees that nothing comes
	}
	_ = c.Close()
}

func sendSummed(c *net.TCPConn, size int) error {
	block, sum := payload(1<<20, uint64(size)), sha256.New()
	for sent := 0; sent < size; sent += len(block) {
		part := block[:min(len(block), size-sent)]
		sum.Write(part)
		if _, err := c.Write(part); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err != nil {
		return fmt.Errorf("receive the sum: %w", err)
	}
	if !bytes.Equal(got, sum.Sum(nil)) {
		return errors.New("the receiver has another SHA-256 than the sender")
	}
	return nil
}

func tcpInfo(c *net.TCPConn) (info *unix.TCPInfo, err error) {
	err = onSocket(c, func(fd int) error {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return info, err
}

// checksums looks for packets that a host's stack found wrong.
func checksums(_ context.Context, n *network) (string, error) {
	keys := []string{"Ip.InHdrErrors", "Icmp.InCsumErrors", "Tcp.InCsumErrors", "Udp.InCsumErrors", "Ip6InHdrErrors",
		"Icmp6InCsumErrors", "Udp6InCsumErrors"}
	var received uint64
	for _, host := range []string{"left", "right"} {
		in := n.left
		if host == "right" {
			in = n.right
		}
		counters, err := in.Counters()
		if err != nil {
			return "", err
		}
		for _, k := range keys {
			v, known := counters[k]
			if !known {
				return "", fmt.Errorf("the kernel does not count %s", k)
			}
			if v > 0 {
				return "", fmt.Errorf("host %s counted %s %d", host, k, v)
			}
		}
		received += counters["Ip.InReceives"] + counters["Ip6InReceives"]
	}
	return fmt.Sprintf("0 wrong in %d packets that the hosts received", received), nil
}
