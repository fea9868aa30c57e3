// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source/directory"
	"github.com/viaduct-net/viaduct/control/source/etcd/etcdtest"
)

// TestSameAsDirectory: the same manifests mean the same objects, from etcd and from a directory.
func TestSameAsDirectory(t *testing.T) {
	t.Parallel()
	manifests := map[string]string{
		"Route/a": blackhole("a", "10.0.0.0/8"),
		"Route/b": `{"apiVersion": "viaduct.dev/v1alpha1", "kind": "Route", "metadata": {"name": "b"},
			"spec": {"destination": "fd00::/8", "nextHops": [{"via": "fe80::1", "port": "left", "weight": 2}]}}`,
		"NodeConfig/a": "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: a}\n" +
			"spec:\n  podCIDRs: [10.244.1.0/24]\n  ports:\n  - {name: left, device: eth1, addresses: [10.1.0.1/24]}\n",
		"Namespace/ns": "apiVersion: v1\nkind: Namespace\nmetadata: {name: ns, labels: {team: red}}\n",
		"Node/a": "apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {podCIDRs: [10.244.1.0/24]}\n" +
			"status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n",
		"Pod/ns/p": "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns, labels: {app: web}}\n" +
			"spec: {nodeName: a, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}\n" +
			"status: {phase: Running, podIPs: [{ip: 10.244.1.2}]}\n",
		"Pod/default/q":  `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "q"}, "spec": {"nodeName": "b"}}`,
		"Service/ns/s":   "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: ns}\nspec: {ports: [{port: 80}]}\n",
		"Thing.a.b/ns/t": "apiVersion: a.b/v1\nkind: Thing\nmetadata: {name: t, namespace: ns}\nspec: {any: thing}\n",
	}
	server, dir := etcdtest.Start(t), t.TempDir()
	for key, text := range manifests {
		server.Put("/viaduct/"+key, text)
		path := filepath.Join(dir, key+".yaml")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, refused, err := directory.Read(dir)
	if err != nil || len(refused) > 0 || len(want) != len(manifests) {
		t.Fatalf("%d objects, %v, %v", len(want), refused, err)
	}
	r := follow(t, server)
	r.wait(t, "all objects", func() bool { return len(r.objects) == len(manifests) })
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range want {
		if got := r.objects[o.Key]; got == nil || !got.Same(o) {
			t.Errorf("%s: %+v in etcd, %+v in the directory", o.Key, got, o)
		}
	}
	p := r.objects[model.Key{Kind: "Pod", Namespace: "ns", Name: "p"}]
	if p != nil && p.Place.String() != "/viaduct/Pod/ns/p" {
		t.Errorf("place %s", p.Place)
	}
}
