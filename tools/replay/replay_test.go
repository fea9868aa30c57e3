// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/viaduct-net/viaduct/internal/captures"
	"github.com/viaduct-net/viaduct/internal/pcap"
)

const lab = `apiVersion: viaduct.dev/v1alpha1
kind: NodeConfig
metadata: {name: lab}
spec:
  ports:
  - {name: left, device: eth0, addresses: [10.1.0.1/24, "fd00:1::1/64"]}
  - {name: right, device: eth1, addresses: [10.2.0.1/24, "fd00:2::1/64"]}
  - {name: tagged, device: eth0, vlan: 7, addresses: [10.7.0.1/24]}
---
apiVersion: viaduct.dev/v1alpha1
kind: Route
metadata: {name: default}
spec: {destination: 0.0.0.0/0, nextHops: [{via: 10.2.0.254, port: right}]}
---
apiVersion: viaduct.dev/v1alpha1
kind: Route
metadata: {name: default6}
spec: {destination: "::/0", nextHops: [{via: "fd00:2::fe", port: right}]}
---
apiVersion: viaduct.dev/v1alpha1
kind: Route
metadata: {name: nowhere}
spec: {destination: 192.0.2.0/24, type: blackhole}
`

func directoryOf(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lab.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// udp builds a datagram; size is its payload's.
func udp(t *testing.T, to string, ttl byte, size int, vlan uint16) []byte {
	t.Helper()
	mac := net.HardwareAddr{0x00, 0x11, 0x22, 0x33, 0x44, 0x55}
	stack := []gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, DstMAC: mac, EthernetType: layers.EthernetTypeIPv4},
	}
	if vlan != 0 {
		stack[0].(*layers.Ethernet).EthernetType = layers.EthernetTypeDot1Q
		stack = append(stack, &layers.Dot1Q{VLANIdentifier: vlan, Type: layers.EthernetTypeIPv4})
	}
	u := &layers.UDP{SrcPort: 1000, DstPort: 2000}
	if strings.Contains(to, ":") {
		stack[0].(*layers.Ethernet).EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: ttl, NextHeader: layers.IPProtocolUDP, SrcIP: net.ParseIP("fd00:1::2"),
			DstIP: net.ParseIP(to)}
		if err := u.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		stack = append(stack, ip)
	} else {
		ip := &layers.IPv4{Version: 4, TTL: ttl, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP("10.1.0.2"),
			DstIP: net.ParseIP(to)}
		if err := u.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		stack = append(stack, ip)
	}
	b := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(b, options, append(stack, u, gopacket.Payload(make([]byte, size)))...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func capture(t *testing.T, packets ...*pcap.Packet) *pcap.Reader {
	t.Helper()
	var file bytes.Buffer
	w, err := pcap.NewWriter(&file, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface("in"); err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if err := w.Write(p, ""); err != nil {
			t.Fatal(err)
		}
	}
	r, err := pcap.NewReader(&file)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type result struct {
	lines   []Line
	summary *Summary
	out     []*pcap.Packet
	err     error
}

func replayed(t *testing.T, cfg Config, in *pcap.Reader) result {
	t.Helper()
	var out, report bytes.Buffer
	summary, err := run(t.Context(), cfg, in, &out, &report)
	r := result{summary: summary, err: err}
	if summary == nil {
		if cfg.MTU != 0 { // the tests of errors set none
			t.Fatal(err)
		}
		return r
	}
	lines := strings.Split(strings.TrimSpace(report.String()), "\n")
	for _, text := range lines[:len(lines)-1] {
		var l Line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		r.lines = append(r.lines, l)
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, `{"summary":{`) {
		t.Errorf("the last line is %s", last)
	}
	reader, err := pcap.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	for p, err := range reader.All() {
		if err != nil {
			t.Fatal(err)
		}
		r.out = append(r.out, p)
	}
	return r
}

func TestVerdictsAndWhatLeaves(t *testing.T) {
	at := time.Unix(1000, 0)
	cfg := Config{Manifests: directoryOf(t, lab), Port: "left", MTU: 1500}
	for _, tt := range []struct {
		name    string
		data    []byte
		want    Line
		payload int // bytes of the last packet that left, 0 for none
		device  int
	}{
		{"forwarded", udp(t, "198.51.100.1", 64, 100, 0), Line{Verdict: "forwarded", Reason: "routed",
			Rule: "Route default (lab.yaml:10)", InPort: "left", OutPort: "right"}, 142, 1},
		{"forwarded IPv6", udp(t, "2001:db8::1", 64, 100, 0), Line{Verdict: "forwarded", Reason: "routed",
			Rule: "Route default6 (lab.yaml:15)", InPort: "left", OutPort: "right"}, 162, 1},
		{"from a VLAN", udp(t, "198.51.100.1", 64, 100, 7), Line{Verdict: "forwarded", Reason: "routed",
			Rule: "Route default (lab.yaml:10)", InPort: "tagged", OutPort: "right"}, 142, 1},
		{"of no VLAN", udp(t, "198.51.100.1", 64, 100, 8), Line{Verdict: "dropped", Reason: "unknown_vlan",
			Rule: "Route default (lab.yaml:10)"}, 0, 0},
		{"blackhole", udp(t, "192.0.2.1", 64, 100, 0), Line{Verdict: "dropped", Reason: "blackhole_route",
			Rule: "Route nowhere (lab.yaml:20)", InPort: "left"}, 0, 0},
		{"TTL", udp(t, "198.51.100.1", 1, 100, 0), Line{Verdict: "consumed", Reason: "ttl_exceeded",
			Rule: "Route default (lab.yaml:10)", InPort: "left", OutPort: "left"}, 14 + 20 + 8 + 128, 0},
		{"fragments", udp(t, "198.51.100.1", 64, 60000, 0), Line{Verdict: "forwarded", Reason: "routed",
			Rule: "Route default (lab.yaml:10)", InPort: "left", OutPort: "right"}, 14 + 20 + 60008%1480, 1},
		{"empty", []byte{}, Line{Verdict: "dropped", Reason: "truncated_ethernet"}, 0, 0},
		{"short", []byte{1, 2, 3}, Line{Verdict: "dropped", Reason: "truncated_ethernet", InPort: "left"}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := replayed(t, cfg, capture(t, &pcap.Packet{Time: at, Data: tt.data}))
			if r.err != nil {
				t.Fatal(r.err)
			}
			tt.want.Length = len(tt.data)
			if r.lines[0] != tt.want {
				t.Errorf("got  %+v\nwant %+v", r.lines[0], tt.want)
			}
			if !r.summary.Balanced || r.summary.Sent != len(r.out) {
				t.Errorf("summary %+v, %d packets out", r.summary, len(r.out))
			}
			if tt.payload == 0 {
				if len(r.out) != 0 {
					t.Errorf("%d packets left", len(r.out))
				}
				return
			}
			last := r.out[len(r.out)-1]
			if len(last.Data) != tt.payload || last.Interface != tt.device || !last.Time.Equal(at) {
				t.Errorf("left: %d bytes by device %d at %v, want %d by %d", len(last.Data), last.Interface, last.Time,
					tt.payload, tt.device)
			}
		})
	}
}

func TestMACIsKeptToWhenGiven(t *testing.T) {
	data := udp(t, "198.51.100.1", 64, 10, 0)
	cfg := Config{Manifests: directoryOf(t, lab), Port: "left", MTU: 1500, MAC: net.HardwareAddr(data[:6])}
	other := bytes.Clone(data)
	other[5]++
	r := replayed(t, cfg, capture(t, &pcap.Packet{Data: data}, &pcap.Packet{Data: other}))
	if r.lines[0].Reason != "routed" || r.lines[1].Reason != "not_our_mac" {
		t.Errorf("got %+v", r.lines)
	}
}

func TestTruncatedIsFlaggedAndPadded(t *testing.T) {
	whole := udp(t, "198.51.100.1", 64, 500, 0)
	cut := &pcap.Packet{Data: whole[:96], OriginalLen: len(whole)}
	cfg := Config{Manifests: directoryOf(t, lab), Port: "left", MTU: 1500}
	for pad, want := range map[bool]string{false: "truncated_ip", true: "routed"} {
		cfg.Pad = pad
		r := replayed(t, cfg, capture(t, cut))
		if l := r.lines[0]; l.Reason != want || !l.Truncated || l.Length != len(whole) {
			t.Errorf("pad %t: got %+v", pad, l)
		}
	}
}

// The rate limit on ICMP follows the capture's clock: the same burst, spread over time, is answered.
func TestTimeIsTheCaptures(t *testing.T) {
	cfg := Config{Manifests: directoryOf(t, lab), Port: "left", MTU: 1500}
	answered := func(gap time.Duration) int {
		var packets []*pcap.Packet
		for i := range 3000 {
			packets = append(packets, &pcap.Packet{Time: time.Unix(1000, 0).Add(time.Duration(i) * gap),
				Data: udp(t, "198.51.100.1", 1, 10, 0)})
		}
		return replayed(t, cfg, capture(t, packets...)).summary.Reasons["ttl_exceeded"]
	}
	if burst, spread := answered(0), answered(time.Second); burst >= 3000 || spread != 3000 {
		t.Errorf("%d answers in a burst, %d when spread out", burst, spread)
	}
}

func TestErrors(t *testing.T) {
	good := directoryOf(t, lab)
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no directory", Config{Manifests: "/nonexistent", Port: "left"}, "no such file"},
		{"empty directory", Config{Manifests: t.TempDir(), Port: "left"}, "there is no NodeConfig"},
		{"unknown port", Config{Manifests: good, Port: "nope"}, `no port is named "nope" in ` + good +
			"; there are left, right, tagged"},
		{"unknown pod", Config{Manifests: good, Port: "shop/web"}, "status.podIPs"},
		{"unknown node", Config{Manifests: good, Port: "left", Node: "nope"}, `--node is "nope"`},
		{"bad manifest", Config{Manifests: directoryOf(t, lab+"---\nkind: Route\n"), Port: "left"}, "lab.yaml:"},
		{"bad route", Config{Manifests: directoryOf(t, strings.Replace(lab, "10.2.0.254, port: right",
			"10.2.0.254, port: middle", 1)), Port: "left"}, "middle"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := replayed(t, tt.cfg, capture(t))
			if r.err == nil || !strings.Contains(r.err.Error(), tt.want) || strings.Contains(r.err.Error(), "\n") {
				t.Errorf("got %v, want %q", r.err, tt.want)
			}
		})
	}
}

