// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

// TestSync: whole at first, then what changes, each onto the one before.
func TestSync(t *testing.T) {
	var s memory.Source
	c := startNew(t, &s)
	d := c.follow(t, nil)
	s.Fail("is away") // nothing is sent before the source has said all that it holds
	eventually(t, "the dataplane is seen", func() bool {
		return c.status(t).Dataplane != nil && c.status(t).Source.Trouble != ""
	})
	if st := c.status(t); st.Epoch != 0 || st.Source.InStep || st.Source.Trouble != "is away" || c.Ready() == "" {
		t.Errorf("before the source is in step: %v", st)
	}
	s.Replace(objects(t, node("a"), blackhole("a", "10.0.0.0/8")))
	for _, step := range []struct {
		change func()
		routes string
	}{
		{func() {}, "a"},
		{func() { s.Set(objects(t, blackhole("b", "11.0.0.0/8"))...) }, "a b"},
		{func() { s.Remove(key("a")) }, "b"},
		{func() { s.Replace(objects(t, node("a"), blackhole("c", "9.0.0.0/8"), blackhole("b", "11.0.0.0/8"))) }, "c b"},
	} {
		step.change()
		before := d.inForce.GetEpoch()
		got, delta := d.take()
		if routes(got) != step.routes || got.Epoch <= before || delta != (before > 0) {
			t.Errorf("epoch %d, routes %q, delta %t; want routes %q", got.Epoch, routes(got), delta, step.routes)
		}
	}
	eventually(t, "the ack is seen", func() bool { return c.status(t).Dataplane.Epoch == d.inForce.Epoch })
	st := c.status(t)
	if st.Node != "lab" || st.Objects["Route"] != 2 || !st.Source.InStep || st.Dataplane.Deltas != 3 ||
		st.Dataplane.ApplyNanoseconds != 5 || st.Dataplane.Version != "2" || st.Dataplane.Pid == 0 || c.Ready() != "" {
		t.Errorf("status %v, %q", st, c.Ready())
	}
}

// TestFailure: while no snapshot can be made what is in force stays, and the reason is said.
func TestFailure(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, blackhole("a", "10.0.0.0/8")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	eventually(t, "failure", func() bool { return c.status(t).Failure != "" && c.Ready() != "" })
	s.Set(objects(t, node("a"))...)
	if got, _ := d.take(); routes(got) != "a" || c.status(t).Failure != "" {
		t.Errorf("routes %q, %q", routes(got), c.status(t).Failure)
	}
	s.Remove(model.Key{Kind: "NodeConfig", Name: "lab"})
	eventually(t, "failure", func() bool { return c.status(t).Failure != "" })
	if e := c.follow(t, nil); func() bool { got, _ := e.take(); return routes(got) != "a" }() {
		t.Error("what was in force does not stay")
	}
}

// TestCoalesces: while a message is in flight changes merge; the newest form of each object wins.
func TestCoalesces(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	first, _ := d.next()
	const changes = 1000
	for i := range changes {
		s.Set(objects(t, blackhole("a", fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)))...)
		if i%2 == 0 {
			s.Set(objects(t, blackhole(fmt.Sprint("gone-", i), "11.0.0.0/8"))...)
			s.Remove(key(fmt.Sprint("gone-", i)))
		}
	}
	eventually(t, "all is heard", func() bool { return c.intake.saying().events == 1+2*changes })
	d.ack(first)
	got, delta := d.take()
	if routes(got) != "a" || got.Epoch != first.Epoch+1 || !delta || got.Routes[0].Prefix[2] != (changes-1)%256 {
		t.Errorf("epoch %d, delta %t, routes %v", got.Epoch, delta, got.Routes)
	}
}

// TestStorm: under changes without end messages go on flowing, and the last state comes through.
func TestStorm(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	const changes = 3000
	go func() {
		for i := range changes {
			s.Set(objects(t, blackhole(fmt.Sprint("r", i%100), fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)))...)
		}
		s.Set(objects(t, blackhole("last", "11.0.0.0/8"))...)
	}()
	messages := 0
	for last := false; !last; messages++ {
		got, _ := d.take()
		for _, r := range got.Routes {
			last = last || r.Prefix[0] == 11
		}
	}
	if len(d.inForce.Routes) != 101 || messages > changes {
		t.Errorf("%d routes after %d messages", len(d.inForce.Routes), messages)
	}
	t.Logf("%d messages for %d changes", messages, changes)
}

