// SPDX-License-Identifier: Apache-2.0

package gen_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/perf/gen"
)

// TestRequests: SYNs, with checksums as gopacket computes them, from anywhere in the network or one address alone.
func TestRequests(t *testing.T) {
	for _, tc := range []struct {
		sources string
		differ  bool
	}{{"16.0.0.0/4", true}, {"16.2.3.4/32", false}} {
		r := newRig(t)
		c := config(r, false)
		c.Request, c.Sources, c.Src = 5201, netip.MustParsePrefix(tc.sources), netip.MustParseAddr("16.2.3.4")
		c.Prefix, c.Prefixes, c.Size, c.Rate, c.Count = netip.MustParsePrefix("10.1.2.3/32"), 1, gen.MinSize, 20_000, 200
		frames := captured(t, r, c)
		if len(frames) != int(c.Count) {
			t.Fatalf("captured %d packets, want %d", len(frames), c.Count)
		}
		sources, ports := map[string]bool{}, map[layers.TCPPort]bool{}
		for _, frame := range frames {
			p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
			ip, _ := p.NetworkLayer().(*layers.IPv4)
			tcp, _ := p.TransportLayer().(*layers.TCP)
			if ip == nil || tcp == nil {
				t.Fatalf("no TCP: %x", frame)
			}
			from, _ := netip.AddrFromSlice(ip.SrcIP)
			if !c.Sources.Contains(from) || ip.DstIP.String() != "10.1.2.3" || !tcp.SYN || tcp.ACK || tcp.DstPort != 5201 {
				t.Fatalf("packet is %v", p)
			}
			sources[from.String()], ports[tcp.SrcPort] = true, true
			if want := again(t, p, ip, tcp); !bytes.Equal(frame[:len(want)], want) || len(frame) != gen.MinSize {
				t.Fatalf("got  %x\nwant %x", frame, want)
			}
		}
		if len(ports) < len(frames)/2 || tc.differ != (len(sources) > len(frames)/2) {
			t.Errorf("%s: %d sources, %d ports", tc.sources, len(sources), len(ports))
		}
	}
}

// again is the packet with lengths and checksums of gopacket's.
func again(t *testing.T, p gopacket.Packet, ip *layers.IPv4, tcp *layers.TCP) []byte {
	t.Helper()
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: p.LinkLayer().(*layers.Ethernet).SrcMAC, DstMAC: p.LinkLayer().(*layers.Ethernet).DstMAC,
			EthernetType: layers.EthernetTypeIPv4}, ip, tcp)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(buf.Bytes()[:54])
}
