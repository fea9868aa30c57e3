// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// loaded returns a port of one queue whose socket, if any, is an AF_XDP socket bound to nothing.
func loaded(t testing.TB, options Options, socket bool) *Port {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	options.Queues = 1
	p, err := Load(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if options.Mode == Shared {
		if err := p.SetAddresses(ourPrefixes); err != nil {
			t.Fatal(err)
		}
	}
	if socket {
		if err := p.SetSocket(0, xdpSocket(t)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func xdpSocket(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// run gives the program one frame and returns its action and the one reason that it counted.
func run(t testing.TB, p *Port, frame []byte) (uint32, Reason) {
	t.Helper()
	before := read(t, p)
	out := make([]byte, len(frame)+512)
	options := ebpf.RunOptions{Data: frame, DataOut: out}
	action, err := p.program.Run(&options)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(options.DataOut, frame) {
		t.Fatalf("the program changed the frame:\n%x\n%x", frame, options.DataOut)
	}
	return action, counted(t, before, read(t, p), uint64(len(frame)))
}

func read(t testing.TB, p *Port) []Counter {
	t.Helper()
	c, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func counted(t testing.TB, before, after []Counter, size uint64) Reason {
	t.Helper()
	found := numReasons
	for r := range before {
		packets, bytes := after[r].Packets-before[r].Packets, after[r].Bytes-before[r].Bytes
		if packets == 0 && bytes == 0 {
			continue
		}
		if found != numReasons || packets != 1 || bytes != size {
			t.Fatalf("%s counted %d packets, %d bytes for one frame of %d", after[r].Name, packets, bytes, size)
		}
		found = Reason(r)
	}
	return found
}

type golden struct {
	name   string
	frame  []byte
	reason Reason // in shared mode with a socket
}

func goldens() []golden {
	udp := make([]byte, 32)
	v4, v6 := join(ether(0x0800), ip4(ours4, udp)), join(ether(0x86dd), ip6(ours6, 17, 64, udp))
	solicit := join(ether(0x86dd), ip6(group6, 58, 255, ndMessage(135, ours6)))
	return []golden{
		{"ipv4 to ours", v4, ToUserspace},
		{"ipv4 into our prefix", join(ether(0x0800), ip4(inOurs4, udp)), ToUserspace},
		{"ipv4 to the kernel", join(ether(0x0800), ip4(kernels4, udp)), PassedNotOurs},
		{"ipv6 to ours", v6, ToUserspace},
		{"ipv6 into our prefix", join(ether(0x86dd), ip6(inOurs6, 6, 64, udp)), ToUserspace},
		{"ipv6 to the kernel", join(ether(0x86dd), ip6(kernels6, 6, 64, udp)), PassedNotOurs},
		{"ipv4 behind one tag", join(ether(0x8100), tag(0x0800), ip4(ours4, udp)), ToUserspace},
		{"ipv6 behind two tags", join(ether(0x88a8), tag(0x8100), tag(0x86dd), ip6(ours6, 17, 64, udp)), ToUserspace},
		{"kernel's behind two tags", join(ether(0x88a8), tag(0x8100), tag(0x0800), ip4(kernels4, udp)), PassedNotOurs},
		{"three tags", join(ether(0x88a8), tag(0x8100), tag(0x8100), tag(0x0800), ip4(ours4, udp)), PassedTooManyTags},
		{"cut in a tag", join(ether(0x8100), []byte{0, 1}), PassedTruncated},
		{"cut in the second tag", join(ether(0x88a8), tag(0x8100), []byte{0}), PassedTruncated},
		{"arp request for ours", join(ether(0x0806), arp(1, ours4)), ToUserspace},
		{"arp reply to ours", join(ether(0x0806), arp(2, ours4)), ToUserspace},
		{"arp for ours behind a tag", join(ether(0x8100), tag(0x0806), arp(1, ours4)), ToUserspace},
		{"arp for the kernel", join(ether(0x0806), arp(1, kernels4)), PassedNotOurs},
		{"arp of another protocol", with(join(ether(0x0806), arp(1, ours4)), 16, 0x86), PassedMalformed},
		{"arp with long addresses", with(join(ether(0x0806), arp(1, ours4)), 18, 20), PassedMalformed},
		{"arp cut", join(ether(0x0806), arp(1, ours4))[:41], PassedTruncated},
		{"solicitation for ours", solicit, ToUserspace},
		{"advertisement of ours", join(ether(0x86dd), ip6(group6, 58, 255, ndMessage(136, ours6))), ToUserspace},
		{"solicitation for the kernel", join(ether(0x86dd), ip6(group6, 58, 255, ndMessage(135, kernels6))), PassedNotOurs},
		{"solicitation from afar", with(solicit, 21, 254), PassedMalformed},
		{"solicitation with a code", with(solicit, 55, 1), PassedMalformed},
		{"router advertisement", join(ether(0x86dd), ip6(group6, 58, 255, ndMessage(134, ours6))), PassedNotOurs},
		{"solicitation cut, length too", join(ether(0x86dd), ip6(group6, 58, 255, ndMessage(135, ours6)[:23])),
			PassedNotOurs},
		{"multicast", join(ether(0x86dd), ip6(group6, 17, 255, udp)), PassedNotOurs},
		{"ipv4, version 5", with(v4, 14, 0x55), PassedMalformed},
		{"ipv4, header of 16 bytes", with(v4, 14, 0x44), PassedMalformed},
		{"ipv4, total length under header", with(v4, 17, 19), PassedMalformed},
		{"ipv4, options beyond total length", with(join(ether(0x0800), ip4(ours4, nil)), 14, 0x4f), PassedMalformed},
		{"ipv4, total length beyond frame", with(v4, 17, 53), PassedTruncated},
		{"ipv4, cut header", v4[:33], PassedTruncated},
		{"ipv4, padded", join(v4, make([]byte, 6)), ToUserspace},
		{"ipv6, version 4", with(v6, 14, 0x40), PassedMalformed},
		{"ipv6, payload beyond frame", with(v6, 19, 33), PassedTruncated},
		{"ipv6, cut header", v6[:53], PassedTruncated},
		{"ethernet alone", ether(0x0800), PassedTruncated},
		{"802.3 length", join(ether(46), make([]byte, 46)), PassedNotOurs},
		{"lldp", join(ether(0x88cc), make([]byte, 46)), PassedNotOurs},
		{"ipv4 of several fragments", join(ether(0x0800), ip4(ours4, make([]byte, 8900))), ToUserspace},
		{"kernel's of several fragments", join(ether(0x0800), ip4(kernels4, make([]byte, 8900))), PassedNotOurs},
		{"fragments short of total length", join(ether(0x0800), ip4(ours4, make([]byte, 8900)))[:8900], PassedTruncated},
	}
}

// actions of each reason.
var actions = [numReasons]uint32{xdpRedirect, xdpPass, xdpPass, xdpPass, xdpPass, xdpDrop, xdpPass}

func expect(t *testing.T, p *Port, frame []byte, want Reason) {
	t.Helper()
	action, reason := run(t, p, frame)
	if reason != want || action != actions[want] {
		t.Errorf("action %d for %s, want %d for %s", action, reason, actions[want], want)
	}
}

func TestGoldenPackets(t *testing.T) {
	shared, owned := loaded(t, Options{Mode: Shared}, true), loaded(t, Options{Mode: Owned}, true)
	absent := map[OnAbsence]Reason{Drop: NoSocketDropped, Pass: NoSocketPassed}
	for _, g := range goldens() {
		t.Run(g.name, func(t *testing.T) {
			expect(t, shared, g.frame, g.reason)
			expect(t, owned, g.frame, ToUserspace)
			if r := reference(g.frame); r != g.reason {
				t.Errorf("the reference says %s, want %s", r, g.reason)
			}
		})
	}
	for setting, reason := range absent {
		for _, p := range []*Port{shared, owned} {
			if err := errors.Join(p.ClearSocket(0), p.ClearSocket(0), p.SetOnAbsence(setting)); err != nil {
				t.Fatal(err)
			}
		}
		for _, g := range goldens() {
			t.Run(g.name+", absent: "+setting.String(), func(t *testing.T) {
				expect(t, owned, g.frame, reason)
				if g.reason == ToUserspace {
					g.reason = reason
				}
				expect(t, shared, g.frame, g.reason)
			})
		}
	}
}

// Every golden packet cut at every length, and with bytes changed at random, against the reference.
func TestHostilePackets(t *testing.T) {
	p := loaded(t, Options{Mode: Shared}, true)
	random := rand.New(rand.NewPCG(1, 2))
	for _, g := range goldens() {
		for n := 14; n < min(len(g.frame), 100); n++ {
			expect(t, p, g.frame[:n], reference(g.frame[:n]))
		}
		for range 50 {
			b := bytes.Clone(g.frame)
			for range 1 + random.IntN(3) {
				b[12+random.IntN(min(len(b), 70)-12)] = byte(random.Uint32())
			}
			expect(t, p, b, reference(b))
		}
	}
}

func FuzzShared(f *testing.F) {
	for _, g := range goldens() {
		f.Add(g.frame)
	}
	p := loaded(f, Options{Mode: Shared}, true)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 14 || len(frame) > 16<<10 {
			t.Skip() // test runs take no shorter frame
		}
		expect(t, p, frame, reference(frame))
	})
}

// A family's default route is none of the other's.
func TestAddresses(t *testing.T) {
	p := loaded(t, Options{Mode: Shared}, true)
	four, six := goldens()[2].frame, goldens()[5].frame // to the kernel
	for _, step := range []struct {
		prefixes []string
		v4, v6   Reason
	}{
		{[]string{"0.0.0.0/0"}, ToUserspace, PassedNotOurs},
		{[]string{"::/0"}, PassedNotOurs, ToUserspace},
		{[]string{"10.9.0.1/24", "fd00:9::1/64"}, ToUserspace, ToUserspace},
		{[]string{"10.9.0.0/31", "10.9.0.0/31", "fd00:9::2/127"}, ToUserspace, PassedNotOurs},
		{nil, PassedNotOurs, PassedNotOurs},
	} {
		var prefixes []netip.Prefix
		for _, s := range step.prefixes {
			prefixes = append(prefixes, netip.MustParsePrefix(s))
		}
		if err := p.SetAddresses(prefixes); err != nil {
			t.Fatal(err)
		}
		expect(t, p, four, step.v4)
		expect(t, p, six, step.v6)
	}
	if err := p.SetAddresses([]netip.Prefix{{}}); err == nil {
		t.Error("an invalid prefix was taken")
	}
	if err := loaded(t, Options{}, false).SetAddresses(nil); !errors.Is(err, ErrNotShared) {
		t.Errorf("addresses of an owned port: %v", err)
	}
}

// TestSilentAddresses: of addresses for which somebody else answers on the link the hook takes packets alone.
func TestSilentAddresses(t *testing.T) {
	p := loaded(t, Options{Mode: Shared}, true)
	prefix := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	packets, asks := ToUserspace, PassedNotOurs
	for range 2 {
		silent, all := []netip.Prefix{prefix(kernels4), prefix(kernels6)}, ourPrefixes
		if asks == ToUserspace {
			all = append(silent, ourPrefixes...)
		}
		if err := p.SetAddresses(all, silent...); err != nil {
			t.Fatal(err)
		}
		for _, is := range []struct {
			frame []byte
			want  Reason
		}{
			{goldens()[2].frame, packets}, {goldens()[5].frame, packets},
			{join(ether(0x0806), arp(1, kernels4)), asks},
			{join(ether(0x86dd), ip6(group6, 58, 255, ndMessage(135, kernels6))), asks},
			{join(ether(0x0806), arp(1, ours4)), ToUserspace},
		} {
			expect(t, p, is.frame, is.want)
		}
		asks = ToUserspace
	}
}

func TestSocketOfMissingQueue(t *testing.T) {
	p := loaded(t, Options{}, false)
	if err := p.SetSocket(1, xdpSocket(t)); err == nil {
		t.Error("queue 1 of a port with one queue was taken")
	}
	if _, err := Load(Options{}); err == nil {
		t.Error("a port without queues was loaded")
	}
}

// Maps are charged to the memory control group, not to RLIMIT_MEMLOCK.
func TestLoadsWithoutLockedMemory(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			t.Error(err)
		}
	}()
	loaded(t, Options{Mode: Shared}, true)
}

// The sizes that bpf/shared.h asserts, and those of the maps that hold the values.
func TestLayout(t *testing.T) {
	spec, err := loadShared()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name    string
		size    int
		inMap   uint32
		entries uint32
	}{
		{"counters", binary.Size(counterValue{}), spec.Maps["counters"].ValueSize, uint32(numReasons)},
		{"config", binary.Size(configValue{}), spec.Maps["config"].ValueSize, 1},
		{"addresses", binary.Size(addressKey{}), spec.Maps["addresses"].KeySize, 65536},
	} {
		if row.size != int(row.inMap) || spec.Maps[row.name].MaxEntries != row.entries {
			t.Errorf("%s: %d bytes in Go, %d in C, %d entries", row.name, row.size, row.inMap,
				spec.Maps[row.name].MaxEntries)
		}
	}
}
