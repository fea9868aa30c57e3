// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/internal/pcap"
)

const pods = `apiVersion: viaduct.dev/v1alpha1
kind: NodeConfig
metadata: {name: n1}
spec:
  podCIDRs: [10.244.1.0/24]
  flows: 1024
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
status: {podIP: 10.244.1.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
status: {podIP: 10.244.1.3}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: shop}
spec: {nodeName: n2}
status: {podIP: 10.244.2.3}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}, {port: 53, protocol: UDP}]}]
`

const (
	clientAddr, webAddr = "10.244.1.2", "10.244.1.3"
	letsIn              = "NetworkPolicy shop/web spec.ingress[0]"
	isolates            = "NetworkPolicy shop/web isolates the end, and no rule of a NetworkPolicy allows it"
)

// of serializes an IPv4 packet between pods, with MACs that no port has.
func of(t *testing.T, ip *layers.IPv4, payload ...gopacket.SerializableLayer) []byte {
	t.Helper()
	ip.Version, ip.TTL = 4, 64
	stack := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9},
		DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 8}, EthernetType: layers.EthernetTypeIPv4}, ip}
	b := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, options, append(stack, payload...)...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func tcp(t *testing.T, from, to string, h layers.TCP) []byte {
	t.Helper()
	ip := &layers.IPv4{Protocol: layers.IPProtocolTCP, SrcIP: net.ParseIP(from), DstIP: net.ParseIP(to)}
	h.Window = 65535
	if err := h.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return of(t, ip, &h)
}

// pieces is a UDP datagram from the client to the web pod in three fragments.
func pieces(t *testing.T, id, port uint16) (list [][]byte) {
	t.Helper()
	datagram := make([]byte, 8+64)
	binary.BigEndian.PutUint16(datagram, 1000)
	binary.BigEndian.PutUint16(datagram[2:], port)
	binary.BigEndian.PutUint16(datagram[4:], uint16(len(datagram)))
	for at := 0; at < len(datagram); at += 24 {
		ip := &layers.IPv4{Protocol: layers.IPProtocolUDP, Id: id, FragOffset: uint16(at / 8),
			SrcIP: net.ParseIP(clientAddr), DstIP: net.ParseIP(webAddr)}
		if at+24 < len(datagram) {
			ip.Flags = layers.IPv4MoreFragments
		}
		list = append(list, of(t, ip, gopacket.Payload(datagram[at:at+24])))
	}
	return list
}

func packetsOf(frames ...[]byte) (list []*pcap.Packet) {
	for i, data := range frames {
		list = append(list, &pcap.Packet{Time: time.Unix(1000, int64(i)*1e6), Data: data})
	}
	return list
}

// podsReplayed replays the frames between the pods, both directions from one capture.
func podsReplayed(t *testing.T, frames ...[]byte) result {
	t.Helper()
	cfg := Config{Manifests: directoryOf(t, pods), Port: "shop/client,shop/web,host", MTU: 1500}
	r := replayed(t, cfg, capture(t, packetsOf(frames...)...))
	if r.err != nil || !r.summary.Balanced {
		t.Errorf("error %v, summary %+v", r.err, r.summary)
	}
	return r
}

// said is what matters of lines here.
func said(lines []Line) (list []string) {
	for _, l := range lines {
		list = append(list, strings.Join([]string{l.InPort, l.OutPort, l.Reason, l.Rule}, "|"))
	}
	return list
}

