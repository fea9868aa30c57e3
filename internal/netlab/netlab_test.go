// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func lab(t *testing.T) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l := New()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pair(t *testing.T, l *Lab) (a, b *Namespace) {
	t.Helper()
	a, b = must(l.Namespace("a"))(t), must(l.Namespace("b"))(t)
	ok(t, l.Veth(
		End{In: a, Device: "v0", MTU: 9000, Queues: 2, Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")}},
		End{In: b, Device: "v0", MTU: 1400, Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")}},
	))
	return a, b
}

func TestDatagramsCrossAPair(t *testing.T) {
	a, b := pair(t, lab(t))
	for _, address := range []string{"10.0.0.2:9", "[fd00::2]:9"} {
		var server net.PacketConn
		ok(t, b.Do(func() (err error) { server, err = net.ListenPacket("udp", address); return err }))
		defer server.Close()
		var client net.Conn
		ok(t, a.Do(func() (err error) { client, err = net.Dial("udp", address); return err }))
		defer client.Close()
		must(client.Write([]byte("hello")))(t)
		ok(t, server.SetReadDeadline(time.Now().Add(2*time.Second)))
		buf := make([]byte, 16)
		if n := must(first(server.ReadFrom(buf)))(t); string(buf[:n]) != "hello" {
			t.Errorf("got %q", buf[:n])
		}
	}
	counters := must(b.Counters())(t)
	if counters["Udp.InDatagrams"] != 1 || counters["Udp6InDatagrams"] != 1 {
		t.Errorf("udp datagrams received: %d IPv4, %d IPv6", counters["Udp.InDatagrams"], counters["Udp6InDatagrams"])
	}
}

func first[A, B any](a A, _ B, err error) (A, error) { return a, err }

func TestEndsHaveWhatWasAsked(t *testing.T) {
	a, b := pair(t, lab(t))
	for _, want := range []struct {
		in          *Namespace
		mtu, queues int
	}{{a, 9000, 2}, {b, 1400, 1}} {
		link := must(want.in.Links().LinkByName("v0"))(t).Attrs()
		if link.MTU != want.mtu || link.NumRxQueues != want.queues || link.NumTxQueues != want.queues {
			t.Errorf("%s: mtu %d, queues %d and %d, want %+v", want.in.Name(), link.MTU, link.NumRxQueues,
				link.NumTxQueues, want)
		}
	}
	ok(t, a.Address("lo", netip.MustParsePrefix("10.9.0.1/32")))
	ok(t, b.Route(netip.MustParsePrefix("10.9.0.0/24"), netip.MustParseAddr("10.0.0.1"), "v0", 1300))
	ok(t, b.Do(func() error {
		c, err := net.Dial("udp", "10.9.0.1:9")
		if err != nil {
			return err
		}
		defer c.Close()
		if c.LocalAddr().String()[:8] != "10.0.0.2" {
			return fmt.Errorf("local address %v", c.LocalAddr())
		}
		return nil
	}))
}

func TestSysctlStaysInside(t *testing.T) {
	const file = "/proc/sys/net/ipv4/ip_default_ttl"
	before := must(os.ReadFile(file))(t)
	n := must(lab(t).Namespace("a"))(t)
	ok(t, n.Sysctl("net/ipv4/ip_default_ttl", "33"))
	var inside []byte
	ok(t, n.Do(func() (err error) { inside, err = os.ReadFile(file); return err }))
	if string(inside) != "33\n" || !bytes.Equal(must(os.ReadFile(file))(t), before) {
		t.Errorf("inside %q, outside %q", inside, before)
	}
}

func TestDoReturnsAlsoWhenTheGoroutineEnds(t *testing.T) {
	n := must(lab(t).Namespace("a"))(t)
	want := errors.New("mine")
	if err := n.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestProcessRunsInside(t *testing.T) {
	l := lab(t)
	a, _ := pair(t, l)
	var out bytes.Buffer
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	cmd.Stdout = &out
	p := must(l.Start(a, cmd))(t)
	ok(t, p.Err())
	if want := fmt.Sprintf("net:[%d]\n", must(a.Inode())(t)); out.String() != want {
		t.Errorf("ran in %q, want %q", out.String(), want)
	}
}

func TestStopAndKill(t *testing.T) {
	l := lab(t)
	a := must(l.Namespace("a"))(t)
	polite := must(l.Start(a, exec.Command("sleep", "60")))(t)
	if err := polite.Stop(5 * time.Second); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("sleep ended with %v", err)
	}
	stubborn := must(l.Start(a, exec.Command("sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done")))(t)
	time.Sleep(100 * time.Millisecond)
	if err := stubborn.Stop(100 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not end") {
		t.Errorf("stubborn one ended with %v", err)
	}
	if err := unix.Kill(stubborn.PID(), 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("it lives: %v", err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	l := lab(t)
	descriptors := len(must(os.ReadDir("/proc/self/fd"))(t))
	a, b := pair(t, l)
	inodes := []uint64{must(a.Inode())(t), must(b.Inode())(t)}
	p := must(l.Start(b, exec.Command("sleep", "60")))(t)
	ok(t, l.Close())
	if err := unix.Kill(p.PID(), 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the process lives: %v", err)
	}
	if after := len(must(os.ReadDir("/proc/self/fd"))(t)); after > descriptors {
		t.Errorf("%d descriptors before, %d after", descriptors, after)
	}
	// A thread that was inside may take a moment to end.
	for range 100 {
		if !anyoneIn(t, inodes) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("somebody is still in a namespace of the lab")
}

func anyoneIn(t *testing.T, inodes []uint64) bool {
	t.Helper()
	threads := must(filepath.Glob("/proc/[0-9]*/task/*/ns/net"))(t)
	for _, path := range threads {
		link, _ := os.Readlink(path)
		for _, inode := range inodes {
			if link == fmt.Sprintf("net:[%d]", inode) {
				return true
			}
		}
	}
	return false
}
