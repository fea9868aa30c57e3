// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket/layers"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/ledger"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/pipeline"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// What befalls packets to services on their way, beside their translation.

// served is a world with lines of a table.
func served(t testing.TB, v6 bool, lines ...string) *world {
	w := newWorld(t, v6)
	for _, line := range lines {
		if !w.do(line) {
			t.Fatalf("no change: %q", line)
		}
	}
	w.renew()
	return w
}

var webAtB = []string{"service web udp", "frontend web cluster vip:80", "backend web b:8080"}

var bothFamilies = []bool{false, true}

// A packet that waits for a neighbour is judged again from what it was.
func TestServiceWaitsForNeighbour(t *testing.T) {
	for _, v6 := range bothFamilies {
		w := newWorld(t, v6)
		for _, line := range []string{
			"uplink-owned", "masquerade", "unmasqueraded cluster",
			"service web udp", "frontend web node-port :30080", "backend web remote:8080",
		} {
			w.do(line)
		}
		w.changed = false
		w.apply(w.snapshot) // which does not tell the router's MAC
		if got := w.send("a", "udp a:1000 > client:53"); !strings.Contains(got, "(waiting_for_neighbor)") {
			t.Fatal(got)
		}
		w.send("host", "udp client:1000 > node:30080")
		a := w.addr("router")
		w.neighbors.Learn(theUplink, a, hostMACs[0], neighbor.SolicitedOverride|neighbor.Create, w.now)
		w.poll()
		var got []string
		for _, data := range w.sent(0) {
			got = append(got, w.describe(data))
		}
		want := []string{"udp uplink:1000 > client:53", "udp uplink:1000 > remote:8080"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("left %q, want %q", got, want)
		}
		if got := w.send("uplink", "udp remote:8080 > uplink:1000"); got != "host udp node:30080 > client:1000" &&
			got != "uplink udp node:30080 > client:1000" {
			t.Error(got)
		}
	}
}

// ICMP errors of our own quote what the sender sent.
func TestServiceErrorsQuoteWhatWasSent(t *testing.T) {
	for _, v6 := range bothFamilies {
		w := served(t, v6, webAtB...)
		for _, first := range []bool{true, false} { // of a flow that is opened by it, and of one that is there
			data := w.build("udp a:1000 > vip:80")
			ttl := 14 + 8
			if v6 {
				ttl = 14 + 7
			}
			data[ttl] = 1
			if !v6 {
				binary.BigEndian.PutUint16(data[14+10:], 0)
				binary.BigEndian.PutUint16(data[14+10:], ^packet.Fold(packet.Sum(data[14:34], 0)))
			}
			w.inject(1, onTrunk(podA, data))
			w.poll()
			out := w.sent(1)
			if len(out) != 1 || !strings.HasSuffix(w.describe(out[0]), "about udp a:1000 > vip:80") {
				t.Errorf("TTL: %d packets left: %x", len(out), out)
			}
			large := udp(t, 1, w.text("a"), w.text("vip"), 1600, func(h *layers.IPv4) { h.Flags = layers.IPv4DontFragment })
			l4 := 14 + 20
			if v6 {
				l4 = 14 + 40
			}
			binary.BigEndian.PutUint16(large[l4+2:], 80)
			w.inject(1, onTrunk(podA, large))
			w.poll()
			out = w.sent(1)
			if len(out) != 1 || packet.TrunkPort(packet.MAC(out[0][:6])) != podA {
				t.Fatalf("MTU: %d packets left", len(out))
			}
			quoted := out[0][14+28:]
			if v6 {
				quoted = out[0][14+48:]
			}
			if string(quoted[:l4-14]) != string(large[14:l4]) {
				t.Errorf("MTU: quoted is %x", quoted[:l4-14])
			}
			if first {
				if got := w.send("a", "udp a:1000 > vip:80"); got != "b udp a:1000 > b:8080" {
					t.Error(got)
				}
			}
		}
	}
}

