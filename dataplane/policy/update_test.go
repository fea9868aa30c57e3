// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
)

// Updates that have nothing to do with policy give the same table; all others another generation. Rules of policies
// that stay keep their numbers.
func TestGenerationsAndNumbers(t *testing.T) {
	s := worldOf(networkPolicy("b", web, from(client, allow)), networkPolicy("c", db, from(client, allow)))
	ids, local := must(identity.Build(s)), []identity.ID{idWeb, idDB, idNode}
	table := must(policy.Build(s, ids, local))
	if table.Generation == 0 {
		t.Error("generation 0")
	}
	if same := must(table.Update(s, &api.Delta{Set: &api.Snapshot{Routes: []*api.Route{{}}}}, ids, local)); same != table {
		t.Error("routes made another table")
	}
	let := table.Judge(flow("client", "web", protoTCP, 1, false)).Rule
	denied := table.Judge(flow("db", "web", protoTCP, 1, false)).Rule
	d := &api.Delta{Base: 1, Set: &api.Snapshot{Epoch: 2, Policies: []*api.Policy{isolate("a", web)}},
		RemovedPolicies: []string{"c"}}
	next := must(d.Apply(s))
	is := must(table.Update(next, d, ids, local))
	if is == table || is.Generation == table.Generation {
		t.Error("the same generation after another policy")
	}
	if now := is.Judge(flow("client", "web", protoTCP, 1, false)).Rule; now != let {
		t.Errorf("rule %d is %d now", let, now)
	}
	if p, r, text := is.Rule(let); p.GetName() != "b" || r.GetName() != "rule" || text != "" {
		t.Errorf("%v %v %q", p, r, text)
	}
	if p, r, text := is.Rule(denied); p.GetName() != "b" || r != nil || text == "" {
		t.Errorf("%v %v %q", p, r, text)
	}
	gone := table.Judge(flow("client", "db", protoTCP, 1, false)).Rule
	if p, _, text := is.Rule(gone); p != nil || text != "a rule that is gone" {
		t.Errorf("%v %q", p, text)
	}
	if v := is.Judge(flow("client", "db", protoTCP, 1, false)); v.Rule != policy.RuleDefault {
		t.Errorf("a policy that is gone: %+v", v)
	}
	if more := must(is.Update(next, &api.Delta{}, ids, local[:1])); more.Generation == is.Generation {
		t.Error("the same generation for other stations")
	}
}

// Judge does not allocate, whatever the policies.
func TestJudgeDoesNotAllocate(t *testing.T) {
	s := worldOf(
		admin("a", 1, pods, from(client, pass, tcp(1, 9)), to(subnet, pass)),
		networkPolicy("b", web, from(wide, allow, port(6, "http")), to(names1, allow), to(pods, allow, port(0, "http"))),
		staged(isolate("c", web)), baseline("d", pods, from(anyone, deny), to(anyone, deny)),
	)
	table, store := tableOf(s), names.NewStore(4, 16)
	if !table.HasDomains() || !table.WantsDNS() {
		t.Error("no domain names")
	}
	store.Learn(table.Domains(), 1, answer("www.example.com", 10, addr("outside", false)), 1)
	ends := [][2]string{{"client", "web"}, {"web", "db"}, {"web", "outside"}, {"node", "web"}, {"web", "web"}}
	for _, ends := range ends {
		q := flow(ends[0], ends[1], protoTCP, 9090, false)
		q.Names = store
		if n := testing.AllocsPerRun(100, func() { table.Judge(q) }); n != 0 {
			t.Errorf("%s to %s: %v allocations", ends[0], ends[1], n)
		}
	}
}

// Names let flows out while answers hold, and flows that exist for longer; to the station that asked alone.
func TestDomains(t *testing.T) {
	table, store := tableOf(worldOf(networkPolicy("a", web, to(names1, allow, tcp(443, 443))))), names.NewStore(4, 16)
	q := flow("web", "outside", protoTCP, 443, true)
	judge := func(name string, allowed bool) {
		t.Helper()
		if v := table.Judge(q); allowed != (v.Reason == 0) {
			t.Errorf("%s: %+v", name, v)
		}
	}
	judge("no store", false)
	q.Names = store
	judge("before the answer", false)
	store.Learn(table.Domains(), q.Port, answer("www.example.com", 10, addr("outside", true)), q.Now)
	judge("after it", true)
	if x := table.Explain(q); len(x.Dst.Sets) == 0 || x.Verdict.Reason != 0 {
		t.Errorf("%+v", x)
	}
	q.DstPort = 80
	judge("another port", false)
	q.DstPort, q.Port = 443, 2
	judge("another station", false)
	q.Port, q.Now = 1, 1e12
	judge("when it has expired", false)
	q.Existing = true
	judge("a flow from before", true)
}

// Ports that get another name, and stations that leave, have other classes.
func TestStationsChange(t *testing.T) {
	s := worldOf(networkPolicy("a", pods, from(client, allow, port(6, "http"))))
	ids, local := must(identity.Build(s)), []identity.ID{idWeb, idDB}
	table := must(policy.Build(s, ids, local))
	web := &api.Identity{Id: idWeb, Kind: api.Identity_KIND_POD,
		NamedPorts: []*api.NamedPort{{Name: "http", Protocol: 6, Port: 1234}}}
	d := &api.Delta{Base: 1, Set: &api.Snapshot{Epoch: 2, Identities: []*api.Identity{web}}}
	next := must(d.Apply(s))
	is := must(table.Update(next, d, must(ids.Update(d)), local))
	for port, allowed := range map[uint16]bool{8080: false, 1234: true} {
		if v := is.Judge(flow("client", "web", protoTCP, port, true)); allowed != (v.Reason == 0) {
			t.Errorf("port %d: %+v", port, v)
		}
		if v := table.Judge(flow("client", "web", protoTCP, port, true)); allowed == (v.Reason == 0) {
			t.Errorf("port %d before: %+v", port, v)
		}
	}
	is = must(table.Update(next, d, must(ids.Update(d)), local[1:]))
	if v := is.Judge(flow("client", "web", protoTCP, 1234, true)); v.Rule != policy.RuleStrange {
		t.Errorf("a station that left: %+v", v)
	}
}
