// SPDX-License-Identifier: Apache-2.0

package push

import (
	"fmt"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

func clusterIP(name, address string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: web}\n"+
		"spec: {clusterIP: %s, ports: [{port: 80}]}", name, address)
}

// policy lets everybody reach the port of pods of web.
func policy(name string, port int) string {
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: web}\n"+
		"spec: {podSelector: {}, ingress: [{ports: [{port: %d}]}]}", name, port)
}

// served are the names of a snapshot's services and policies.
func served(s *api.Snapshot) string {
	var list []string
	for _, one := range s.GetServices() {
		list = append(list, one.Name)
	}
	for _, one := range s.GetPolicies() {
		list = append(list, fmt.Sprintf("%s/%d", one.Name, len(one.Rules)))
	}
	return strings.Join(list, " ")
}

// picky is a dataplane that takes no snapshot with what is bad.
func (d *dataplane) picky(bad func(*api.Snapshot) (object string)) *api.Snapshot {
	d.t.Helper()
	for {
		s, _ := d.next()
		object := bad(s)
		if object == "" {
			d.ack(s)
			return s
		}
		d.nack(s, object)
	}
}

// none says which of the services is there.
func none(names ...string) func(*api.Snapshot) string {
	return func(s *api.Snapshot) string {
		for _, one := range s.GetServices() {
			for _, name := range names {
				if one.Name == "web/"+name {
					return s.Origins[one.Origin]
				}
			}
		}
		return ""
	}
}

// TestWithheldService: what one service says keeps nothing else from coming into force, and is tried again when it
// changes, and by another dataplane.
func TestWithheldService(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a"), clusterIP("good", "10.96.0.1"), clusterIP("bad", "10.96.0.2")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	if got := served(d.picky(none("bad"))); got != "web/good" {
		t.Errorf("in force %q", got)
	}
	refused := c.status(t).Refused
	if len(refused) != 1 || refused[0].Object != "Service web/bad" ||
		!strings.Contains(refused[0].Reason, "does not fit; it is left") {
		t.Errorf("refused %v", refused)
	}
	s.Set(objects(t, clusterIP("other", "10.96.0.3"))...)
	if got, delta := d.take(); !delta || len(got.Services) != 2 {
		t.Errorf("after another's change %q, delta %t", served(got), delta)
	}
	s.Set(objects(t, clusterIP("bad", "10.96.0.4"))...)
	if got := served(d.picky(none())); !strings.Contains(got, "web/bad") {
		t.Errorf("after its change %q", got)
	}
	eventually(t, "nothing is refused", func() bool { return len(c.status(t).Refused) == 0 })

	s.Set(objects(t, clusterIP("bad", "10.96.0.5"))...)
	d.picky(none("bad"))
	d = c.follow(t, nil)
	if got, _ := d.take(); !strings.Contains(served(got), "web/bad") {
		t.Errorf("another dataplane is sent %q", served(got))
	}
	s.Set(objects(t, clusterIP("bad", "10.96.0.6"))...)
	d.picky(none("bad"))
	s.Remove(model.Key{Kind: "Service", Namespace: "web", Name: "bad"})
	eventually(t, "what is gone is not refused", func() bool { return len(c.status(t).Refused) == 0 })
}

// TestWithheldPolicy: of a policy the last form that was in force stays; without any nobody comes in.
func TestWithheldPolicy(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a"), policy("p", 80)))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	d.take()
	named := func(s *api.Snapshot, name string) *api.Policy {
		for _, p := range s.Policies {
			if p.Name == "NetworkPolicy web/"+name {
				return p
			}
		}
		t.Fatalf("there is no policy %q", name)
		return nil
	}
	bad := func(s *api.Snapshot) string {
		if rules := named(s, "p").Rules; len(rules) > 0 && rules[0].Ports[0].First == 81 {
			return s.Origins[named(s, "p").Origin]
		}
		return ""
	}
	s.Set(objects(t, policy("p", 81))...)
	if got := named(d.picky(bad), "p"); len(got.Rules) != 1 || got.Rules[0].Ports[0].First != 80 {
		t.Errorf("in force %v", got)
	}
	s.Set(objects(t, policy("q", 82))...)
	got := d.picky(func(s *api.Snapshot) string {
		if len(named(s, "q").Rules) > 0 {
			return s.Origins[named(s, "q").Origin]
		}
		return ""
	})
	if q := named(got, "q"); !q.Ingress || q.Egress || len(q.Subjects) != 1 {
		t.Errorf("without a good form: %v", q)
	}
	if refused := c.status(t).Refused; len(refused) != 2 {
		t.Errorf("refused %v", refused)
	}
}

// TestWithheldWhole: where nothing that is safe can take a policy's place, what was in force stays.
func TestWithheldWhole(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a"), clusterIP("good", "10.96.0.1")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	d.take()
	s.Set(objects(t, policy("p", 80))...)
	for range 3 { // the delta, the whole, and that with the stand-in
		got, _ := d.next()
		d.nack(got, "NetworkPolicy web/p (lab.yaml:1)")
	}
	eventually(t, "the last answer", func() bool { return c.status(t).Dataplane.Nacks == 3 })
	if n := c.status(t).Dataplane; n.Epoch != d.inForce.Epoch || n.Snapshots+n.Deltas != 4 {
		t.Errorf("dataplane %v", n)
	}
	s.Remove(model.Key{Kind: "NetworkPolicy", Namespace: "web", Name: "p"})
	if got, _ := d.take(); served(got) != "web/good" {
		t.Errorf("in force %q", served(got))
	}
}

// TestWithheldBounded: a dataplane that refuses everything is not sent snapshots without end.
func TestWithheldBounded(t *testing.T) {
	var s memory.Source
	all := []string{node("a")}
	var names []string
	for i := range mostWithheld + 5 {
		names = append(names, fmt.Sprintf("s%d", i))
		all = append(all, clusterIP(names[i], fmt.Sprintf("10.96.0.%d", i+1)))
	}
	s.Replace(objects(t, all...))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	for range mostWithheld + 1 {
		got, _ := d.next()
		d.nack(got, none(names...)(got))
	}
	eventually(t, "it pauses", func() bool {
		n := c.status(t).Dataplane
		return n.Snapshots == mostWithheld+1 && n.Nacks == mostWithheld+1
	})
	if got := served(d.picky(none(names...))); got != "" { // after the pause
		t.Errorf("in force %q", got)
	}
}