// A client that says of a backend that it is unreachable is not believed: none would be left to the others.
func TestForgedFailures(t *testing.T) {
	for _, v6 := range bothFamilies {
		w := served(t, v6, "service web udp round-robin eject=2", "frontend web cluster vip:80",
			"frontend web node-port :30080", "backend web b:8080", "backend web c:8080", "backend web remote:8080")
		ejections := func() uint64 { return w.tables.Load().Backends.Totals().Ejections }
		for i := range 9 {
			_, to, _ := strings.Cut(w.send("a", fmt.Sprintf("udp a:%d > vip:80", 1000+i)), " > ")
			w.send("a", fmt.Sprintf("error a > a about udp a:%d > vip:80", 1000+i))
			w.send("a", fmt.Sprintf("error a > a about udp a:%d > %s", 1000+i, to))
			w.send("host", fmt.Sprintf("udp client:%d > node:30080", 1000+i))
			w.send("host", fmt.Sprintf("error router > client about udp client:%d > node:30080", 1000+i))
			w.send("host", fmt.Sprintf("error router > dataplane about udp dataplane:%d > remote:8080", 1000+i))
		}
		if n := ejections(); n != 0 {
			t.Errorf("%d ejections", n)
		}
		for i := range 9 {
			w.send("a", fmt.Sprintf("udp a:%d > vip:80", 2000+i))
			w.send("b", fmt.Sprintf("error b > a about udp a:%d > b:8080", 2000+i))
		}
		if n := ejections(); n != 1 {
			t.Errorf("%d ejections of one that says so itself", n)
		}
	}
}

// What follows comes by the queue of another worker.
func TestServiceTwoWorkers(t *testing.T) {
	for _, v6 := range bothFamilies {
		w := served(t, v6, "service web tcp", "frontend web cluster vip:80", "backend web b:8080")
		other := *w
		other.rig = second(t, w.rig)
		other.worker.observe = func(_ *packet.Packet, d *pipeline.Decision) { other.decided = *d }
		for i, row := range []struct{ by, what, want string }{
			{"a", "tcp a:1000 > vip:80 syn", "b tcp a:1000 > b:8080 syn"},
			{"b", "tcp b:8080 > a:1000 synack", "a tcp vip:80 > a:1000 synack"},
			{"a", "tcp a:1000 > vip:80 ack", "b tcp a:1000 > b:8080 ack"},
			{"b", "tcp b:8080 > a:1000 answer", "a tcp vip:80 > a:1000 answer"},
			{"a", "error a > vip about tcp vip:80 > a:1000 answer", "b error a > b about tcp b:8080 > a:1000 answer"},
		} {
			at := []*world{w, &other}[i%2]
			if got := at.send(row.by, row.what); got != row.want {
				t.Errorf("%s\n got %s\nwant %s", row.what, got, row.want)
			}
		}
		if n := w.tables.Load().Backends.Totals(); n.Opened != 1 {
			t.Errorf("%+v", n)
		}
	}
}

// second is a rig with a worker of its own, and the tables and flows of another's.
func second(t testing.TB, r *rig) *rig {
	s := &rig{t: t, now: r.now, neighbors: r.neighbors, mtu: r.mtu}
	s.start(Config{Tables: &r.tables, Flows: r.worker.flows})
	return s
}

