// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/etcd/etcdtest"
)

const (
	compacted = "compacted"
	readAll   = "etcd was read"
)

// expectReads checks how often all keys were read, and how often for a compaction.
func (r *running) expectReads(t *testing.T, reads, compactions int) {
	t.Helper()
	if n := r.logged(readAll); n != reads {
		t.Errorf("all keys were read %d times, not %d", n, reads)
	}
	if n := r.logged(compacted); n != compactions {
		t.Errorf("%d compactions were noticed, not %d", n, compactions)
	}
}

// TestRestart: what was said stays, the trouble is said, and the watch goes on where it was.
func TestRestart(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"), route("b"), blackhole("b", "11.0.0.0/8"))
	r := follow(t, server)
	r.expect(t, "Route a 10.0.0.0/8", "Route b 11.0.0.0/8")
	server.Kill()
	r.expectTrouble(t, server.Endpoint, "connection refused")
	r.expect(t, "Route a 10.0.0.0/8", "Route b 11.0.0.0/8", "trouble")
	server.Restart()
	server.Put(route("c"), blackhole("c", "12.0.0.0/8"))
	server.Delete(route("b"))
	r.expect(t, "Route a 10.0.0.0/8", "Route c 12.0.0.0/8")
	r.expectReads(t, 1, 0)
}

// TestStartsLater: etcd need not be there first.
func TestStartsLater(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"))
	server.Stop()
	r := follow(t, server)
	r.expectTrouble(t, "connection refused")
	server.Restart()
	r.expect(t, "Route a 10.0.0.0/8")
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.events[len(r.events)-1]; !last.Whole {
		t.Errorf("the first state is not the whole: %+v", last)
	}
}

// TestMissed: changes, deletions among them, are made while the connection is cut.
func TestMissed(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, server)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"), route("b"), blackhole("b", "11.0.0.0/8"))
	r := run(t, Options{Endpoints: []string{proxy.Endpoint}})
	r.expect(t, "Route a 10.0.0.0/8", "Route b 11.0.0.0/8")
	proxy.Cut()
	r.expectTrouble(t, proxy.Endpoint)
	server.Put(route("a"), blackhole("a", "13.0.0.0/8"))
	server.Delete(route("b"))
	proxy.Mend()
	r.expect(t, "Route a 13.0.0.0/8")
	r.expectReads(t, 1, 0)
}

// TestCompacted: what was missed is compacted away.
func TestCompacted(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, server)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"), route("b"), blackhole("b", "11.0.0.0/8"),
		route("c"), blackhole("c", "12.0.0.0/8"))
	r := run(t, Options{Endpoints: []string{proxy.Endpoint}})
	r.expect(t, "Route a 10.0.0.0/8", "Route b 11.0.0.0/8", "Route c 12.0.0.0/8")
	proxy.Cut()
	r.expectTrouble(t, proxy.Endpoint)
	server.Put(route("a"), blackhole("a", "13.0.0.0/8"))
	server.Delete(route("b"))
	server.Put("/other", "moves the revision on")
	server.Compact()
	before := r.count()
	proxy.Mend()
	r.expect(t, "Route a 13.0.0.0/8", "Route c 12.0.0.0/8")
	r.expectReads(t, 2, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events[before:] {
		if e.Whole || len(e.Set) > 1 || len(e.Removed) > 1 {
			t.Errorf("more than the differences is reported: %+v", e)
		}
	}
}

