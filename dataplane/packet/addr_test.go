// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
)

func TestAddr(t *testing.T) {
	for _, row := range []struct {
		addr  string
		kinds string // unspecified, multicast, loopback, k: link-local, broadcast, reserved, martian source, destination
	}{
		{"0.0.0.0", "usd"}, {"0.1.2.3", "sd"}, {"1.0.0.0", ""}, {"10.0.0.1", ""}, {"126.255.255.255", ""},
		{"127.0.0.1", "lsd"}, {"128.0.0.1", ""}, {"169.254.1.1", "k"}, {"169.255.1.1", ""}, {"223.255.255.255", ""},
		{"224.0.0.1", "ms"}, {"239.255.255.255", "ms"}, {"240.0.0.1", "rsd"}, {"255.255.255.254", "rsd"},
		{"255.255.255.255", "bs"}, {"192.0.2.1", ""},
		{"::", "usd"}, {"::1", "lsd"}, {"::2", "rs"}, {"::a00:1", "rs"}, {"64:ff9b::1", ""},
		{"2001:db8::1", ""}, {"fe80::1", "k"}, {"febf::1", "k"}, {"fec0::1", ""},
		{"fe7f::1", ""}, {"fd00::1", ""}, {"ff00::1", "msd"}, {"ff01::1", "msd"}, {"ff02::1", "ms"}, {"ff0e::1", "ms"},
	} {
		n := netip.MustParseAddr(row.addr)
		a := AddrFrom(n)
		got := ""
		for _, k := range []struct {
			is   bool
			name string
		}{
			{a.IsUnspecified(), "u"}, {a.IsMulticast(), "m"}, {a.IsLoopback(), "l"}, {a.IsLinkLocal(), "k"},
			{a.IsBroadcast(), "b"}, {a.IsReserved(), "r"}, {a.MartianSource(), "s"}, {a.MartianDestination(), "d"},
		} {
			if k.is {
				got += k.name
			}
		}
		if got != row.kinds {
			t.Errorf("%s: %q, want %q", row.addr, got, row.kinds)
		}
		if a.Netip() != n || a.String() != row.addr || a.Is4() != n.Is4() || AddrFrom(netip.AddrFrom16(n.As16())) != a {
			t.Errorf("%s became %v", row.addr, a)
		}
		if a.IsMulticast() != n.IsMulticast() || a.IsLoopback() != n.IsLoopback() ||
			a.IsLinkLocal() != n.IsLinkLocalUnicast() {
			t.Errorf("%s: not as netip", row.addr)
		}
	}
	if !AddrFrom(netip.Addr{}).IsZero() || Addr4(0).IsZero() {
		t.Error("the zero address")
	}
	if n := testing.AllocsPerRun(100, func() { sinkAddr, sinkAddr6 = ipA4.Netip(), ipA6.Netip() }); n != 0 {
		t.Errorf("%v allocations in Netip", n)
	}
}

var sinkAddr, sinkAddr6 netip.Addr

func TestMAC(t *testing.T) {
	h, _ := net.ParseMAC("02:11:22:33:44:55")
	m := MACFrom(h)
	if m.String() != "02:11:22:33:44:55" || m.IsMulticast() || m.IsBroadcast() || m.IsZero() {
		t.Error(m)
	}
	if got := m.LinkLocal().String(); got != "fe80::11:22ff:fe33:4455" {
		t.Error("link-local", got)
	}
	if !MACFrom(nil).IsZero() || !MACFrom(make(net.HardwareAddr, 8)).IsZero() || !BroadcastMAC.IsMulticast() {
		t.Error("odd addresses")
	}
	for ip, want := range map[string]string{"224.129.2.3": "01:00:5e:01:02:03", "ff02::1:ff12:3456": "33:33:ff:12:34:56"} {
		if got := MulticastMAC(AddrFrom(netip.MustParseAddr(ip))).String(); got != want {
			t.Errorf("%s: %s, want %s", ip, got, want)
		}
	}
	if got := SolicitedNode(ipB6).String(); got != "ff02::1:ff00:2" {
		t.Error(got)
	}
}

func TestFlowHashIsSymmetric(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 10_000 {
		a, b := Addr{r.Uint64(), r.Uint64()}, Addr4(r.Uint32())
		x, y := uint16(r.Uint32()), uint16(r.Uint32())
		if flowHash(a, b, x, y, 6) != flowHash(b, a, y, x, 6) {
			t.Fatal(a, b, x, y)
		}
	}
}