// TestNack: a refused delta is followed by the whole; after a refused whole only a change helps.
func TestNack(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a"), blackhole("a", "10.0.0.0/8")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	d.take()
	s.Set(objects(t, blackhole("b", "11.0.0.0/8"))...)
	refused, delta := d.next()
	if !delta {
		t.Fatal("no delta")
	}
	d.nack(refused, "")
	again, delta := d.next()
	if delta || again.Epoch != refused.Epoch || routes(again) != "a b" {
		t.Errorf("after the nack of a delta: %d, delta %t, %q", again.Epoch, delta, routes(again))
	}
	s.Reports()
	d.nack(again, "Route b (lab.yaml:1)")
	eventually(t, "the object is reported", func() bool { return len(c.status(t).GetLastNack().GetObject()) > 0 })
	if r := s.Reports(); len(r) != 1 || len(r[0].Statuses) != 1 || r[0].Statuses[0].Object.Key != key("b") ||
		r[0].Statuses[0].Applied || r[0].Statuses[0].Message != "does not fit" || r[0].Epoch != d.inForce.Epoch {
		t.Errorf("reports %+v", r)
	}
	got, delta := d.take()
	if delta || routes(got) != "a" {
		t.Errorf("without the object: delta %t, %q", delta, routes(got))
	}
	if n := c.status(t).Dataplane; n.Snapshots != 3 || n.Deltas != 1 || n.Nacks != 2 {
		t.Errorf("counts %v: it is busy", n)
	}
	s.Set(objects(t, blackhole("c", "12.0.0.0/8"))...)
	if got, delta = d.next(); !delta || routes(got) != "a c" {
		t.Errorf("after a change: delta %t, %q", delta, routes(got))
	}
	d.nack(got, "")
	if got, delta = d.next(); delta {
		t.Error("a delta after the nack of one")
	}
	d.say(&api.FromDataplane{Message: &api.FromDataplane_Nack{Nack: &api.Nack{
		Epoch: got.Epoch, Reason: "the machine is busy", // for no fault of the snapshot's
	}}})
	if same, delta := d.take(); delta || same.Epoch != got.Epoch {
		t.Errorf("sent again: epoch %d after %d, delta %t", same.Epoch, got.Epoch, delta)
	}
	eventually(t, "the nack is over", func() bool { return c.status(t).LastNack == nil })
	applied := map[string]bool{}
	eventually(t, "the report", func() bool {
		for _, r := range s.Reports() {
			for _, one := range r.Statuses {
				applied[one.Object.Key.Name] = one.Applied
			}
		}
		return !applied["b"] && applied["c"]
	})
	s.Set(objects(t, blackhole("d", "13.0.0.0/8"))...)
	if _, delta := d.take(); !delta {
		t.Error("deltas do not come back")
	}
}

// TestReports: what the compiler leaves out is said too, also when nothing is to be sent for it.
func TestReports(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a"), blackhole("a", "10.0.0.0/8")))
	c := startNew(t, &s)
	c.follow(t, nil).take()
	got := map[model.Key]source.Status{}
	reported := func(key model.Key) func() bool {
		return func() bool {
			for _, r := range s.Reports() {
				for _, one := range r.Statuses {
					got[one.Object.Key] = one
				}
			}
			return got[key].Object != nil
		}
	}
	eventually(t, "report of a", reported(key("a")))
	s.Set(objects(t, blackhole("b", "10.0.0.0/8"))...)
	eventually(t, "report of b", reported(key("b")))
	if !got[key("a")].Applied || got[key("b")].Applied || got[key("b")].Message == "" {
		t.Errorf("statuses %+v", got)
	}
	if st := c.status(t); len(st.Refused) != 1 || st.Refused[0].Object != "Route b" {
		t.Errorf("refused %v", st.Refused)
	}
}

