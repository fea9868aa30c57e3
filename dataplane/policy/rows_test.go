// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/packet"
)

// row is a flow, whether it may be, and what decides: "policy/rule".
type row struct {
	src, dst string
	proto    packet.IPProto
	port     uint16
	allowed  bool
	by       string
}

const (
	protoTCP, protoUDP, protoSCTP = packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP
	protoICMP, protoESP           = packet.ProtoICMP, packet.ProtoESP
)

var rows = []struct {
	name     string
	policies []*api.Policy
	flows    []row
}{
	{"no policy", nil, []row{{"client", "web", protoTCP, 80, true, "/default"}, {"web", "outside", protoTCP, 80,
		true, "/default"}}},
	{"isolated without rules", []*api.Policy{isolate("a", web)}, []row{
		{"client", "web", protoTCP, 80, false, "a/isolated"}, {"web", "client", protoTCP, 80, false, "a/isolated"},
		{"client", "db", protoTCP, 80, true, "/default"}, {"web", "web", protoTCP, 80, true, "/self"},
		{"node", "web", protoTCP, 80, true, "/node"}, {"web", "node", protoTCP, 80, true, "/node"},
		{"other", "web", protoTCP, 80, false, "a/isolated"}, {"web", "other", protoTCP, 80, false, "a/isolated"},
	}},
	{"one direction", []*api.Policy{networkPolicy("a", web, from(client, allow))}, []row{
		{"client", "web", protoTCP, 80, true, "a/rule"}, {"db", "web", protoTCP, 80, false, "a/isolated"},
		{"web", "db", protoTCP, 80, true, "/default"},
	}},
	{"both ends must allow", []*api.Policy{networkPolicy("a", web, to(db, allow)), networkPolicy("b", db,
		from(client, allow))},
		[]row{{"web", "db", protoTCP, 80, false, "b/isolated"}, {"web", "client", protoTCP, 80, false, "a/isolated"},
			{"client", "db", protoTCP, 80, true, "b/rule"}}},
	{"policies add up", []*api.Policy{networkPolicy("a", web, from(client, allow)), networkPolicy("b", pods,
		from(db, allow))},
		[]row{{"client", "web", protoTCP, 1, true, "a/rule"}, {"db", "web", protoTCP, 1, true, "b/rule"},
			{"client", "db", protoTCP, 1, false, "b/isolated"}}},
	{"ports", []*api.Policy{networkPolicy("a", web, from(client, allow, tcp(80, 90), sctp(7, 7)))}, []row{
		{"client", "web", protoTCP, 79, false, "a/isolated"}, {"client", "web", protoTCP, 80, true, "a/rule"},
		{"client", "web", protoTCP, 90, true, "a/rule"}, {"client", "web", protoTCP, 91, false, "a/isolated"},
		{"client", "web", protoUDP, 80, false, "a/isolated"}, {"client", "web", protoSCTP, 7, true, "a/rule"},
		{"client", "web", protoSCTP, 80, false, "a/isolated"}, {"client", "web", protoICMP, 0, false, "a/isolated"},
	}},
	{"any port", []*api.Policy{networkPolicy("a", web, from(client, allow))}, []row{
		{"client", "web", protoICMP, 0, true, "a/rule"}, {"client", "web", protoESP, 0, true, "a/rule"},
		{"client", "web", protoSCTP, 65535, true, "a/rule"},
	}},
	{"every protocol", []*api.Policy{networkPolicy("a", web, from(client, allow, every(0, 100))),
		networkPolicy("b", db, from(client, allow, every(0, 65535)))}, []row{
		{"client", "web", protoTCP, 100, true, "a/rule"}, {"client", "web", protoUDP, 101, false, "a/isolated"},
		{"client", "web", protoICMP, 0, false, "a/isolated"}, {"client", "db", protoICMP, 0, true, "b/rule"},
		{"client", "db", protoESP, 0, true, "b/rule"},
	}},
	{"all ports of a protocol", []*api.Policy{networkPolicy("a", web, from(client, allow, udp(0, 65535)))}, []row{
		{"client", "web", protoUDP, 65535, true, "a/rule"}, {"client", "web", protoUDP, 0, true, "a/rule"},
		{"client", "web", protoTCP, 80, false, "a/isolated"}, {"client", "web", protoICMP, 0, false, "a/isolated"},
	}},
	{"named ports into the subject", []*api.Policy{networkPolicy("a", pods, from(anyone, allow, port(6, "http")))}, []row{
		{"client", "web", protoTCP, 8080, true, "a/rule"}, {"client", "db", protoTCP, 9090, true, "a/rule"},
		{"client", "web", protoTCP, 9090, false, "a/isolated"}, {"client", "db", protoTCP, 8080, false, "a/isolated"},
		{"client", "web", protoUDP, 8080, false, "a/isolated"},
	}},
	{"named ports of the peer", []*api.Policy{networkPolicy("a", web, to(pods, allow, port(0, "http"))),
		networkPolicy("b", db, to(anyone, allow, port(0, "dns")))}, []row{
		{"web", "db", protoTCP, 9090, true, "a/rule"}, {"web", "db", protoTCP, 8080, false, "a/isolated"},
		{"web", "client", protoTCP, 8080, false, "a/isolated"}, {"db", "web", protoUDP, 53, true, "b/rule"},
		{"db", "web", protoTCP, 53, false, "b/isolated"}, {"db", "outside", protoUDP, 53, false, "b/isolated"},
	}},
	{"name of another protocol", []*api.Policy{networkPolicy("a", web, from(anyone, allow, port(6, "dns")))}, []row{
		{"client", "web", protoUDP, 53, false, "a/isolated"}, {"client", "web", protoTCP, 53, false, "a/isolated"},
	}},
	{"blocks", []*api.Policy{networkPolicy("a", web, to(subnet, allow)), networkPolicy("b", db, to(wide, allow))}, []row{
		{"web", "outside", protoTCP, 1, true, "a/rule"}, {"web", "excepted", protoTCP, 1, false, "a/isolated"},
		{"web", "client", protoTCP, 1, true, "a/rule"}, {"web", "db", protoTCP, 1, false, "a/isolated"},
		{"db", "excepted", protoTCP, 1, true, "b/rule"}, {"db", "outside", protoTCP, 1, true, "b/rule"},
	}},
	{"rules that match nothing", []*api.Policy{admin("a", 1, web, &api.PolicyRule{Action: deny, AnyPort: true},
		&api.PolicyRule{Action: deny, AnyPeer: true})}, []row{{"client", "web", protoTCP, 1, true, "/default"}}},
	{"admin before the rest", []*api.Policy{
		admin("a", 1, web, from(client, allow)), admin("z", 0, web, from(client, deny, tcp(1, 1)), from(db, pass)),
		admin("y", 5, web, from(db, deny)), networkPolicy("n", web, from(db, allow, tcp(5, 5))),
		baseline("b", web, from(anyone, allow)),
	}, []row{
		{"client", "web", protoTCP, 1, false, "z/rule"}, {"client", "web", protoTCP, 2, true, "a/rule"},
		{"db", "web", protoTCP, 5, true, "n/rule"}, {"db", "web", protoTCP, 6, false, "n/isolated"},
		{"outside", "web", protoTCP, 6, false, "n/isolated"},
	}},
	{"equal priorities by name", []*api.Policy{admin("b", 1, web, from(client, allow)), admin("a", 1, web,
		from(client, deny))},
		[]row{{"client", "web", protoTCP, 1, false, "a/rule"}}},
	{"baseline", []*api.Policy{
		baseline("a", pods, from(client, allow, tcp(1, 1)), from(client, pass, tcp(2, 2)), from(anyone, deny)),
		networkPolicy("n", db, from(client, allow)),
	}, []row{
		{"client", "web", protoTCP, 1, true, "a/rule"}, {"client", "web", protoTCP, 2, true, "/default"},
		{"client", "web", protoTCP, 3, false, "a/rule"}, {"client", "db", protoTCP, 3, true, "n/rule"},
		{"outside", "db", protoTCP, 1, false, "n/isolated"}, {"node", "web", protoTCP, 1, false, "a/rule"},
		{"node", "db", protoTCP, 1, true, "/node"},
	}},
	{"cluster policy and nodes", []*api.Policy{admin("a", 1, web, to(nodes, deny, tcp(10250, 10250)))}, []row{
		{"web", "node", protoTCP, 10250, false, "a/rule"}, {"web", "other", protoTCP, 10250, false, "a/rule"},
		{"web", "node", protoTCP, 1, true, "/default"},
	}},
	{"the node as a subject", []*api.Policy{baseline("a", thisNode, from(anyone, deny), to(anyone, deny))}, []row{
		{"outside", "node", protoTCP, 22, true, "/fail-safe"}, {"outside", "node", protoTCP, 23, false, "a/rule"},
		{"node", "outside", protoUDP, 53, true, "/fail-safe"}, {"node", "outside", protoTCP, 22, false, "a/rule"},
	}},
	{"fail-safe ports are the node's end alone", []*api.Policy{admin("a", 1, web, to(nodes, deny))}, []row{
		{"web", "node", protoTCP, 22, false, "a/rule"},
	}},
	{"pass from both ordered tiers", []*api.Policy{admin("a", 1, web, from(client, pass)), admin("b", 2, web,
		from(client, deny)),
		baseline("c", web, from(client, deny))}, []row{{"client", "web", protoTCP, 1, false, "c/rule"}}},
}

