// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// Policies in the words of their manifests, and between whom they leave what.

// cast is the pods of a policy test, each in a namespace and with one label, beside the node and the world.
var cast = map[string]struct{ namespace, app string }{
	"web": {"shop", "web"}, "db": {"shop", "db"}, "spy": {"spies", "spy"},
}

// stage is a node on which the cast plays.
type stage struct {
	*podSite
	pods map[string]*attached
}

// newStage sets it, with more lines of the NodeConfig.
func newStage(t *testing.T, more ...string) *stage {
	t.Helper()
	p := newPodNode(t, programs.plain, "node")
	p.join()
	p.configure(more...)
	p.startBoth()
	s := &stage{podSite: p, pods: map[string]*attached{}}
	s.peerIn(s.world)
	s.peerIn(s.node)
	for name, of := range cast {
		s.write("pod-"+name+".yaml", podManifest(of.namespace, name, "app: "+of.app))
		pod := s.pod(name)
		pod.runtime.Args[1][1] = of.namespace
		s.pods[name] = pod.add()
	}
	return s
}

// configure says what the node's settings are, with more lines.
func (p *podSite) configure(more ...string) {
	p.write("node.yaml", nodeManifest("node", "{device: up, mode: kernel}\n  "+strings.Join(more, "\n  "),
		[]string{"10.244.1.0/24", "fd00:244:1::/64"}, "192.0.2.1", "2001:db8::1"))
}

func podManifest(namespace, name, labels string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: {%s}}\n"+
		"spec: {nodeName: node, containers: [{name: c, image: i, ports: [{name: echo, containerPort: 7}]}]}\n",
		name, namespace, labels)
}

// networkPolicy is one of a namespace.
func networkPolicy(namespace, name, spec string) string {
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: %s}\n"+
		"spec: %s\n", name, namespace, spec)
}

func clusterPolicy(name, more, spec string) string {
	return fmt.Sprintf("apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"+
		"metadata: {name: %s%s}\nspec: %s\n", name, more, spec)
}

// way is who asks whom, and by what.
type way struct{ from, to, network string }

// ways are all of them: between pods, between pods and the node, between pods and the world.
func ways() (list []way) {
	ends := []string{"web", "db", "spy", "node", "world"}
	for _, from := range ends {
		for _, to := range ends {
			_, fromPod := cast[from]
			_, toPod := cast[to]
			if from == to || !fromPod && !toPod {
				continue
			}
			for _, network := range []string{"tcp", "udp", "icmp"} {
				list = append(list, way{from, to, network})
			}
		}
	}
	return list
}

// is checks until it is so that exactly what open says is open, and then once more.
func (s *stage) is(what string, open func(w way) bool) {
	s.t.Helper()
	s.eventually(what, func() error { return s.differs(open) })
	if err := s.differs(open); err != nil {
		s.t.Fatalf("%s: it did not stay so: %v", what, err)
	}
}

// differs tries all ways in both families at once.
func (s *stage) differs(open func(w way) bool) error {
	all := ways()
	var mu sync.Mutex
	var wrong []string
	_ = each(len(all), len(all), func(i int) error {
		for f := range families {
			w, want := all[i], open(all[i])
			patience := patient
			if !want {
				patience = 250 * time.Millisecond
			}
			if got := s.passes(w, f, patience); got != want {
				mu.Lock()
				wrong = append(wrong, fmt.Sprintf("%s from %s to %s by IPv%d: open %t", w.network, w.from, w.to, f, got))
				mu.Unlock()
			}
		}
		return nil
	})
	if len(wrong) == 0 {
		return nil
	}
	slices.Sort(wrong)
	return errors.New(strings.Join(wrong, "\n"))
}

func (s *stage) passes(w way, family int, patience time.Duration) bool {
	_, err := askWithin(s.of(w.from), w.network, netip.AddrPortFrom(s.address(w.to, family), peerPort), patience)
	return err == nil
}

func (s *stage) of(name string) *netlab.Namespace {
	switch name {
	case "node":
		return s.node
	case "world":
		return s.world
	}
	return s.pods[name].Namespace
}

func (s *stage) address(name string, family int) netip.Addr {
	switch name {
	case "node":
		return families[family].node
	case "world":
		return families[family].world
	}
	return s.pods[name].address[family]
}

func everything(way) bool { return true }