// Names are learned from answers of a service, whatever port its backends have.
func TestNamesFromService(t *testing.T) {
	for _, v6 := range bothFamilies {
		w := newWorld(t, v6)
		for _, line := range []string{"service dns udp", "frontend dns cluster vip:53", "backend dns b:5353"} {
			w.do(line)
		}
		w.peers = []*api.PeerSet{{Id: 1, Identities: []uint32{1}}, {Id: 2, Domains: []string{"www.example.com"}},
			{Id: 3, Identities: []uint32{2}}}
		w.policy = []*api.Policy{{Name: "NetworkPolicy red/a", Tier: api.Policy_TIER_NAMESPACE, Subjects: []uint32{1},
			Egress: true, Rules: []*api.PolicyRule{
				{Name: "spec.egress[0]", Direction: api.PolicyRule_DIRECTION_EGRESS, Action: api.PolicyRule_ACTION_ALLOW,
					Peers: []uint32{2, 3}, AnyPort: true},
			}}}
		w.worker.pipeline.Init(w.worker.flows, names.NewStore(16, 16))
		w.renew()
		for _, row := range []struct{ what, want string }{
			{"udp a:1000 > client:443", "(egress_denied)"}, {"udp a:1000 > vip:53", "b udp a:1000 > b:5353"},
		} {
			if got := w.send("a", row.what); got != row.want {
				t.Fatalf("%s: %s", row.what, got)
			}
		}
		w.inject(1, onTrunk(podB, w.udpWith("udp b:5353 > a:1000", dnsAnswer(t, w.text("client")))))
		w.poll()
		w.sent(1)
		if got := w.send("a", "udp a:1000 > client:443"); got != "host udp a:1000 > client:443" {
			t.Errorf("after the answer: %s", got)
		}
	}
}

func dnsAnswer(t *testing.T, address string) []byte {
	name := dnsmessage.MustNewName("www.example.com.")
	a := netip.MustParseAddr(address)
	m := dnsmessage.Message{Header: dnsmessage.Header{Response: true}}
	h := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 60}
	if h.Type = dnsmessage.TypeA; a.Is4() {
		m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: a.As4()}}}
	} else {
		h.Type = dnsmessage.TypeAAAA
		m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}}}
	}
	m.Questions = []dnsmessage.Question{{Name: name, Type: h.Type, Class: dnsmessage.ClassINET}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RSTs and errors are bounded as ICMP errors are.
func TestServiceResetsAreBounded(t *testing.T) {
	w := served(t, false, "service web tcp", "frontend web cluster vip:80")
	data := onTrunk(podA, w.build("tcp a:1000 > vip:80 syn"))
	for range 100 {
		w.inject(1, data)
	}
	w.poll()
	refused, limited := w.count(podA, verdict.ServiceRefused), w.count(podA, verdict.ICMPRateLimited)
	if out := w.sent(1); len(out) != int(refused) || refused == 0 || refused+limited != 100 || limited == 0 {
		t.Errorf("%d left, %d refused, %d over the limit", len(out), refused, limited)
	}
}

// A pass over packets of services allocates nothing: new flows, known ones, answers, refused ones, fragments, errors.
func TestServicesAllocateNothing(t *testing.T) {
	for _, v6 := range bothFamilies {
		w := served(t, v6, "service web udp", "frontend web cluster vip:80", "frontend web node-port :30080",
			"backend web b:8080", "backend web remote:8080", "service none tcp", "frontend none cluster vip:81",
			"uplink-owned", "masquerade", "unmasqueraded cluster")
		w.do("only a to b")
		w.renew()
		var packets [][]byte
		for _, row := range []string{
			"a udp a:%d > vip:80", "a udp a:%d > vip:80", "b udp b:8080 > a:%d", "a tcp a:%d > vip:81 syn",
			"host udp client:%d > node:30080", "a udp a:%d > client:53", "a error a > vip about udp vip:80 > a:%d",
			"a udp a:%d > vip:80 first", "c udp c:%d > vip:80",
		} {
			by, what, _ := strings.Cut(row, " ")
			for port := range 64 {
				packets = append(packets, onTrunk(worldPorts[by], w.build(fmt.Sprintf(what, 2000+port))))
			}
		}
		at := 0
		pass := func() {
			for range 64 {
				w.rings[1].Inject(packets[at*37%len(packets)])
				at++
			}
			w.now += 1e7
			w.worker.Poll(w.now)
			for _, ring := range w.rings {
				ring.Drain(func([]byte, bool) {})
			}
		}
		w.worker.observe = nil
		for range 200 {
			pass()
		}
		if n := testing.AllocsPerRun(300, pass); n != 0 {
			t.Errorf("ipv6 %v: %v allocations a pass", v6, n)
		}
		if totals := w.checkLedger(); totals.Get(ledger.ByReason(verdict.Routed)) == 0 {
			t.Error("nothing was let through")
		}
	}
}