// TestReconnect: each stream begins with the whole; a second one ends the first.
func TestReconnect(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a"), blackhole("a", "10.0.0.0/8")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	first, _ := d.take()
	e := c.follow(t, first)
	again, delta := e.take()
	if delta || !proto.Equal(first, again) {
		t.Errorf("the second stream begins with delta %t, %v; want %v", delta, again, first)
	}
	if end := d.ended(); end.Code() != codes.Aborted {
		t.Errorf("the first stream ended with %v", end)
	}
	s.Set(objects(t, blackhole("b", "11.0.0.0/8"))...)
	if got, delta := e.take(); !delta || routes(got) != "a b" {
		t.Errorf("delta %t, %q", delta, routes(got))
	}
	e.close()
	eventually(t, "it is gone", func() bool { return c.status(t).Dataplane == nil })
}

// TestRestart: another control process goes on with the numbers and epochs that are in force.
func TestRestart(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a", "b", "c"), blackhole("a", "10.0.0.0/8")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	d.take()
	s.Set(objects(t, node("c"))...)
	before, _ := d.take()
	c.stop()
	if end := d.ended(); end.Code() != codes.Unavailable {
		t.Errorf("the stream ended with %v", end)
	}
	s.Replace(objects(t, node("b", "c"), blackhole("a", "10.0.0.0/8")))
	after, delta := start(t, &s, c.path).follow(t, before).take()
	if delta || after.Epoch <= before.Epoch {
		t.Errorf("epoch %d after %d, delta %t", after.Epoch, before.Epoch, delta)
	}
	number := func(s *api.Snapshot, name string) uint32 {
		for _, p := range s.Ports {
			if p.Name == name {
				return p.Id
			}
		}
		return 0
	}
	if number(after, "on-c") != number(before, "on-c") || number(after, "on-b") == 0 {
		t.Errorf("ports %v, before %v", after.Ports, before.Ports)
	}
}

// TestForeign: a dataplane that comes with a later epoch than ours is given a later one still.
func TestForeign(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a"), blackhole("a", "10.0.0.0/8")))
	c := startNew(t, &s)
	c.follow(t, nil).take()
	got, delta := c.follow(t, &api.Snapshot{Epoch: 1000}).take()
	if delta || got.Epoch != 1001 || routes(got) != "a" {
		t.Errorf("epoch %d, delta %t, %q", got.Epoch, delta, routes(got))
	}
}

// TestSourceEnds: a source that cannot be used ends Run.
func TestSourceEnds(t *testing.T) {
	no := errors.New("no such directory")
	s := New(Config{Source: failing{no}, Node: compile.Node{Name: "lab"}, Logger: zap.NewNop()})
	if err := s.Run(t.Context()); !errors.Is(err, no) {
		t.Errorf("error %v", err)
	}
}

type failing struct{ error }

func (failing) String() string                                  { return "failing" }
func (f failing) Run(context.Context, func(source.Event)) error { return f.error }

// TestRandom: whatever changes and whatever the dataplane answers, in the end it has what a compilation from nothing
// gives.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var s memory.Source
		s.Replace(objects(t, node("a")))
		c := startNew(t, &s)
		d := c.follow(t, nil)
		held := map[string]string{}
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			name := fmt.Sprint("r", rapid.IntRange(0, 5).Draw(r, "route"))
			switch rapid.IntRange(0, 4).Draw(r, "step") {
			case 0, 1:
				held[name] = blackhole(name, fmt.Sprintf("10.%d.0.0/16", rapid.IntRange(0, 255).Draw(r, "net")))
				s.Set(objects(t, held[name])...)
			case 2:
				delete(held, name)
				s.Remove(key(name))
			case 3:
				list := []string{node("a")}
				for _, text := range held {
					list = append(list, text)
				}
				s.Replace(objects(t, list...))
			case 4:
				eventually(t, "it follows", func() bool { return c.status(t).Dataplane != nil })
				d.close() // one that were still to come in would take the next one's place
				eventually(t, "it is gone", func() bool { return c.status(t).Dataplane == nil })
				d = c.follow(t, d.inForce)
			}
		}
		s.Set(objects(t, blackhole("last", "11.0.0.0/8"))...)
		refuse := rapid.SliceOfN(rapid.Bool(), 4, 4).Draw(r, "refuse")
		for i := 0; !strings.HasSuffix(routes(d.inForce), "last"); i++ {
			got, delta := d.next()
			if delta && i < len(refuse) && refuse[i] {
				d.nack(got, "")
				continue
			}
			d.ack(got)
		}
		list := []string{node("a"), blackhole("last", "11.0.0.0/8")}
		for _, text := range held {
			list = append(list, text)
		}
		want, _, err := compile.Once(objects(t, list...), compile.Node{Name: "lab"})
		if err != nil {
			r.Fatal(err)
		}
		if routes(d.inForce) != routes(want) {
			r.Errorf("routes %q, want %q", routes(d.inForce), routes(want))
		}
		d.close()
		c.stop()
	})
}

