// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// Numbered packets, one to the kernel and one to ours in turn, while the program is replaced again and again: each of
// the kernel's arrives there, none of ours does, and the counters, which go on from program to program, know every one.
func TestReplacedUnderTraffic(t *testing.T) {
	w := newWire(t)
	dir := filepath.Join(bpffs(t), "p")
	options := Options{Mode: Shared, PinDir: dir}
	p := attach(t, options, w.ifindex, Auto)
	if err := p.SetAddresses(ourPrefixes); err != nil {
		t.Fatal(err)
	}
	kernels, taken := listenUDP(t, kernels4.String()), listenUDP(t, ours4.String())
	var toKernel, toOurs net.Conn
	w.inPeer(t, func() (err error) {
		toKernel, err = net.Dial("udp", net.JoinHostPort(kernels4.String(), "7000"))
		if err == nil {
			toOurs, err = net.Dial("udp", net.JoinHostPort(ours4.String(), "7000"))
		}
		return errors.Join(err, w.knowOurs())
	})
	defer toKernel.Close()
	defer toOurs.Close()

	const packets = 20000
	sent := make(chan error, 1)
	go func() { sent <- sendNumbered(packets, toKernel, toOurs) }()
	var err error
	replaced := 0
	for done := false; !done; replaced++ {
		next := attach(t, options, w.ifindex, Auto)
		if e := p.Close(); e != nil {
			t.Fatal(e)
		}
		p = next
		select {
		case err = <-sent:
			done = true
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err != nil || replaced < 3 {
		t.Fatalf("sending: %v; replaced only %d times", err, replaced)
	}
	t.Logf("replaced %d times", replaced)
	receiveNumbered(t, kernels, packets)
	_ = taken.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := taken.Read(make([]byte, 16)); err == nil {
		t.Errorf("the kernel got a packet of ours, of %d bytes", n)
	}
	c := read(t, p)
	if got := c[NoSocketDropped]; got.Packets != packets || got.Bytes != packets*(14+28+8) {
		t.Errorf("counted %+v, sent %d", got, packets)
	}
	if c[PassedNotOurs].Packets < packets {
		t.Errorf("counted %+v, sent %d", c[PassedNotOurs], packets)
	}
	if err := p.Detach(); err != nil {
		t.Error(err)
	}
}

func sendNumbered(packets int, conns ...net.Conn) error {
	for n := range packets {
		for _, c := range conns {
			if _, err := c.Write(binary.BigEndian.AppendUint64(nil, uint64(n))); err != nil {
				return fmt.Errorf("packet %d: %w", n, err)
			}
		}
		if n%64 == 0 {
			time.Sleep(time.Millisecond) // the veth's ring and the replacing of programs get their turn
		}
	}
	return nil
}

func receiveNumbered(t *testing.T, c *net.UDPConn, packets int) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	seen := make([]bool, packets)
	b := make([]byte, 16)
	for got := range packets {
		if n, err := c.Read(b); err != nil || n != 8 {
			t.Fatalf("%d of %d packets arrived: %v", got, packets, err)
		}
		n := binary.BigEndian.Uint64(b)
		if seen[n] {
			t.Fatalf("packet %d arrived twice", n)
		}
		seen[n] = true
	}
}

// A login over a shared uplink goes on, over IPv4 and IPv6, while what is ours is taken and on-absence changes.
func TestLoginSurvives(t *testing.T) {
	w := newWire(t)
	for _, address := range []string{kernels4.String(), kernels6.String()} {
		server, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go echo(server)
		var login net.Conn
		w.inPeer(t, func() (err error) {
			login, err = net.DialTimeout("tcp", server.Addr().String(), 5*time.Second)
			return err
		})
		defer login.Close()
		say(t, login, "before the hook")
		p := attach(t, Options{Mode: Shared}, w.ifindex, Auto)
		say(t, login, "with no address ours")
		if err := errors.Join(p.SetAddresses(ourPrefixes), p.SetSocket(0, xdpSocket(t))); err != nil {
			t.Fatal(err)
		}
		w.inPeer(t, func() error { return w.knowOurs() })
		for i := range 20 {
			w.inPeer(t, func() error { return sendOne(ours4.String()) })
			say(t, login, fmt.Sprint("line ", i))
		}
		if n := read(t, p)[ToUserspace].Packets; n != 20 {
			t.Errorf("%d packets taken, 20 sent", n)
		}
		if err := p.Detach(); err != nil {
			t.Error(err)
		}
		say(t, login, "after the hook")
	}
}

func echo(server net.Listener) {
	c, err := server.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.Copy(c, struct{ io.Reader }{c}) // hidden, as splice(2) would keep pipes open
}

func say(t *testing.T, c net.Conn, line string) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, len(line))
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	if _, err := io.ReadFull(c, b); err != nil || string(b) != line {
		t.Fatalf("%s: %q, %v", line, b, err)
	}
}

func sendOne(address string) error {
	c, err := net.Dial("udp", net.JoinHostPort(address, "7000"))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("taken"))
	return err
}