func TestRows(t *testing.T) {
	for _, group := range rows {
		s := worldOf(group.policies...)
		s.Node.FailSafeIngress = []*api.PortRange{tcp(22, 22)}
		s.Node.FailSafeEgress = []*api.PortRange{udp(53, 53)}
		table, list := tableOf(s), naive{Snapshot: s}
		for _, r := range group.flows {
			for _, v6 := range []bool{false, true} {
				q := flow(r.src, r.dst, r.proto, r.port, v6)
				v := table.Judge(q)
				got := saidOf(table, v.Reason, v.Rule)
				if by := got.policy + "/" + got.rule; got.allowed != r.allowed || by != r.by {
					t.Errorf("%s: %s to %s %d/%d, IPv6 %v: %v by %s, want %v by %s",
						group.name, r.src, r.dst, r.proto, r.port, v6, got.allowed, by, r.allowed, r.by)
				}
				if _, scan := list.judge(q, false); scan != got {
					t.Errorf("%s: the scan says %+v, the table %+v", group.name, scan, got)
				}
				if x := table.Explain(q); x.Verdict != v {
					t.Errorf("%s: explained as %+v, judged %+v", group.name, x.Verdict, v)
				}
			}
		}
	}
}

// Flows that no policy is asked about, and two addresses of one station.
func TestUnasked(t *testing.T) {
	table := tableOf(worldOf(isolate("a", pods)))
	q := flow("client", "outside", protoTCP, 1, false)
	if v := table.Judge(q); v.Reason != 0 {
		t.Errorf("between strangers: %+v", v)
	}
	q = flow("web", "db", protoTCP, 1, false)
	q.Self = true
	if v := table.Judge(q); v.Reason != 0 {
		t.Errorf("to itself: %+v", v)
	}
	q = flow("client", "outside", protoTCP, 1, false)
	q.Egress = true // of an identity that the table was not told of
	if v := table.Judge(q); v.Reason == 0 {
		t.Error("a station of unknown policy may send")
	}
	if x := table.Explain(q); x.Verdict.Reason == 0 || fmt.Sprint(x.Steps) !=
		"[egress: Namespace: a: no rule matches egress: Namespace: a isolates the end, and no rule allows: deny]" {
		t.Errorf("as on its own node: %+v", x)
	}
}

func TestStaged(t *testing.T) {
	table := tableOf(worldOf(staged(isolate("a", web)), networkPolicy("b", db, from(web, allow))))
	v := table.Judge(flow("client", "web", protoTCP, 1, false))
	by := saidOf(table, 1, v.Staged.Rule).policy
	if v.Reason != 0 || v.Rule != 0 || !v.Staged.Asked || !v.Staged.Denied || by != "a" {
		t.Errorf("%+v", v)
	}
	if v := table.Judge(flow("client", "db", protoTCP, 1, false)); v.Reason == 0 || v.Staged.Asked {
		t.Errorf("no staged policy selects it: %+v", v)
	}
	// One that allows what the others deny.
	table = tableOf(worldOf(isolate("a", web), staged(networkPolicy("b", web, from(client, allow)))))
	v = table.Judge(flow("client", "web", protoTCP, 1, false))
	if s := saidOf(table, 0, v.Staged.Rule); v.Reason == 0 || v.Staged.Denied || s.policy != "b" {
		t.Errorf("%+v", v)
	}
}