// A dataplane that missed epochs must not be given one thing under the number of another.
func TestNumbersWhileAway(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a", "b")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	had, _ := d.take()
	d.close()
	eventually(t, "gone", func() bool { return c.status(t).Dataplane == nil })
	s.Set(objects(t, node("a"))...)
	eventually(t, "compiled", func() bool { return c.status(t).Epoch == had.Epoch+1 })
	s.Set(objects(t, node("a", "c"))...)
	eventually(t, "compiled", func() bool { return c.status(t).Epoch == had.Epoch+2 })
	got, _ := c.follow(t, had).take()
	for _, was := range had.Ports {
		for _, is := range got.Ports {
			if was.Id == is.Id && was.Name != is.Name {
				t.Errorf("port %d was %s and is %s, from one snapshot in force to the next", was.Id, was.Name, is.Name)
			}
		}
	}
}

// Names of files are bytes, and the contract has text.
func TestFileNameThatIsNotUTF8(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a")))
	c := startNew(t, &s)
	d := c.follow(t, nil)
	d.take()
	good, errs := model.Decode("caf\xe9.yaml", []byte(blackhole("b", "11.0.0.0/8")))
	if len(errs) > 0 {
		t.Fatal(errs[0])
	}
	s.Set(good...)
	if _, err := d.stream.Recv(); err != nil {
		t.Fatalf("the stream ended: %v; status is %v", err, c.status(t))
	}
}

func TestStatusOfPlaceThatIsNotUTF8(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a")), &model.Error{Place: model.Place{File: "/viaduct/\xff"}, Reason: "not a key"})
	c := startNew(t, &s)
	eventually(t, "refused", func() bool { return len(c.status(t).Refused) == 1 })
	if _, err := proto.Marshal(c.status(t)); err != nil {
		t.Errorf("viaduct status: %v", err)
	}
}

// TestPod: an address by its object, one by its attachment, those of its node, and a pod that nobody knows.
func TestPod(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, node("a"),
		"apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\n"+
			"spec: {nodeName: far, containers: [{ports: [{name: http, containerPort: 80}, {containerPort: 9}]}]}\n"+
			"status: {podIPs: [{ip: 'fd00::7'}, {ip: 10.244.2.7}]}",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: agent, namespace: shop}\nspec: {nodeName: far, hostNetwork: true}",
		"apiVersion: v1\nkind: Node\nmetadata: {name: far}\n"+
			"status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}"))
	c := startWith(t, socketPath(t), Config{Source: &s, Attachments: []*compile.Attachment{{
		Port: "shop/db", Device: "vd1", PodNamespace: "shop", PodName: "db",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.9")},
	}}})
	c.follow(t, nil).take()
	for name, want := range map[string]string{
		"web": "10.244.2.7 fd00::7 far http TCP 80", "agent": "192.0.2.2 far", "db": "10.244.1.9 lab",
	} {
		r, err := c.Pod(t.Context(), &api.PodRequest{Namespace: "shop", Name: name})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, b := range r.Addresses {
			a, _ := netip.AddrFromSlice(b)
			got += a.String() + " "
		}
		got += r.Node
		for _, p := range r.Ports {
			got += fmt.Sprintf(" %s %s %d", p.Name, strings.TrimPrefix(p.Protocol.String(), "PROTOCOL_"), p.Port)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	_, err := c.Pod(t.Context(), &api.PodRequest{Namespace: "shop", Name: "ghost"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a pod that nobody knows: %v", err)
	}
}
