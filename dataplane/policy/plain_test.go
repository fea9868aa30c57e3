// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/dataplane/identity"
	"github.com/viaduct-net/viaduct/dataplane/packet"
	"github.com/viaduct-net/viaduct/dataplane/policy"
	"github.com/viaduct-net/viaduct/dataplane/policy/names"
	"github.com/viaduct-net/viaduct/dataplane/verdict"
)

// plainPorts are all ports that random policies speak of, with one on either side.
func plainPorts() (list []uint16) {
	for _, p := range ports {
		for _, q := range []uint32{p - 1, p, p + 1} {
			list = append(list, uint16(q))
		}
	}
	return list
}

// namesDeny says whether a rule by domain names, which an end has to obey, does not just allow.
func (n naive) namesDeny(a netip.Addr) bool {
	domains := func(id uint32) bool {
		return slices.ContainsFunc(n.PeerSets, func(s *api.PeerSet) bool { return s.Id == id && len(s.Domains) > 0 })
	}
	return slices.ContainsFunc(n.Policies, func(p *api.Policy) bool {
		return !p.Staged && n.in(p.Subjects, a, false) && slices.ContainsFunc(p.Rules, func(r *api.PolicyRule) bool {
			return r.Direction == api.PolicyRule_DIRECTION_EGRESS && r.Action != allow && slices.ContainsFunc(r.Peers, domains)
		})
	})
}

// allowsAll says what the list of policies says of all TCP between two stations, by its ports one by one.
func (n naive) allowsAll(a, b packet.Addr) bool {
	for _, port := range plainPorts() {
		for _, ends := range [][2]packet.Addr{{a, b}, {b, a}} {
			q := &policy.Query{Src: ends[0], Dst: ends[1], Proto: packet.ProtoTCP, DstPort: port, Egress: true, Ingress: true}
			if reason, _ := n.judge(q, false); reason != verdict.None {
				return false
			}
		}
	}
	return true
}

// TestPlainIsEveryPort: two stations are plain where a scan of the lists lets every port in both directions, neither is
// selected by a staged policy, and no name may deny; and then Judge denies nothing, whatever names addresses have.
func TestPlainIsEveryPort(t *testing.T) {
	plain, not := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s := genSnapshot(t, &api.Snapshot{})
		for _, p := range s.Policies { // else most would deny something
			if rapid.IntRange(0, 2).Draw(t, "fewer") == 0 {
				p.Subjects = some(t, 1, p.Subjects)
			}
			for _, r := range p.Rules {
				if rapid.Bool().Draw(t, "allow") {
					r.Action = allow
				}
			}
		}
		n := naive{Snapshot: s, known: map[netip.Addr][]string{}}
		local := localOf(t, s)
		table := must(policy.Build(s, must(identity.Build(s)), local))
		for range 20 {
			q := genQuery(t, n, local)
			q.Proto, q.FromNode, q.ToNode = packet.ProtoTCP, false, false
			q.Egress, q.Ingress = true, true
			here := func(a packet.Addr) bool {
				id := identity.ID(n.identity(a.Netip()).GetId())
				return id == 0 || slices.Contains(local, id)
			}
			if q.Src == q.Dst || !here(q.Src) || !here(q.Dst) {
				if table.Plain(q) {
					t.Fatalf("%+v is plain", q)
				}
				continue
			}
			staged := table.Judge(q).Staged.Asked
			mayDeny := n.namesDeny(q.Src.Netip()) || n.namesDeny(q.Dst.Netip())
			all := !staged && n.allowsAll(q.Src, q.Dst)
			if got := table.Plain(q); got && !all || !got && all && !mayDeny {
				t.Fatalf("%+v is plain: %t; all is allowed: %t (staged: %t, denied by name: %t)", q, got, all, staged, mayDeny)
			} else if !got {
				not++
				continue
			}
			plain++
			neverDenied(t, table, q)
		}
	})
	t.Logf("%d pairs are plain, %d are not", plain, not)
	if plain == 0 || not == 0 {
		t.Error("some of it was not met")
	}
}

// neverDenied judges each port of a plain pair, without names and where all addresses have one.
func neverDenied(t *rapid.T, table *policy.Table, q *policy.Query) {
	for _, name := range append([]string{""}, someName...) {
		if q.Names = names.NewStore(4, 256); name != "" {
			q.Names.Learn(everything, 1, answer(name, 3600, q.Src.Netip()), 1)
			q.Names.Learn(everything, 1, answer(name, 3600, q.Dst.Netip()), 1)
		}
		for _, q.DstPort = range plainPorts() {
			for range 2 {
				q.Src, q.Dst = q.Dst, q.Src
				if v := table.Judge(q); v.Reason != verdict.None || v.Staged.Asked {
					t.Fatalf("%+v is plain and comes to %+v", q, v)
				}
			}
		}
	}
}

