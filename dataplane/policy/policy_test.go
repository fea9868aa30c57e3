// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
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

func genQuery(t *rapid.T, n naive, local []identity.ID) *policy.Query {
	q := &policy.Query{
		Src: packet.AddrFrom(genAddr(t)), Dst: packet.AddrFrom(genAddr(t)),
		Proto:    pick[packet.IPProto](t, 6, 17, 132, 1, 58, 50),
		FromNode: rapid.IntRange(0, 5).Draw(t, "from node") == 0, ToNode: rapid.IntRange(0, 5).Draw(t, "to node") == 0,
		Port: 1, Now: 1,
	}
	if transport(q.Proto) {
		q.DstPort = uint16(pick(t, append([]uint32{79, 82, 1000}, ports...)...))
	}
	here := func(a packet.Addr) bool {
		id := identity.ID(n.identity(a.Netip()).GetId())
		return id == 0 || slices.Contains(local, id)
	}
	q.Egress, q.Ingress = here(q.Src), here(q.Dst)
	return q
}

// same compares what a table says with what the list says.
func same(t *rapid.T, table *policy.Table, n naive, q *policy.Query, what string) {
	v := table.Judge(q)
	reason, want := n.judge(q, false)
	if got := saidOf(table, v.Reason, v.Rule); v.Reason != reason || got != want {
		t.Fatalf("%s: %+v is %s %+v, want %s %+v", what, q, v.Reason, got, reason, want)
	}
	enforced := want
	reason, want = n.judge(q, true)
	if !v.Staged.Asked {
		if want != enforced {
			t.Fatalf("%s: staged: %+v was not asked, and is %+v, not %+v", what, q, want, enforced)
		}
		return
	}
	denied := v.Staged.Denied == (reason != verdict.None)
	if got := saidOf(table, reason, v.Staged.Rule); !denied || got != want {
		t.Fatalf("%s: staged: %+v is %+v, want %+v", what, q, got, want)
	}
}

// explained checks that an explanation ends with its verdict, wherever the ends are.
func explained(t *rapid.T, table *policy.Table, n naive, q *policy.Query) {
	x := table.Explain(q)
	reason, want := n.judge(q, false)
	if got := saidOf(table, x.Verdict.Reason, x.Verdict.Rule); x.Verdict.Reason != reason || got != want {
		t.Fatalf("explained: %+v is %s %+v, want %s %+v", q, x.Verdict.Reason, got, reason, want)
	}
	if !q.Egress && !q.Ingress {
		return
	}
	id, found := x.Verdict.Rule, false
	for _, s := range x.Steps {
		found = found || s.ID == id && !s.Staged
	}
	if last := x.Steps[len(x.Steps)-1]; !found || reason != verdict.None && last.ID != id {
		t.Fatalf("the steps do not come to %+v: %v", want, x.Steps)
	}
	for i, w := range []policy.Who{x.Src, x.Dst} {
		for _, s := range n.PeerSets {
			if is := n.inSet(s, w.Addr.Netip(), i == 1); slices.Contains(w.Sets, s.Id) != is {
				t.Fatalf("%s in set %d: %v, want %v", w.Addr, s.Id, !is, is)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Tables that Build makes and tables that Update makes say what a scan of the lists says, and stay what they were.
func TestTableIsTheList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store := names.NewStore(4, 256)
		n := naive{genSnapshot(t, &api.Snapshot{}), map[netip.Addr][]string{}}
		ids := must(identity.Build(n.Snapshot))
		local := localOf(t, n.Snapshot)
		table := must(policy.Build(n.Snapshot, ids, local))
		for range rapid.IntRange(1, 5).Draw(t, "deltas") {
			for range 3 {
				a, name := genAddr(t), pick(t, someName...)
				store.Learn(everything, 1, answer(name, 3600, a), 1)
				if !slices.Contains(n.known[a], name) {
					n.known[a] = append(n.known[a], name)
				}
			}
			before, was, wasLocal := table, n, local
			next := genSnapshot(t, n.Snapshot)
			d := api.Difference(n.Snapshot, next)
			n.Snapshot = must(d.Apply(n.Snapshot))
			ids, local = must(ids.Update(d)), localOf(t, next)
			table = must(table.Update(n.Snapshot, d, ids, local))
			anew := must(policy.Build(n.Snapshot, must(identity.Build(n.Snapshot)), local))
			for range 15 {
				q := genQuery(t, n, local)
				q.Names = store
				same(t, table, n, q, "updated")
				same(t, anew, n, q, "built")
				q.Egress, q.Ingress = rapid.Bool().Draw(t, "egress"), rapid.Bool().Draw(t, "ingress")
				explained(t, table, n, q)
				q = genQuery(t, was, wasLocal)
				q.Names = store
				same(t, before, was, q, "before")
			}
		}
	})
}
