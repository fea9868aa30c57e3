// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/etcd/etcdtest"
)

// poll looks until the condition holds: etcd tells nobody when it drops keys of ended leases but by a watch, which is
// what is tested.
func poll(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// expectStatus waits until these, and no others, are the keys of statuses, and returns their values.
func expectStatus(t *testing.T, server *etcdtest.Server, keys ...string) map[string]string {
	t.Helper()
	var found map[string]string
	defer func() {
		if t.Failed() {
			t.Log(cmp.Diff(keys, slices.Sorted(maps.Keys(found))))
		}
	}()
	poll(t, strings.Join(keys, ", "), func() bool {
		found = server.Get("/viaduct/status")
		return slices.Equal(slices.Sorted(maps.Keys(found)), keys)
	})
	return found
}

func object(name string) *model.Object {
	return &model.Object{Key: model.Key{Kind: "Route", Name: name}}
}

func refused(name string) source.Status {
	return source.Status{Object: object(name), Field: "spec.nextHops[0].port", Message: "there is no port x"}
}

// publishing runs a source that publishes for node a, with a short lease.
func publishing(t *testing.T, endpoint string) *running {
	t.Helper()
	return run(t, Options{Endpoints: []string{endpoint}, Node: "a", TTL: time.Second})
}

func TestStatus(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Put("/viaduct/status/a/Route/left", "by an earlier process", "/viaduct/status/ab", "another node's",
		route("b"), blackhole("b", "10.0.0.0/8"))
	r := publishing(t, server.Endpoint)
	expectStatus(t, server, "/viaduct/status/a", "/viaduct/status/ab")
	server.Delete("/viaduct/status/ab")

	pod := &model.Object{Key: model.Key{Kind: "Pod", Namespace: "ns", Name: "p"}}
	r.Publish(source.Report{Node: "a", Epoch: 7, Statuses: []source.Status{
		refused("a"), refused("b"), {Object: object("c"), Applied: true}, {Object: pod, Message: "no"},
	}})
	found := expectStatus(t, server, "/viaduct/status/a", "/viaduct/status/a/Pod/ns/p",
		"/viaduct/status/a/Route/a", "/viaduct/status/a/Route/b")
	const want = `{"applied":false,"field":"spec.nextHops[0].port","message":"there is no port x","epoch":7}`
	if got := found["/viaduct/status/a/Route/a"]; got != want {
		t.Errorf("status of Route a: %s", got)
	}
	epoch := func() uint64 {
		var node nodeStatus
		if err := json.Unmarshal([]byte(server.Get("/viaduct/status/a")["/viaduct/status/a"]), &node); err != nil ||
			node.Node != "a" || node.Updated.IsZero() {
			t.Fatalf("status of the node: %+v, %v", node, err)
		}
		return node.Epoch
	}
	poll(t, "epoch 7", func() bool { return epoch() == 7 })

	r.Publish(source.Report{Node: "a", Epoch: 8, Statuses: []source.Status{{Object: object("a"), Applied: true}}})
	expectStatus(t, server, "/viaduct/status/a", "/viaduct/status/a/Pod/ns/p", "/viaduct/status/a/Route/b")
	poll(t, "epoch 8", func() bool { return epoch() == 8 })
	server.Delete(route("b")) // with the object its status goes
	expectStatus(t, server, "/viaduct/status/a", "/viaduct/status/a/Pod/ns/p")
	r.stop()
	if left := server.Get("/viaduct/status"); len(left) > 0 {
		t.Errorf("after a clean stop there are %v", left)
	}
}

// TestStatusOfTheDead: what a node that dies has published ends with its lease; when it was cut off only, it is
// written again.
func TestStatusOfTheDead(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	proxy := etcdtest.NewProxy(t, server)
	r := publishing(t, proxy.Endpoint)
	r.Publish(source.Report{Node: "a", Epoch: 7, Statuses: []source.Status{refused("a")}})
	both := []string{"/viaduct/status/a", "/viaduct/status/a/Route/a"}
	expectStatus(t, server, both...)
	proxy.Cut()
	expectStatus(t, server)
	proxy.Mend()
	expectStatus(t, server, both...)
	proxy.Cut()
	r.stop() // cannot take back what it has published
	expectStatus(t, server)
}

// TestStatusIsKeptAlive: for several times the lease's length.
func TestStatusIsKeptAlive(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	watch := server.Client().Watch(t.Context(), "/viaduct/status/a")
	publishing(t, server.Endpoint)
	expectStatus(t, server, "/viaduct/status/a")
	for end := time.After(6 * time.Second); ; {
		select {
		case r := <-watch:
			for _, e := range r.Events {
				if !e.IsCreate() {
					t.Fatalf("written again, or gone: %v", e)
				}
			}
		case <-end:
			return
		}
	}
}

// TestStatusAfterReset: etcd comes back empty, and knows nothing of our lease.
func TestStatusAfterReset(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	r := publishing(t, server.Endpoint)
	r.Publish(source.Report{Node: "a", Epoch: 7, Statuses: []source.Status{refused("a")}})
	both := []string{"/viaduct/status/a", "/viaduct/status/a/Route/a"}
	expectStatus(t, server, both...)
	server.Reset()
	server.Restart()
	expectStatus(t, server, both...)
}

// TestStatusNotAllowed: who may not write reads all the same.
func TestStatusNotAllowed(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	server.Put("/other/Route/a", blackhole("a", "10.0.0.0/8"))
	reader := etcdtest.Login{User: "reader", Password: "secret"}
	server.EnableReadOnly("/other", reader)
	r := run(t, Options{Endpoints: []string{server.Endpoint}, Prefix: "/other", Node: "a",
		User: reader.User, Password: reader.Password})
	r.expect(t, "Route a 10.0.0.0/8")
	poll(t, "a log entry", func() bool { return r.logged("status is not written") == 1 })
	r.expect(t, "Route a 10.0.0.0/8")
}

// TestStatusOfWhatDoesNotDecode: it is the node's to say unless the object is another's, until it is put right or gone.
func TestStatusOfWhatDoesNotDecode(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	broken := func(name, node string) string {
		return "apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: " + name +
			"}\nspec: {node: " + node + ", destination: x}"
	}
	server.Put(route("all"), broken("all", `""`), route("ours"), broken("ours", "a"),
		route("theirs"), broken("theirs", "b"),
		"/viaduct/NodeConfig/b", "{}", "/viaduct/NodeConfig/default", "{}", "/viaduct/no/key/of/an/object", "{}")
	r := publishing(t, server.Endpoint)
	found := expectStatus(t, server, "/viaduct/status/a", "/viaduct/status/a/NodeConfig/default",
		"/viaduct/status/a/Route/all", "/viaduct/status/a/Route/ours")
	if got := found["/viaduct/status/a/Route/all"]; !strings.Contains(got, `"field":"spec.destination"`) {
		t.Errorf("status of Route all: %s", got)
	}
	server.Put(route("ours"), blackhole("ours", "10.0.0.0/8"))
	server.Delete(route("all"), "/viaduct/NodeConfig/default")
	expectStatus(t, server, "/viaduct/status/a")
	r.Publish(source.Report{Node: "a", Epoch: 1, Statuses: []source.Status{refused("ours")}})
	expectStatus(t, server, "/viaduct/status/a", "/viaduct/status/a/Route/ours")
	r.Publish(source.Report{Node: "a", Epoch: 2, Statuses: []source.Status{{Object: object("ours"), Gone: true}}})
	expectStatus(t, server, "/viaduct/status/a")
}

// TestStatusBesideOneTooLarge: a key that etcd does not take keeps no other away, and is said once.
func TestStatusBesideOneTooLarge(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	r := publishing(t, server.Endpoint)
	long := refused("long")
	long.Message = strings.Repeat("é", 2<<20)
	r.Publish(source.Report{Node: "a", Epoch: 1, Statuses: []source.Status{
		long, refused("a"), refused(strings.Repeat("x", 1700<<10)), refused(strings.Repeat("y", 3<<20)),
	}})
	all := []string{"/viaduct/status/a", "/viaduct/status/a/Route/a", "/viaduct/status/a/Route/long"}
	found := expectStatus(t, server, all...)
	if n := len(found[all[2]]); n > 2*longest {
		t.Errorf("a message of %d bytes", n)
	}
	r.Publish(source.Report{Node: "a", Epoch: 2, Statuses: []source.Status{refused("b")}})
	expectStatus(t, server, all[0], all[1], "/viaduct/status/a/Route/b", all[2])
	if n := r.logged("does not take a status"); n != 2 {
		t.Errorf("two keys are too large, and the log says so %d times", n)
	}
}