func TestPlain(t *testing.T) {
	several := func(n uint32) (list []*api.PortRange) { // all ports, in so many ranges
		for i := range n {
			list = append(list, tcp(i*65536/n, (i+1)*65536/n-1))
		}
		return list
	}
	rows := []struct {
		name     string
		policies []*api.Policy
		want     bool
	}{
		{"nothing", nil, true},
		{"isolated", []*api.Policy{isolate("p", web)}, false},
		{"all of both", []*api.Policy{networkPolicy("p", web, from(pods, allow), to(pods, allow))}, true},
		{"answers only", []*api.Policy{networkPolicy("p", web, from(pods, allow)), isolate("q", db)}, false},
		{"one port", []*api.Policy{networkPolicy("p", web, from(pods, allow, tcp(80, 80)))}, false},
		{"all but one", []*api.Policy{networkPolicy("p", web, from(pods, allow, tcp(0, 79), tcp(81, 65535)))}, false},
		{"all in two", []*api.Policy{networkPolicy("p", web, from(pods, allow, tcp(0, 79), tcp(80, 65535)))}, true},
		{"one port by the way", []*api.Policy{networkPolicy("p", web, from(pods, allow, tcp(80, 80)), from(db, allow))},
			true},
		{"UDP denied", []*api.Policy{admin("p", 0, web, from(db, deny, udp(0, 65535)))}, true},
		{"the last port denied", []*api.Policy{admin("p", 0, web, to(db, deny, tcp(65535, 65535)))}, false},
		{"the first port denied", []*api.Policy{admin("p", 0, web, to(db, deny, tcp(0, 0)))}, false},
		{"others denied", []*api.Policy{admin("p", 0, web, to(client, deny))}, true},
		{"passed on and isolated", []*api.Policy{admin("p", 0, web, to(db, pass)), isolate("q", web)}, false},
		{"by prefix", []*api.Policy{networkPolicy("p", db, from(subnet, allow))}, true},
		{"but not by prefix", []*api.Policy{networkPolicy("p", web, from(subnet, allow))}, false},
		{"a name of the peer's", []*api.Policy{admin("p", 0, web, to(db, deny, port(6, "http")))}, false},
		{"a name that it has not", []*api.Policy{admin("p", 0, web, to(db, deny, port(17, "http")))}, true},
		{"a name of the subject's", []*api.Policy{admin("p", 0, db, from(web, deny, port(6, "http")))}, false},
		{"staged", []*api.Policy{staged(networkPolicy("p", web, from(pods, allow)))}, false},
		{"names allowed", []*api.Policy{admin("p", 0, web, to(names1, allow))}, true},
		{"names denied", []*api.Policy{admin("p", 0, web, to(names1, deny, tcp(443, 443)))}, false},
		{"names passed on", []*api.Policy{admin("p", 0, web, to(names1, pass), to(db, allow)), isolate("q", web)}, false},
		{"ports of names", []*api.Policy{admin("p", 0, web, to(names1, deny, port(6, "x")))}, false},
		{"many ranges", []*api.Policy{admin("p", 0, web, to(db, allow, several(32)...))}, true},
		{"too many ranges", []*api.Policy{admin("p", 0, web, alternate(200)...)}, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			table := tableOf(worldOf(row.policies...))
			for _, v6 := range []bool{false, true} {
				for _, q := range []*policy.Query{flow("web", "db", 6, 80, v6), flow("db", "web", 6, 0, v6)} {
					if got := table.Plain(q); got != row.want {
						t.Errorf("%s to %s is plain: %t", q.Src, q.Dst, got)
					}
				}
			}
		})
	}
}

// alternate is rules that let ports one by one, so that each is let by another rule than its neighbours.
func alternate(n uint32) (list []*api.PolicyRule) {
	for i := range n {
		list = append(list, to(db, allow, tcp(2*i, 2*i)))
	}
	return list
}

// TestPlainIsOfPods: ends that are judged elsewhere, the node, and one station are not plain.
func TestPlainIsOfPods(t *testing.T) {
	table := tableOf(worldOf())
	for name, edit := range map[string]func(*policy.Query){
		"source elsewhere":      func(q *policy.Query) { q.Egress = false },
		"destination elsewhere": func(q *policy.Query) { q.Ingress = false },
		"from the node":         func(q *policy.Query) { q.FromNode = true },
		"to the node":           func(q *policy.Query) { q.ToNode = true },
		"one station":           func(q *policy.Query) { q.Self = true },
		"one address":           func(q *policy.Query) { q.Dst = q.Src },
	} {
		q := flow("web", "db", 6, 80, false)
		if !table.Plain(q) {
			t.Fatal("web and db are not plain")
		}
		if edit(q); table.Plain(q) {
			t.Errorf("%s: plain", name)
		}
	}
}

func TestPlainDoesNotAllocate(t *testing.T) {
	table := tableOf(worldOf(networkPolicy("p", web, from(pods, allow, tcp(80, 80)), from(db, allow), to(pods, allow)),
		admin("q", 0, db, to(web, allow, port(6, "http")), to(names1, allow))))
	q := flow("web", "db", 6, 80, false)
	if !table.Plain(q) {
		t.Fatal("web and db are not plain")
	}
	if n := testing.AllocsPerRun(100, func() { table.Plain(q) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkPlain asks between random stations, half of which may on some ports.
func BenchmarkPlain(b *testing.B) {
	for _, row := range []struct{ policies, perPod, local int }{{0, 1, 250}, {1000, 1, 250}, {10000, 10, 250},
		{10000, 10000, 250}} {
		b.Run(fmt.Sprintf("%dpolicies/%dperpod", row.policies, row.perPod), func(b *testing.B) {
			s := cluster(row.policies, row.perPod)
			t := must(policy.Build(s, must(identity.Build(s)), stations(row.local)))
			list := flows(s, 1<<12, row.local)
			for i := range list {
				list[i].Egress, list[i].Ingress = true, true
			}
			for i := 0; b.Loop(); i++ {
				t.Plain(&list[i&(len(list)-1)])
			}
		})
	}
	b.Run("allowed", func(b *testing.B) {
		t := tableOf(worldOf(networkPolicy("p", web, from(pods, allow), to(pods, allow)),
			networkPolicy("q", db, from(pods, allow), to(pods, allow))))
		q := flow("web", "db", 6, 80, false)
		for b.Loop() {
			t.Plain(q)
		}
	})
}
