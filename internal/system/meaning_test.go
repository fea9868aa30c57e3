// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/viaduct-net/viaduct/control/source/etcd/etcdtest"
)

// The same objects mean the same, whether they come from a directory or from etcd: the tables in force are equal, and
// so is what is refused.
func TestOneMeaning(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	want := newDesired()
	for range 300 {
		want.change(chance)
	}
	for i, text := range refusals {
		want.bad[fmt.Sprint("b", i)] = fmt.Sprintf(text, fmt.Sprint("b", i))
	}
	directory, etcd := newSite(t, programs.race), newSite(t, programs.race)
	documents := append(slices.Collect(func(yield func(string) bool) {
		for _, text := range want.documents() {
			if !yield(text) {
				return
			}
		}
	}), rest...)
	chance.Shuffle(len(documents), func(i, j int) { documents[i], documents[j] = documents[j], documents[i] })
	directory.write("all.yaml", strings.Join(documents, "---\n"))
	server := etcdtest.Start(t)
	etcd.proxy(server)
	for i, text := range documents {
		server.Put(etcdKey(t, text), form(t, i, text))
	}

	directory.startControl("--source", "dir:"+directory.manifests)
	etcd.startControl("--source", "etcd:http://"+etcdAddress)
	var said, refused []string
	for _, s := range []*site{directory, etcd} {
		s.startDataplane().ready()
		s.eventually("the routes to be in force", func() error {
			tables, err := s.tables()
			if err == nil && len(tables.routes) < len(want.routes) {
				err = fmt.Errorf("%d routes, want %d and more", len(tables.routes), len(want.routes))
			}
			return err
		})
		r, err := s.replies()
		s.must(err)
		said = append(said, r.text(t))
		status, err := s.controlStatus()
		s.must(err)
		var lines []string
		for _, e := range status.Refused {
			lines = append(lines, fmt.Sprintf("%s: %s: %s", e.Object, e.Field, e.Reason))
		}
		slices.Sort(lines)
		refused = append(refused, strings.Join(lines, "\n"))
		t.Logf("%s: %v, %d refused", status.Source.Name, status.Objects, len(lines))
	}
	if said[0] != said[1] {
		t.Errorf("tables of the directory:\n%s\nof etcd:\n%s", said[0], said[1])
	}
	if refused[0] != refused[1] || refused[0] == "" {
		t.Errorf("refused of the directory:\n%s\nof etcd:\n%s", refused[0], refused[1])
	}
}

// form is every third document as JSON, which etcd's values may be.
func form(t *testing.T, i int, text string) string {
	t.Helper()
	if i%3 != 0 {
		return text
	}
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// places are what origins say about where an object was found.
var places = regexp.MustCompile(` \([^)]*\)$`)

// text is the tables as indented JSON, without what differs between equal states: epochs, places, and what the
// devices are like.
func (r replies) text(t *testing.T) string {
	t.Helper()
	r.ports.Epoch, r.routes.Epoch, r.identities.Epoch = 0, 0, 0
	for _, p := range r.ports.Ports {
		p.Ifindex, p.Mac, p.Origin = 0, "", places.ReplaceAllString(p.Origin, "")
	}
	for _, route := range r.routes.Routes {
		route.Origin = places.ReplaceAllString(route.Origin, "")
	}
	for _, i := range r.identities.Identities {
		for _, p := range i.Prefixes {
			p.Origin = places.ReplaceAllString(p.Origin, "")
		}
	}
	var list []json.RawMessage
	for _, m := range []proto.Message{r.ports, r.routes, r.identities} {
		b, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	b, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// rest are objects of the other kinds: nodes whose pod CIDRs become routes, routes for some nodes only, pods that
// have no identity, and kinds that are only kept.
var rest = []string{`apiVersion: v1
kind: Node
metadata: {name: lab, labels: {rack: r1}}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 10.2.0.1}]}
`, `apiVersion: v1
kind: Node
metadata: {name: other, labels: {rack: r2}}
spec: {podCIDRs: [10.244.2.0/24, "fd02:244::/64"]}
status: {addresses: [{type: Hostname, address: other}, {type: InternalIP, address: 10.2.0.3},
  {type: InternalIP, address: "fd00:2::3"}]}
`, `apiVersion: viaduct.dev/v1alpha1
kind: Route
metadata: {name: here, annotations: {why: test}}
spec: {node: lab, destination: 10.70.0.0/16, nextHops: [{via: 10.2.0.2}]}
`, `apiVersion: viaduct.dev/v1alpha1
kind: Route
metadata: {name: elsewhere}
spec: {node: other, destination: 10.71.0.0/16, nextHops: [{via: 10.2.0.2}]}
`, `apiVersion: viaduct.dev/v1alpha1
kind: Route
metadata: {name: rack}
spec: {nodeSelector: {rack: r1}, destination: 10.72.0.0/16, type: unreachable}
`, `apiVersion: v1
kind: Pod
metadata: {name: finished, namespace: a, labels: {app: job}}
spec: {nodeName: other, containers: [{name: c, image: i}]}
status: {phase: Succeeded, podIPs: [{ip: 10.244.0.200}]}
`, `apiVersion: v1
kind: Pod
metadata: {name: on-host, namespace: a}
spec: {nodeName: other, hostNetwork: true, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.2.0.3}]}
`, `apiVersion: v1
kind: Pod
metadata: {name: two-families, namespace: b, labels: {app: both}}
spec: {nodeName: other, containers: [{name: c, image: i}]}
status: {podIPs: [{ip: 10.244.0.201}, {ip: "fd02:244::c9"}]}
`, `apiVersion: v1
kind: Service
metadata: {name: s, namespace: a}
spec: {selector: {app: x}, ports: [{port: 80}]}
`, `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: policy, namespace: a}
spec: {podSelector: {}, policyTypes: [Ingress]}
`, `apiVersion: viaduct.dev/v1alpha1
kind: Route
metadata: {name: unknown-field}
spec: {destination: 10.73.0.0/16, typ: blackhole}
`, `apiVersion: v1
kind: Node
metadata: {name: broken}
spec: {podCIDRs: [10.244.3.0/33]}
`}