// TestCompactedUnderWatch: the revision to watch from is compacted between the check and the watch.
func TestCompactedUnderWatch(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"))
	server.Put(route("a"), blackhole("a", "11.0.0.0/8"))
	server.Put(route("a"), blackhole("a", "12.0.0.0/8"))
	server.Compact()
	s, err := New(Options{Endpoints: []string{server.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	s.report = func(source.Event) {}
	s.at = position{cluster: clusterOf(t, server), next: [2]int64{1, 1}}
	if err := s.follow(t.Context(), server.Client()); err != errCompacted { //nolint:errorlint // as etcd gives it
		t.Errorf("following from a compacted revision: %v", err)
	}
}

func clusterOf(t *testing.T, server *etcdtest.Server) uint64 {
	t.Helper()
	r, err := server.Client().Get(t.Context(), "any")
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.ClusterId
}

// TestFrozen: the connection stays, but nothing answers.
func TestFrozen(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"))
	r := follow(t, server)
	r.expect(t, "Route a 10.0.0.0/8")
	server.Freeze()
	r.expectTrouble(t, "does not answer")
	server.Thaw()
	server.Put(route("a"), blackhole("a", "11.0.0.0/8"))
	r.expect(t, "Route a 11.0.0.0/8")
	r.expectReads(t, 1, 0)
}

// TestDeadEndpoint: of several endpoints one is enough.
func TestDeadEndpoint(t *testing.T) {
	t.Parallel()
	dead, server := etcdtest.Start(t), etcdtest.Start(t)
	dead.Stop()
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"))
	r := run(t, Options{Endpoints: []string{dead.Endpoint, server.Endpoint}})
	r.expect(t, "Route a 10.0.0.0/8")
	if n := r.count(); n != 1 {
		t.Errorf("%d events: trouble with one endpoint is none", n)
	}
}

// TestMembers: of three members one may go, whichever it is.
func TestMembers(t *testing.T) {
	t.Parallel()
	members := etcdtest.StartCluster(t, 3)
	members[0].Put(route("a"), blackhole("a", "10.0.0.0/8"))
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, m.Endpoint)
	}
	r := run(t, Options{Endpoints: endpoints})
	r.expect(t, "Route a 10.0.0.0/8")
	for i, m := range members {
		m.Kill()
		other := members[(i+1)%len(members)]
		other.Await()
		name, destination := fmt.Sprintf("b%d", i), fmt.Sprintf("11.%d.0.0/16", i)
		other.Put(route(name), blackhole(name, destination))
		r.wait(t, name+" without trouble", func() bool {
			return r.objects[model.Key{Kind: "Route", Name: name}] != nil && r.view.trouble == ""
		})
		m.Restart()
	}
	r.expectReads(t, 1, 0)
}

// TestCutOff: the one member that we know is cut off from the others, and may be behind them.
func TestCutOff(t *testing.T) {
	t.Parallel()
	members := etcdtest.StartCluster(t, 3)
	members[0].Put(route("a"), blackhole("a", "10.0.0.0/8"))
	r := follow(t, members[0])
	r.expect(t, "Route a 10.0.0.0/8")
	members[1].Freeze()
	members[2].Freeze()
	r.expectTrouble(t, members[0].Endpoint)
	r.expect(t, "Route a 10.0.0.0/8", "trouble")
	members[1].Thaw()
	members[2].Thaw()
	r.expect(t, "Route a 10.0.0.0/8")
	r.expectReads(t, 1, 0)
}

// TestOtherContents: another cluster is at the address when etcd comes back.
func TestOtherContents(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Put(route("a"), blackhole("a", "10.0.0.0/8"), route("b"), blackhole("b", "11.0.0.0/8"))
	r := follow(t, server)
	r.expect(t, "Route a 10.0.0.0/8", "Route b 11.0.0.0/8")
	server.Reset()
	r.expectTrouble(t)
	server.Restart()
	server.Put(route("b"), blackhole("b", "12.0.0.0/8"), route("c"), blackhole("c", "13.0.0.0/8"))
	r.expect(t, "Route b 12.0.0.0/8", "Route c 13.0.0.0/8")
}

// TestBackup: etcd comes back with an older backup, and with as many or more writes on top of it as there were.
func TestBackup(t *testing.T) {
	t.Parallel()
	for _, writes := range []int{0, 1, 2, 10} {
		t.Run(fmt.Sprint(writes), func(t *testing.T) {
			server := etcdtest.Start(t)
			server.Put(route("a"), blackhole("a", "10.0.0.0/8"))
			server.Put(route("b"), blackhole("b", "11.0.0.0/8"))
			backup := filepath.Join(t.TempDir(), "backup")
			server.Snapshot(backup)
			proxy := etcdtest.NewProxy(t, server)
			r := run(t, Options{Endpoints: []string{proxy.Endpoint}})
			r.expect(t, "Route a 10.0.0.0/8", "Route b 11.0.0.0/8")
			server.Put(route("a"), blackhole("a", "12.0.0.0/8"))
			server.Delete(route("b"))
			r.expect(t, "Route a 12.0.0.0/8")
			proxy.Cut()
			r.expectTrouble(t, proxy.Endpoint)
			cluster := clusterOf(t, server)
			server.Restore(backup)
			if clusterOf(t, server) != cluster {
				t.Error("the cluster's identifier tells the backup from the original: nothing is tested")
			}
			for i := range writes {
				server.Put("/other", fmt.Sprint(i))
			}
			proxy.Mend()
			r.expect(t, "Route a 10.0.0.0/8", "Route b 11.0.0.0/8")
			r.expectReads(t, 2, 0)
		})
	}
}
