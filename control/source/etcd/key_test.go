// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"slices"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/control/model"
)

func TestParse(t *testing.T) {
	for spec, want := range map[string][]string{
		"etcd:https://a:2379,https://b:2379": {"https://a:2379", "https://b:2379"},
		"https://a":                          {"https://a:2379"},
		"etcd:http://[fd00::1]:4001/":        {"http://[fd00::1]:4001"},
	} {
		if got, err := Parse(spec); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", spec, got, err)
		}
	}
	for spec, want := range map[string]string{
		"":                           "not like",
		"etcd:":                      "not like",
		"etcd:a:2379":                "not like",
		"etcd:ftp://a:2379":          "not like",
		"etcd:http://a,https://b":    "all are http or all are https",
		"etcd:http://a,":             "not like",
		"etcd:https://u:secret@a:1":  "--etcd-user",
		"etcd:htps://u:secret@a:1":   "--etcd-user",
		"etcd:https://a:2379/prefix": "--etcd-prefix",
		"etcd:https://a:port":        "not like",
	} {
		got, err := Parse(spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", spec, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the password is in the message %q", spec, err)
		}
	}
}

func TestOptions(t *testing.T) {
	at, secure := []string{"http://a:1"}, []string{"https://a:1"}
	for want, o := range map[string]Options{
		"not like":                 {},
		"come together":            {Endpoints: secure, Cert: "c"},
		"https endpoints":          {Endpoints: at, CA: "c"},
		"needs --etcd-user":        {Endpoints: at, PasswordFile: "p"},
		"is not a node's name":     {Endpoints: at, Node: "a/b"},
		"etcd counts in seconds":   {Endpoints: at, TTL: 1},
		"":                         {Endpoints: secure, CA: "c", Cert: "c", Key: "k", User: "u", Node: "n"},
		"all are http or all are ": {Endpoints: append(at, secure...)},
	} {
		if _, err := New(o); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, not %q", o, err, want)
		}
	}
}

func TestDecodeValue(t *testing.T) {
	const route = "apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: a}\n" +
		"spec: {destination: 10.0.0.0/8, type: blackhole}\n"
	const pod = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns"}}`
	const deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: ns}\n"
	for _, c := range []struct{ key, value, want string }{
		{"/v/Route/a", route, "Route a"},
		{"/v/Route/a", "---\n" + route, "Route a"},
		{"/v/Pod/ns/p", pod, "Pod ns/p"},
		{"/v/Deployment.apps/ns/d", deployment, "Deployment.apps ns/d"},
		{"/v/Deployment/ns/d", deployment, `/v/Deployment/ns/d: Deployment ns/d: kind: "Deployment.apps" under the key ` +
			`of a "Deployment"; it belongs to /v/Deployment.apps/ns/d`},
		{"/v/Route/b", route, `/v/Route/b: Route b: metadata.name: "a" under the key of "b"; it belongs to /v/Route/a`},
		{"/v/Route/ns/a", route,
			`/v/Route/ns/a: Route ns/a: metadata.namespace: "" under the key of "ns"; it belongs to /v/Route/a`},
		{"/v/Pod/p", pod, `/v/Pod/p: Pod p: metadata.namespace: "ns" under the key of ""; it belongs to /v/Pod/ns/p`},
		{"/v/route/a", route, `/v/route/a: route a: kind: "Route" under the key of a "route"; it belongs to /v/Route/a`},
		{"/v/Route/a", "", "/v/Route/a: Route a: the value is empty"},
		{"/v/Route/a", "# nothing\n", "/v/Route/a: Route a: the value is empty"},
		{"/v/Route/a", route + "---\n" + route, "/v/Route/a: more than one document; a key holds one object"},
		{"/v/Route/a", "a: [", "/v/Route/a: Route a: "},
		{"/v/Route/a", strings.Replace(route, "10.0.0.0/8", "10", 1), "/v/Route/a: Route a: spec.destination: "},
		{"/v/a", route, "/v/a: not a key of the form /v/KIND/NAME or /v/KIND/NAMESPACE/NAME"},
		{"/v/a//b", route, "/v/a//b: not a key"},
		{"/v/a/b/c/d", route, "/v/a/b/c/d: not a key"},
	} {
		o, err := decode("/v", c.key, []byte(c.value))
		var got string
		switch {
		case err != nil:
			got = strings.Replace(err.Error(), "Route a: more", "more", 1)
		case o.Place != model.Place{File: c.key}:
			t.Errorf("%s: place %v", c.key, o.Place)
			fallthrough
		default:
			got = o.Key.String()
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s\nwant %s", c.key, got, c.want)
		}
	}
}

// FuzzParseKey: what parses is what format gives, and lies in exactly one of the watched spans; statuses in none.
func FuzzParseKey(f *testing.F) {
	for _, key := range []string{
		"/viaduct/Pod/default/a", "/viaduct/Route/a", "/viaduct/status/node", "/viaduct/status/node/Pod/a/b", "/viaduct/",
		"/viaduct//a", "/viaduct/tunnel/a", "/viaduct/statuses/a", "/viaduct/Route/\xff", "x",
	} {
		f.Add("/viaduct", key)
	}
	f.Add("", "/Pod/default/a")
	f.Fuzz(func(t *testing.T, prefix, key string) {
		k, ok := parseKey(prefix, key)
		if !ok {
			if k != (model.Key{}) {
				t.Errorf("%q does not parse, but gives %v", key, k)
			}
			return
		}
		if again := formatKey(prefix, k); again != key {
			t.Errorf("%q is %v, which is %q", key, k, again)
		}
		n := 0
		for _, s := range spans(prefix) {
			if s.has(key) {
				n++
			}
		}
		if n != 1 || k.Kind == statusFolder {
			t.Errorf("%q is in %d spans", key, n)
		}
	})
}
