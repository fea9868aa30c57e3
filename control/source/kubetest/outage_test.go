// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
)

func policy(t *testing.T, name, label string) *unstructured.Unstructured {
	return parseOne(t, "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: "+name+
		", namespace: default, labels: {a: "+label+"}}, spec: {podSelector: {}}}")
}

// TestOutage: what was said stays in force while the API server is away, and the source is in step soon after it is
// back: by its watches, or by a list where those lost their place.
func TestOutage(t *testing.T) {
	c := admin(t)
	c.define()
	c.apply(policy(t, "outage-stays", "one"))
	c.apply(policy(t, "outage-goes", "one"))
	c.apply(route(t, "outage-stays", `{destination: 10.2.0.0/16, type: blackhole}`))
	c.apply(route(t, "outage-goes", `{destination: 10.3.0.0/16, type: blackhole}`))
	p := newProxy(t, api.address)
	f := follow(t, p.address, "node-a")
	f.until("the first state", f.ready)

	p.set(true)
	f.until("trouble", func() bool { return strings.Contains(f.trouble, p.address) })
	if !f.has("Route", "", "outage-goes") || len(f.errs) > 0 {
		t.Errorf("away, and %v is in force", f.objects)
	}
	c.remove(policy(t, "outage-goes", "one"))
	c.remove(route(t, "outage-goes", `{}`))
	c.apply(policy(t, "outage-stays", "two"))
	c.apply(policy(t, "outage-comes", "one"))
	c.apply(route(t, "outage-stays", `{destination: 10.2.0.0/16, type: prohibit}`))
	c.apply(route(t, "outage-comes", `{destination: 10.4.0.0/16, type: prohibit}`))
	compact(t)

	p.set(false)
	f.until("all changes", func() bool {
		stays := f.get("NetworkPolicy", "default", "outage-stays")
		return f.has("NetworkPolicy", "default", "outage-comes") && f.has("Route", "", "outage-comes") &&
			!f.has("NetworkPolicy", "default", "outage-goes") && !f.has("Route", "", "outage-goes") &&
			stays.Labels["a"] == "two" && f.route("outage-stays").Type == "prohibit"
	})
	f.until("no trouble", func() bool { return f.trouble == "" })
	c.apply(policy(t, "outage-after", "one"))
	f.until("a change afterwards", func() bool { return f.has("NetworkPolicy", "default", "outage-after") })
}

// TestGone: a watch that comes back to a place that is compacted is answered with 410 Gone, and a list follows.
func TestGone(t *testing.T) {
	c := admin(t)
	c.define()
	c.apply(policy(t, "gone-stays", "one"))
	p := newProxy(t, api.address)
	f := follow(t, p.address, "node-a")
	f.until("the first state", f.ready)
	c.apply(policy(t, "gone-goes", "one")) // so that the watch is one that worked, and is taken up again
	f.until("a change", func() bool { return f.has("NetworkPolicy", "default", "gone-goes") })
	before := watchesEnded(t)

	callOff := p.delay()
	c.remove(policy(t, "gone-goes", "one"))
	c.apply(policy(t, "gone-stays", "two"))
	c.apply(policy(t, "gone-comes", "one"))
	compact(t)
	callOff()
	f.until("all changes", func() bool {
		return f.has("NetworkPolicy", "default", "gone-comes") && !f.has("NetworkPolicy", "default", "gone-goes") &&
			f.get("NetworkPolicy", "default", "gone-stays").Labels["a"] == "two"
	})
	if ended := watchesEnded(t) - before; ended < 2 {
		t.Errorf("%d watches ended: the one that was cut, and none with 410 Gone", ended)
	}
}

// TestCutAgain: however often wires are cut, no change is lost.
func TestCutAgain(t *testing.T) {
	c := admin(t)
	c.define()
	p := newProxy(t, api.address)
	f := follow(t, p.address, "node-a")
	f.until("the first state", f.ready)
	for i := range 5 {
		name := "cut-" + string(rune('a'+i))
		c.apply(route(t, name, `{destination: 10.2.0.0/16, type: blackhole}`))
		p.set(true)
		c.apply(policy(t, name, "one"))
		p.set(false)
		f.until("both", func() bool { return f.has("Route", "", name) && f.has("NetworkPolicy", "default", name) })
	}
	f.until("no trouble", func() bool { return f.trouble == "" })
}

// TestNotThereYet: a source may be started before the API server.
func TestNotThereYet(t *testing.T) {
	admin(t).define()
	p := newProxy(t, api.address)
	p.set(true)
	f := follow(t, p.address, "node-a")
	f.until("trouble", func() bool { return f.trouble != "" })
	if f.whole {
		t.Error("a state without an API server")
	}
	p.set(false)
	f.until("the first state", func() bool { return f.whole && f.trouble == "" })
}

// compact makes etcd forget what was.
func compact(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	answer, err := api.etcd.Get(ctx, "compact")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.etcd.Compact(ctx, answer.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}

var watches = regexp.MustCompile(
	`(?m)^apiserver_request_total\{.*resource="networkpolicies",scope="cluster".*verb="WATCH".* (\d+)$`)

// watchesEnded is how many watches of network policies, which it has no cache of, the API server has ended.
func watchesEnded(t *testing.T) (count int) {
	t.Helper()
	client, err := rest.HTTPClientFor(api.config(api.address, token))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get("https://" + api.address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	for _, found := range watches.FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(found[1]))
		if err != nil {
			t.Fatal(err)
		}
		count += n
	}
	return count
}
