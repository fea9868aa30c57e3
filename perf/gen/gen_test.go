// SPDX-License-Identifier: Apache-2.0

package gen_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/perf/bpf"
	"github.com/viaduct-net/viaduct/perf/gen"
	"github.com/viaduct-net/viaduct/perf/rig"
	"github.com/viaduct-net/viaduct/perf/sink"
)

func newRig(t *testing.T) *rig.Rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r, err := rig.New(rig.Options{Queues: 1, MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func config(r *rig.Rig, ipv6 bool) gen.Config {
	c := gen.Config{
		Interface: r.Gen.Index, SrcMAC: r.Gen.MAC, DstMAC: r.Left.MAC,
		Src: r.Gen.Addr4.Addr(), Prefix: rig.Prefix(0, ipv6), Prefixes: 7, Size: 80, Flows: 40,
	}
	if ipv6 {
		c.Src = r.Gen.Addr6.Addr()
	}
	return c
}

// attach puts a sink right behind the generator, on the other end of its veth pair.
func attach(t *testing.T, r *rig.Rig, at sink.At, timed bool) *sink.Sink {
	t.Helper()
	giveNAPI(t, r)
	return attachTo(t, r.DUT, r.Left, at, timed)
}

// giveNAPI has the generator's peer run NAPI, by GRO.
func giveNAPI(t *testing.T, r *rig.Rig) {
	t.Helper()
	if err := r.DUT.SetFeatures(r.Left.Name, map[string]bool{"rx-gro": true}); err != nil {
		t.Fatal(err)
	}
}

func attachTo(t *testing.T, in *rig.Namespace, d rig.Device, at sink.At, timed bool) *sink.Sink {
	t.Helper()
	var s *sink.Sink
	err := in.Do(func() (err error) {
		s, err = sink.Attach(d.Index, at, timed)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func run(t *testing.T, r *rig.Rig, c gen.Config, timeout time.Duration) uint64 {
	t.Helper()
	g, err := gen.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := g.Run(ctx, r.Generator.Do); err != nil {
		t.Fatal(err)
	}
	sent, err := g.Sent()
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

func TestEveryPacedPacketArrives(t *testing.T) {
	for _, tc := range []struct {
		ipv6 bool
		at   sink.At
	}{{false, sink.Driver}, {true, sink.Driver}, {false, sink.Stack}, {true, sink.Stack}} {
		t.Run(fmt.Sprintf("ipv6=%v, sink %d", tc.ipv6, tc.at), func(t *testing.T) {
			r := newRig(t)
			s := attach(t, r, tc.at, true)
			c := config(r, tc.ipv6)
			c.Rate, c.Count, c.Timed = 20_000, 5_000, true
			start := time.Now()
			if sent := run(t, r, c, 20*time.Second); sent != c.Count {
				t.Fatalf("sent %d packets, want %d", sent, c.Count)
			}
			if took := time.Since(start); took < 240*time.Millisecond {
				t.Errorf("%d packets took %s: faster than the rate of %.0f per second", c.Count, took, c.Rate)
			}
			got, err := s.Counts()
			if err != nil {
				t.Fatal(err)
			}
			if got.Packets != c.Count || got.Bytes != c.Count*uint64(c.Size) {
				t.Errorf("sink has %+v, want %d packets of %d bytes", got, c.Count, c.Size)
			}
			h, err := s.Latency()
			if err != nil {
				t.Fatal(err)
			}
			if h.Count() != c.Count {
				t.Errorf("%d times measured, want %d", h.Count(), c.Count)
			}
			if p50 := h.Quantile(0.5); p50 <= 0 || p50 > time.Second {
				t.Errorf("median time %s is not credible", p50)
			}
		})
	}
}

func TestCountIsExactWithoutRate(t *testing.T) {
	r := newRig(t)
	attach(t, r, sink.Driver, false)
	c := config(r, false)
	c.Count = 2_000_003
	if sent := run(t, r, c, 20*time.Second); sent != c.Count {
		t.Errorf("sent %d packets, want %d", sent, c.Count)
	}
}

func TestStopsWhenToldTo(t *testing.T) {
	r := newRig(t)
	s := attach(t, r, sink.Driver, false)
	start := time.Now()
	sent := run(t, r, config(r, false), 300*time.Millisecond)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s to stop", took)
	}
	got, err := s.Counts()
	if err != nil {
		t.Fatal(err)
	}
	if sent < 1000 || got.Packets < 1000 || got.Packets > sent {
		t.Errorf("sent %d, received %d", sent, got.Packets)
	}
}

// TestPackets compares every byte with what gopacket makes of the same fields, checksums included.
func TestPackets(t *testing.T) {
	for _, tc := range []struct {
		name  string
		ipv6  bool
		size  int
		timed bool
	}{
		{"IPv4 smallest", false, 64, false},
		{"IPv4 odd, timed", false, 77, true},
		{"IPv6 smallest", true, 64, false},
		{"IPv6 timed", true, 1400, true},
		{"IPv4 largest", false, gen.MaxSize, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			if tc.size > 1514 {
				r = bigRig(t)
			}
			c := config(r, tc.ipv6)
			c.Size, c.Timed, c.Rate, c.Count = tc.size, tc.timed, 20_000, 400
			frames := captured(t, r, c)
			if len(frames) != int(c.Count) {
				t.Fatalf("captured %d packets, want %d", len(frames), c.Count)
			}
			for i, frame := range frames {
				flow := i % c.Flows
				want := expected(t, c, flow, flow*7919%c.Prefixes, frame)
				if !bytes.Equal(frame, want) {
					t.Fatalf("packet %d:\n got %x\nwant %x", i, frame, want)
				}
			}
		})
	}
}

// TestScattered: each flow comes once before one comes again, and far from its neighbours.
func TestScattered(t *testing.T) {
	for _, flows := range []int{1, 2, 3, 200, 1000} {
		r := newRig(t)
		c := config(r, false)
		c.Scattered, c.Flows, c.Rate, c.Count = true, flows, 20_000, uint64(2*flows)
		var ports []int
		for _, frame := range captured(t, r, c) {
			ports = append(ports, int(binary.BigEndian.Uint16(frame[34:]))-bpf.SourcePort)
		}
		if len(ports) != 2*flows || !slices.Equal(ports[:flows], ports[flows:]) {
			t.Fatalf("%d flows: captured %v", flows, ports)
		}
		for i, next := range ports[1:flows] {
			if apart := max(next-ports[i], ports[i]-next); flows >= 200 && apart < flows/4 {
				t.Errorf("flow %d of %d follows flow %d", next, flows, ports[i])
			}
		}
		if slices.Sort(ports[:flows]); len(slices.Compact(ports[:flows])) != flows {
			t.Errorf("%d flows: some came twice", flows)
		}
	}
}

// TestAnswers: each packet that is sent comes back once, as a flow's other direction, and ends there.
func TestAnswers(t *testing.T) {
	r := newRig(t)
	near, far := attachTo(t, r.DUT, r.Left, sink.Answer, false), attachTo(t, r.Generator, r.Gen, sink.TakeAnswers, false)
	giveNAPI(t, r)
	c := config(r, false)
	c.Rate, c.Count, c.Flows = 20_000, 2000, 2000
	frames := sniffed(t, r.Generator, r.Gen, func() { run(t, r, c, 20*time.Second) })
	if len(frames) != int(c.Count) {
		t.Fatalf("%d of %d came back", len(frames), c.Count)
	}
	for i, frame := range frames {
		p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
		ip, udp := p.NetworkLayer().(*layers.IPv4), p.TransportLayer().(*layers.UDP)
		if ip.DstIP.String() != c.Src.String() || int(udp.DstPort) != bpf.SourcePort+i || udp.SrcPort != bpf.DestinationPort {
			t.Fatalf("answer %d is %v", i, p)
		}
	}
	for _, s := range []*sink.Sink{near, far} {
		if n, err := s.Counts(); err != nil || n != (sink.Counts{}) {
			t.Errorf("counted %+v, %v", n, err)
		}
	}
}

func bigRig(t *testing.T) *rig.Rig {
	t.Helper()
	r, err := rig.New(rig.Options{Queues: 1, MTU: 9000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// captured runs the generator and reads what comes out of the peer by a packet socket.
func captured(t *testing.T, r *rig.Rig, c gen.Config) [][]byte {
	t.Helper()
	giveNAPI(t, r)
	return sniffed(t, r.DUT, r.Left, func() { run(t, r, c, 20*time.Second) })
}

// sniffed reads what a device receives meanwhile.
func sniffed(t *testing.T, in *rig.Namespace, d rig.Device, meanwhile func()) [][]byte {
	t.Helper()
	var fd int
	err := in.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: d.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		t.Fatal(err)
	}
	meanwhile()

	var frames [][]byte
	buf := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return frames
		}
		if err != nil {
			t.Fatal(err)
		}
		out := from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING
		if !out && bytes.Equal(buf[:6], d.MAC) {
			frames = append(frames, bytes.Clone(buf[:n]))
		}
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// expected is the packet as gopacket writes it. Only the time stamp is taken from the packet itself.
func expected(t *testing.T, c gen.Config, flow, prefix int, frame []byte) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: c.SrcMAC, DstMAC: c.DstMAC, EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{
		SrcPort: layers.UDPPort(bpf.SourcePort + flow), DstPort: layers.UDPPort(bpf.DestinationPort),
	}
	p := rig.Prefix(prefix, c.Src.Is6())
	var ip gopacket.SerializableLayer
	header := 42
	if c.Src.Is6() {
		header = 62
		eth.EthernetType = layers.EthernetTypeIPv6
		v6 := &layers.IPv6{
			Version: 6, NextHeader: layers.IPProtocolUDP, HopLimit: 64, SrcIP: c.Src.AsSlice(),
			DstIP: p.Addr().Next().AsSlice(),
		}
		ip = v6
		_ = udp.SetNetworkLayerForChecksum(v6)
	} else {
		v4 := &layers.IPv4{
			Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: c.Src.AsSlice(),
			DstIP: p.Addr().Next().AsSlice(),
		}
		ip = v4
		_ = udp.SetNetworkLayerForChecksum(v4)
	}
	payload := make([]byte, c.Size-header)
	if c.Timed {
		copy(payload, frame[header:header+8])
		sent := time.Duration(binary.NativeEndian.Uint64(payload))
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
			t.Fatal(err)
		}
		if age := time.Duration(now.Nano()) - sent; age < 0 || age > time.Minute {
			t.Fatalf("packet was sent %s ago", age)
		}
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		eth, ip, udp, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	want := buf.Bytes()
	if sum := want[header-2 : header]; sum[0]|sum[1] == 0 {
		sum[0], sum[1] = 0xff, 0xff // RFC 768: zero would say that there is none
	}
	return want
}

func TestConfigRefused(t *testing.T) {
	good := func() gen.Config {
		return gen.Config{
			Interface: 1, SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), Src: netip.MustParseAddr("10.0.0.1"),
			Prefix: netip.MustParsePrefix("10.1.0.0/24"), Prefixes: 1, Size: 64, Flows: 1,
		}
	}
	for _, tc := range []struct {
		want string
		edit func(*gen.Config)
	}{
		{"no interface", func(c *gen.Config) { c.Interface = 0 }},
		{"MAC", func(c *gen.Config) { c.DstMAC = nil }},
		{"address family", func(c *gen.Config) { c.Src = netip.MustParseAddr("fd00::1") }},
		{"address family", func(c *gen.Config) { c.Src = netip.Addr{} }},
		{"prefix", func(c *gen.Config) { c.Prefixes = 0 }},
		{"length out of range", func(c *gen.Config) {
			c.Src, c.Prefix = netip.MustParseAddr("fd00::1"), netip.MustParsePrefix("fd00::/32")
		}},
		{"0 flows", func(c *gen.Config) { c.Flows = 0 }},
		{"flows", func(c *gen.Config) { c.Flows = bpf.MaxFlows + 1 }},
		{"size 63", func(c *gen.Config) { c.Size = 63 }},
		{"size 3073", func(c *gen.Config) { c.Size = 3073 }},
		{"want 70", func(c *gen.Config) {
			c.Src, c.Prefix, c.Timed = netip.MustParseAddr("fd00::1"), netip.MustParsePrefix("fd00::/64"), true
		}},
		{"rate", func(c *gen.Config) { c.Rate = -1 }},
	} {
		c := good()
		tc.edit(&c)
		g, err := gen.New(c)
		if err == nil {
			t.Errorf("%s: accepted", tc.want)
			_ = g.Close()
		} else if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("error %q does not name %q", err, tc.want)
		}
	}
	if os.Geteuid() == 0 {
		c := good()
		c.CPUs = []int{1 << 20}
		if _, err := gen.New(c); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("CPU that does not exist: %v", err)
		}
	}
}