// TestPolicies goes through what policies can say, one after another, with what each leaves open between everybody. Two
// workers share the flows.
func TestPolicies(t *testing.T) {
	s := newStage(t, "workers: 2")
	s.is("nothing to be denied", everything)
	for _, act := range []struct {
		what      string
		manifests map[string]string
		open      func(w way) bool
	}{
		{"a namespace that lets nobody in", map[string]string{
			"deny": networkPolicy("shop", "deny", "{podSelector: {}, policyTypes: [Ingress]}"),
		}, func(w way) bool { return cast[w.to].namespace != "shop" || w.from == "node" }},

		{"one pod let in to another by TCP, by the name of its port", map[string]string{
			"allow": networkPolicy("shop", "allow", "{podSelector: {matchLabels: {app: db}}, ingress: "+
				"[{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: echo}]}]}"),
		}, func(w way) bool {
			return cast[w.to].namespace != "shop" || w.from == "node" || w == way{"web", "db", "tcp"}
		}},

		{"another namespace's pods let in as well, and the world's addresses but those of IPv6", map[string]string{
			"more": networkPolicy("shop", "more", "{podSelector: {matchLabels: {app: web}}, ingress: [{from: "+
				"[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: spies}}}, "+
				"{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}, {ipBlock: {cidr: 'fd09::/16'}}]}]}"),
		}, nil}, // by family: see below
	} {
		for name, text := range act.manifests {
			s.write("policy-"+name+".yaml", text)
		}
		if act.open != nil {
			s.is(act.what, act.open)
		}
	}
	s.eventually("the world to reach by IPv4 alone", func() error {
		for f, want := range map[int]bool{4: true, 6: false} {
			if got := s.passes(way{"world", "web", "tcp"}, f, time.Second/2); got != want {
				return fmt.Errorf("IPv%d: open %t", f, got)
			}
		}
		return nil
	})
	for _, name := range []string{"deny", "allow", "more"} {
		s.remove("policy-" + name + ".yaml")
	}
	s.is("policies to be gone", everything)

	s.write("policy-egress.yaml", networkPolicy("spies", "egress", "{podSelector: {}, policyTypes: [Egress], egress: "+
		"[{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}], "+
		"ports: [{protocol: UDP, port: 1, endPort: 9}]}]}"))
	s.is("a pod that may say one thing", func(w way) bool {
		return w.from != "spy" || w.to == "node" || w == way{"spy", "web", "udp"}
	})
	s.write("policy-admin.yaml", clusterPolicy("admin", "", "{tier: Admin, priority: 5, subject: {namespaces: "+
		"{matchLabels: {kubernetes.io/metadata.name: spies}}}, egress: [{name: db, action: Accept, to: [{pods: "+
		"{namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}]}, {action: Deny, to: [{namespaces: {}}]}]}"))
	s.is("an administrator that says otherwise", func(w way) bool {
		return w.from != "spy" || w.to == "node" || w.to == "db"
	})
	s.remove("policy-egress.yaml")
	s.is("what an administrator does not mention", func(w way) bool { return w.from != "spy" || w.to != "web" })
	s.remove("policy-admin.yaml")

	s.write("policy-baseline.yaml", clusterPolicy("baseline", "", "{tier: Baseline, priority: 5, "+
		"subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}"))
	s.is("nobody to be let in unless somebody says so", func(w way) bool {
		_, from := cast[w.from]
		_, to := cast[w.to]
		return !from || !to
	})
	s.write("pod-spy.yaml", podManifest("spies", "spy", "app: web"))
	s.write("policy-trust.yaml", networkPolicy("shop", "trust", "{podSelector: {}, ingress: [{from: "+
		"[{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]}"))
	s.is("labels to count that a pod was given later", func(w way) bool {
		_, from := cast[w.from]
		switch {
		case w.to == "node" || w.to == "world" || w.from == "node":
			return true
		case w.to == "spy":
			return !from
		}
		return w.from == "web" || w.from == "spy"
	})
}

// TestIsolation: one setting keeps namespaces apart.
func TestIsolation(t *testing.T) {
	s := newStage(t)
	s.configure("namespaceIsolation: true")
	s.is("namespaces to be apart", func(w way) bool {
		from, isPod := cast[w.from]
		to, toPod := cast[w.to]
		return !isPod || !toPod || from.namespace == to.namespace
	})
}

// TestHostPolicy: a policy for the node itself, which cannot shut its fail-safe ports.
func TestHostPolicy(t *testing.T) {
	s := newStage(t)
	s.write("policy-host.yaml", clusterPolicy("host", ", annotations: {viaduct.dev/subject: nodes}",
		"{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {}}}, "+
			"ingress: [{action: Deny, from: [{namespaces: {}}]}]}"))
	s.is("the node to be closed to pods", func(w way) bool { return w.to != "node" })
	s.configure("failSafe: {ingress: [{protocol: TCP, port: 7}]}")
	s.is("a port that stays open", func(w way) bool { return w.to != "node" || w.network == "tcp" })
}

// TestRevocation: a connection that a policy no longer lets is cut, and the others do not notice.
func TestRevocation(t *testing.T) {
	s := newStage(t)
	cut, stays := s.connection("spy", "web"), s.connection("db", "web")
	defer cut.Close()
	defer stays.Close()
	if err := errors.Join(chat(cut), chat(stays)); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	s.write("policy.yaml", networkPolicy("shop", "own", "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"))
	for chat(cut) == nil {
		if time.Since(before) > within {
			t.Fatal("the connection goes on")
		}
	}
	t.Logf("a connection was cut %v after the manifest was written", time.Since(before)-chatTime)
	if err := chat(stays); err != nil {
		t.Errorf("a connection that is let: %v", err)
	}
	s.balanced()
}

// connection is one from a pod to what echoes in another.
func (s *stage) connection(from, to string) net.Conn {
	s.t.Helper()
	at := s.echoIn(s.of(to))
	var c net.Conn
	s.must(s.of(from).Do(func() (err error) {
		c, err = net.DialTimeout("tcp", netip.AddrPortFrom(s.address(to, 4), at).String(), patient)
		return err
	}))
	return c
}

// echoIn echoes in a namespace what comes by TCP, on a port of its own, until the test ends.
func (s *stage) echoIn(ns *netlab.Namespace) (port uint16) {
	s.t.Helper()
	var l net.Listener
	s.must(ns.Do(func() (err error) { l, err = net.Listen("tcp", ":0"); return err }))
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.t.Cleanup(func() { _ = c.Close() }) // its other end may have been cut off
			served.Go(func() { _, _ = io.Copy(c, c) })
		}
	})
	s.t.Cleanup(served.Wait)
	s.t.Cleanup(func() { _ = l.Close() })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// chatTime is how long one chat waits for its answer.
const chatTime = 250 * time.Millisecond

// chat says a word and waits for its echo.
func chat(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(chatTime)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("!")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}