func wantLines(t *testing.T, lines []Line, want ...string) {
	t.Helper()
	if got := said(lines); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestPolicyBetweenPods(t *testing.T) {
	syn := layers.TCP{SrcPort: 40000, DstPort: 80, SYN: true, Seq: 100}
	r := podsReplayed(t,
		tcp(t, clientAddr, webAddr, syn),
		tcp(t, webAddr, clientAddr, layers.TCP{SrcPort: 80, DstPort: 40000, SYN: true, ACK: true, Seq: 900, Ack: 101}),
		tcp(t, clientAddr, webAddr, layers.TCP{SrcPort: 40000, DstPort: 80, ACK: true, Seq: 101, Ack: 901}),
		tcp(t, clientAddr, webAddr, layers.TCP{SrcPort: 40001, DstPort: 81, SYN: true}),
		tcp(t, webAddr, clientAddr, layers.TCP{SrcPort: 40002, DstPort: 9, SYN: true}),
		tcp(t, "198.51.100.1", webAddr, syn),
		tcp(t, clientAddr, "10.244.1.9", syn),
		tcp(t, clientAddr, "198.51.100.1", syn),
	)
	wantLines(t, r.lines,
		"shop/client|shop/web|routed|"+letsIn,
		"shop/web|shop/client|routed|"+letsIn,
		"shop/client|shop/web|routed|"+letsIn,
		"shop/client||ingress_denied|"+isolates,
		"shop/web|shop/client|routed|Attachment shop/client",
		"host||ingress_denied|"+isolates,
		"shop/client|shop/client|unreachable_route|NodeConfig n1 (lab.yaml:1)",
		"shop/client|host|routed|NodeConfig n1 (lab.yaml:1)",
	)
	if len(r.out) != 6 || r.out[0].Interface != r.out[2].Interface || r.out[0].Interface == r.out[1].Interface {
		t.Errorf("%d packets left: %+v", len(r.out), r.out)
	}
}

// A pod of another node is no station, and one station is not another.
func TestStationsAreTheNodes(t *testing.T) {
	cfg := Config{Manifests: directoryOf(t, pods), Port: "shop/elsewhere", MTU: 1500}
	_, err := run(t.Context(), cfg, capture(t), &bytes.Buffer{}, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "there are host, shop/client, shop/web") {
		t.Errorf("got %v", err)
	}
	cfg.Port, cfg.MAC = "shop/web", net.HardwareAddr{2, 0, 0, 0, 0, 1}
	if _, err = run(t.Context(), cfg, capture(t), &bytes.Buffer{}, &bytes.Buffer{}); err == nil ||
		!strings.Contains(err.Error(), "--mac is for ports with a device") {
		t.Errorf("got %v", err)
	}
	cfg.MAC = nil
	r := replayed(t, cfg, capture(t, packetsOf(tcp(t, clientAddr, webAddr, layers.TCP{SYN: true, DstPort: 1}))...))
	wantLines(t, r.lines, "shop/web||spoofed_source|Attachment shop/web")
}

// Fragments that come before the first wait, are said to, and follow it: the books balance all the same.
func TestFragmentsThatWait(t *testing.T) {
	let, denied, alone := pieces(t, 1, 53), pieces(t, 2, 54), pieces(t, 3, 53)
	r := podsReplayed(t, let[2], let[1], let[0], denied[1], denied[0], denied[2], alone[2])
	route := "Attachment shop/web"
	wantLines(t, r.lines,
		"shop/client||waiting_for_fragment|"+route,
		"shop/client||waiting_for_fragment|"+route,
		"shop/client|shop/web|routed|"+letsIn,
		"shop/client||waiting_for_fragment|"+route,
		"shop/client||ingress_denied|"+isolates,
		"shop/client||ingress_denied|"+route,
		"shop/client||waiting_for_fragment|"+route,
	)
	if len(r.out) != 3 || r.summary.Total.Held != 1 || r.summary.Total.Forwarded != 3 || r.summary.Total.Dropped != 3 {
		t.Errorf("%d packets left, %+v", len(r.out), r.summary.Total)
	}
}

// What waited too long ends while another packet is in hand, whose line is its own.
func TestFragmentThatWaitsInVain(t *testing.T) {
	cfg := Config{Manifests: directoryOf(t, pods), Port: "shop/client", MTU: 1500}
	late := &pcap.Packet{Time: time.Unix(1100, 0),
		Data: tcp(t, clientAddr, webAddr, layers.TCP{SrcPort: 1, DstPort: 80, SYN: true})}
	r := replayed(t, cfg, capture(t, append(packetsOf(pieces(t, 1, 53)[1]), late)...))
	wantLines(t, r.lines, "shop/client||waiting_for_fragment|Attachment shop/web", "shop/client|shop/web|routed|"+letsIn)
	if !r.summary.Balanced || r.summary.Total.Dropped != 1 || r.summary.Total.Held != 0 {
		t.Errorf("summary %+v", r.summary)
	}
}
