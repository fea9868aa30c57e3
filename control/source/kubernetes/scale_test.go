// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/viaduct-net/viaduct/control/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fake of the API server that knows one verb: the watch that begins with all there is.
type crowd struct{ nodes, pods, routes int }

func (c crowd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	resource := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	count := map[string]int{"nodes": c.nodes, "pods": c.pods, "routes": c.routes, "nodeconfigs": c.nodes}[resource]
	for i := range count {
		fmt.Fprintf(out, `{"type":"ADDED","object":%s}`+"\n", object(resource, i, c.nodes))
	}
	header := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/apis/"), "/api/")
	header = header[:strings.LastIndexByte(header, '/')]
	fmt.Fprintf(out, `{"type":"BOOKMARK","object":{"apiVersion":%q,"kind":%q,"metadata":{"resourceVersion":"9",`+
		`"annotations":{"k8s.io/initial-events-end":"true"}}}}`+"\n", header, kinds[resource])
	_ = out.Flush()
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

var kinds = map[string]string{"nodes": "Node", "pods": "Pod", "routes": "Route", "nodeconfigs": "NodeConfig",
	"namespaces": "Namespace", "services": "Service", "endpointslices": "EndpointSlice", "servicecidrs": "ServiceCIDR",
	"networkpolicies": "NetworkPolicy", "clusternetworkpolicies": "ClusterNetworkPolicy"}

// ballast is what real objects have, and is not kept.
var ballast = `"resourceVersion":"7",` +
	`"managedFields":[{"manager":"kubelet","operation":"Update","fieldsV1":{"f:status":{` +
	strings.Repeat(`"f:something":{".":{},"f:more":{}},`, 40) + `"f:end":{}}}}]`

func object(resource string, i, nodes int) string {
	node := i % nodes
	switch resource {
	case "nodes":
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-%d",%s},"spec":{"podCIDRs":`+
			`["10.%d.%d.0/24"]},"status":{"addresses":[{"type":"InternalIP","address":"192.168.%d.%d"}]}}`,
			i, ballast, i>>8, i&255, i>>8, i&255)
	case "pods":
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pod-%d","namespace":"ns-%d","labels":`+
			`{"app":"a-%d","tier":"t-%d"},%s},"spec":{"nodeName":"node-%d","containers":[{"name":"c","image":"i","ports":`+
			`[{"name":"http","containerPort":80}]}]},"status":{"phase":"Running","podIPs":[{"ip":"10.%d.%d.%d"}]}}`,
			i, i%5000, i%500, i%3, ballast, node, node>>8, node&255, 2+i/nodes)
	case "routes":
		return fmt.Sprintf(`{"apiVersion":"viaduct.dev/v1alpha1","kind":"Route","metadata":{"name":"route-%d",%s},`+
			`"spec":{"node":"node-%d","destination":"100.%d.%d.0/24","type":"forward","nextHops":[{"via":"192.168.0.1"}]}}`,
			i, ballast, node, 64+(i>>8), i&255)
	}
	const config = `{"apiVersion":"viaduct.dev/v1alpha1","kind":"NodeConfig","metadata":{"name":"node-%d"},"spec":{}}`
	return fmt.Sprintf(config, i)
}

// firstState runs a source until it has said its first state, and returns what is left of it.
func firstState(t testing.TB, c crowd) (objects int) {
	server := httptest.NewServer(c)
	defer server.Close()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf(`{apiVersion: v1, kind: Config, clusters: [{name: a, cluster: {server: %q}}],
		contexts: [{name: a, context: {cluster: a}}], current-context: a}`, server.URL)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := New(Options{Kubeconfig: path, Node: "node-1"})
	err := s.Run(ctx, func(e source.Event) {
		if e.Trouble != "" || len(e.Errors) > 0 {
			t.Errorf("trouble %q, errors %v", e.Trouble, e.Errors)
		}
		if e.Whole {
			objects = len(e.Set)
			stop()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(s)
	return objects
}

func TestFirstState(t *testing.T) {
	c := crowd{nodes: 10, pods: 100, routes: 200}
	if got, want := firstState(t, c), 10+100+200+10; got != want {
		t.Errorf("%d objects of %d", got, want)
	}
}

// BenchmarkFirstState is 10,000 pods on 500 nodes with 20,000 routes, as JSON and with what makes it in the process.
func BenchmarkFirstState(b *testing.B) {
	for b.Loop() {
		firstState(b, crowd{nodes: 500, pods: 10_000, routes: 20_000})
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	var peak float64
	if at := strings.Index(string(status), "VmHWM:"); at >= 0 {
		_, _ = fmt.Sscan(string(status)[at+len("VmHWM:"):], &peak)
	}
	b.ReportMetric(peak/1024, "peak-MiB")
}