// Flows that differ little have to spread evenly: over n buckets, chosen by multiplication and by modulo, chi-square
// stays within 6 standard deviations of its mean.
func TestFlowHashSpreads(t *testing.T) {
	sets := map[string]func(i uint32) uint32{
		"sequential sources": func(i uint32) uint32 { return flowHash(Addr4(0x0a000000+i), ipB4, 1, 2, 17) },
		"sequential ports":   func(i uint32) uint32 { return flowHash(ipA4, ipB4, uint16(i), 443, 6) },
		"pairs": func(i uint32) uint32 {
			return flowHash(Addr4(0x0a000000+i>>7), Addr4(0x0a010000+i&127), 0, 0, 1)
		},
		"both ends move": func(i uint32) uint32 { return flowHash(Addr4(0x0a000000+i), Addr4(0x0b000000-i), 7, 7, 17) },
		"networks":       func(i uint32) uint32 { return flowHash(Addr4(i<<16), ipB4, 1, 2, 17) },
		"ipv6 interfaces": func(i uint32) uint32 {
			return flowHash(Addr{ipA6.Hi, uint64(i)}, ipB6, 1, 2, 17)
		},
		"ipv6 networks": func(i uint32) uint32 { return flowHash(Addr{ipA6.Hi + uint64(i), 1}, ipB6, 1, 2, 17) },
	}
	for name, hash := range sets {
		for _, buckets := range []uint32{2, 3, 4, 7, 8, 16, 64, 100, 256} {
			const flows = 1 << 14
			byHigh, byLow := make([]int, buckets), make([]int, buckets)
			for i := range uint32(flows) {
				h := hash(i)
				byHigh[uint64(h)*uint64(buckets)>>32]++
				byLow[h%buckets]++
			}
			for way, counts := range map[string][]int{"high": byHigh, "low": byLow} {
				mean, chi := float64(flows)/float64(buckets), 0.0
				for _, n := range counts {
					chi += (float64(n) - mean) * (float64(n) - mean) / mean
				}
				df := float64(buckets - 1)
				if chi > df+6*math.Sqrt(2*df)+4 {
					t.Errorf("%s over %d buckets by %s bits: chi-square %.0f", name, buckets, way, chi)
				}
			}
		}
	}
}

// One changed bit of an address or port changes every bit of the hash about half of the time.
func TestFlowHashAvalanche(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	const rounds = 2000
	for bit := range 32 + 16 {
		var flips [32]int
		for range rounds {
			src, dst, port := r.Uint32(), r.Uint32(), uint16(r.Uint32())
			a, p := src, port
			if bit < 32 {
				a ^= 1 << bit
			} else {
				p ^= 1 << (bit - 32)
			}
			diff := flowHash(Addr4(src), Addr4(dst), port, 80, 6) ^ flowHash(Addr4(a), Addr4(dst), p, 80, 6)
			for i := range flips {
				flips[i] += int(diff >> i & 1)
			}
		}
		for i, n := range flips {
			if n < rounds*35/100 || n > rounds*65/100 {
				t.Errorf("input bit %d changes output bit %d in %d of %d", bit, i, n, rounds)
			}
		}
	}
}

// All fragments of a packet hash alike, whether they show ports or not.
func TestFragmentsHashAlike(t *testing.T) {
	first := parsed(t, eth4(ip4(ProtoUDP, 0x2000, nil, udp(false, 16))))
	later := parsed(t, eth4(ip4(ProtoUDP, 3, nil, filled(7))))
	if first.SrcPort != 1000 || later.SrcPort != 0 || first.FlowHash != later.FlowHash {
		t.Error("ipv4", fields(first), fields(later))
	}
	first = parsed(t, eth6(ip6(protoFragment, frag6(protoDestOptions, 1), ext(ProtoUDP, 1, 4), udp(true, 8))))
	later = parsed(t, eth6(ip6(protoFragment, frag6(protoDestOptions, 24), filled(7))))
	if first.DstPort != 2000 || first.Proto != ProtoUDP || first.FlowHash != later.FlowHash || later.L4 != 0 {
		t.Error("ipv6", fields(first), fields(later))
	}
}

func BenchmarkFlowHash(b *testing.B) {
	var h uint32
	for b.Loop() {
		h += flowHash(ipA6, ipB6, 1, uint16(h), 6)
	}
}

func BenchmarkNetip(b *testing.B) {
	for name, a := range map[string]Addr{"ipv4": ipA4, "ipv6": ipA6} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				sinkAddr = a.Netip()
			}
		})
	}
}