func TestTornCapture(t *testing.T) {
	var file bytes.Buffer
	w, err := pcap.NewWriter(&file, "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface("in"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Write(&pcap.Packet{Data: udp(t, "198.51.100.1", 64, 10, 0)}, ""); err != nil {
			t.Fatal(err)
		}
	}
	in, err := pcap.NewReader(bytes.NewReader(file.Bytes()[:file.Len()-5]))
	if err != nil {
		t.Fatal(err)
	}
	r := replayed(t, Config{Manifests: directoryOf(t, lab), Port: "left", MTU: 1500}, in)
	if !errors.Is(r.err, pcap.ErrTorn) || len(r.lines) != 1 || r.summary.Error == "" || !r.summary.Balanced {
		t.Errorf("error %v, %d lines, summary %+v", r.err, len(r.lines), r.summary)
	}
}

// Every capture there is, hostile ones among them, through both families' ports: each packet ends with a reason, and
// the books balance.
func TestCaptures(t *testing.T) {
	files, err := captures.Files()
	if err != nil || len(files) == 0 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	dir := directoryOf(t, lab)
	total := 0
	for _, f := range files {
		for _, pad := range []bool{false, true} {
			in, err := pcap.NewReader(bytes.NewReader(f.Data))
			if err != nil {
				t.Errorf("%s: %v", f.Name, err)
				break
			}
			r := replayed(t, Config{Manifests: dir, Port: "left", MTU: 1500, Pad: pad}, in)
			if r.err != nil || !r.summary.Balanced {
				t.Errorf("%s: error %v, balanced %t", f.Name, r.err, r.summary != nil && r.summary.Balanced)
				continue
			}
			for i, l := range r.lines {
				if l.Index != i || l.Reason == "" || l.Reason == "none" || l.Verdict == "" || l.Verdict == "held" {
					t.Errorf("%s: packet %d: %+v", f.Name, i, l)
				}
			}
			total += len(r.lines)
		}
	}
	t.Logf("%d packets of %d captures", total, len(files))
}
