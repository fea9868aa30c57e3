// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

// pod is the i-th attachment of a test.
func pod(i int) *compile.Attachment {
	return &compile.Attachment{
		Port: fmt.Sprint("default/pod-", i), Device: fmt.Sprint("vd", i), MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(i)},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(i)})}, PodNamespace: "default",
		PodName: fmt.Sprint("pod-", i),
	}
}

// attach attaches in the background.
func (c *control) attach(ctx context.Context, set ...*compile.Attachment) <-chan error {
	done := make(chan error, 1)
	go func() { done <- c.Attach(ctx, set, nil) }()
	return done
}

// attached are the ports with a station in a snapshot.
func attached(s *api.Snapshot) string {
	var names []string
	for _, p := range s.GetPorts() {
		if p.Station != nil && p.Name != "host" {
			names = append(names, strings.TrimPrefix(p.Name, "default/pod-"))
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// ackClosed acks, and says that the port is closed.
func (d *dataplane) ackClosed(s *api.Snapshot, name, reason string) {
	d.t.Helper()
	d.inForce = s
	ack := &api.Ack{Epoch: s.Epoch}
	for _, p := range s.Ports {
		if p.Name == name {
			ack.Closed = append(ack.Closed, &api.ClosedPort{Port: p.Id, Reason: reason})
		}
	}
	d.say(&api.FromDataplane{Message: &api.FromDataplane_Ack{Ack: ack}})
}

// following is a control with a dataplane that has taken a first snapshot.
func following(t *testing.T, s *memory.Source) (*control, *dataplane) {
	t.Helper()
	s.Replace(objects(t, node("a")))
	c := startNew(t, s)
	d := c.follow(t, nil)
	d.take()
	eventually(t, "the ack is seen", func() bool { return c.Attachable() == nil })
	return c, d
}

// TestAttach: it returns once the dataplane has acked.
func TestAttach(t *testing.T) {
	var s memory.Source
	c, d := following(t, &s)
	done := c.attach(t.Context(), pod(1))
	got, delta := d.next()
	if attached(got) != "1" || !delta {
		t.Errorf("delta %t, attached %q", delta, attached(got))
	}
	select {
	case err := <-done:
		t.Errorf("before the ack: %v", err)
	default:
	}
	if err := c.InForce("default/pod-1"); err == nil {
		t.Error("in force before the ack")
	}
	d.ack(got)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := c.InForce("default/pod-1"); err != nil {
		t.Error(err)
	}
	if err := c.Attach(t.Context(), []*compile.Attachment{pod(1)}, nil); err != nil {
		t.Errorf("the same again, for which nothing is sent: %v", err)
	}
	c.Detach([]string{"default/pod-1"})
	if got, _ := d.take(); attached(got) != "" {
		t.Errorf("detached: %q", attached(got))
	}
	eventually(t, "the end is seen", func() bool { return c.InForce("default/pod-1") != nil })
}

// TestAttachMany: what waits is sent at once.
func TestAttachMany(t *testing.T) {
	var s memory.Source
	c, d := following(t, &s)
	first := c.attach(t.Context(), pod(1))
	inFlight, _ := d.next()
	const many = 100
	var waiting []<-chan error
	for i := range many {
		waiting = append(waiting, c.attach(t.Context(), pod(2+i)))
	}
	eventually(t, "all ask", func() bool {
		c.requests.mu.Lock()
		defer c.requests.mu.Unlock()
		return len(c.requests.list) == many
	})
	s.Set(objects(t, blackhole("a", "10.0.0.0/8"))...)
	eventually(t, "the source is heard", func() bool { return c.intake.saying().events == 2 })
	d.ack(inFlight)
	got, _ := d.take()
	if n := len(strings.Fields(attached(got))); n != 1+many || !strings.Contains(routes(got), "a") {
		t.Errorf("%d attached, routes %q", n, routes(got))
	}
	for _, done := range append(waiting, first) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := c.status(t).Attachments; n != 1+many {
		t.Errorf("%d attachments in the status", n)
	}
}

// TestAttachRefused: the one to blame is taken back, and the others are attached.
func TestAttachRefused(t *testing.T) {
	var s memory.Source
	c, d := following(t, &s)
	set := []<-chan error{c.attach(t.Context(), pod(1), pod(2)), nil}
	first, _ := d.next()
	set[1] = c.attach(t.Context(), pod(3))
	d.nack(first, compile.Origin("default/pod-2"))
	var refused *RefusedError
	if err := <-set[0]; !errors.As(err, &refused) || refused.Object != "Attachment default/pod-2" ||
		refused.Field != "spec.x" {
		t.Errorf("refused: %v", err)
	}
	for attached(d.inForce) != "3" { // it may have been asked for too late for the first of them
		if got, _ := d.take(); strings.Contains(attached(got), "2") {
			t.Fatalf("attached %q", attached(got))
		}
	}
	if err := <-set[1]; err != nil {
		t.Error(err)
	}
}

// TestAttachUnfit: what the compiler leaves out is not sent at all.
func TestAttachUnfit(t *testing.T) {
	var s memory.Source
	c, d := following(t, &s)
	done := c.attach(t.Context(), pod(1))
	d.take()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	thief := pod(2)
	thief.Addresses = pod(1).Addresses
	done = c.attach(t.Context(), thief)
	var refused *RefusedError
	if err := <-done; !errors.As(err, &refused) || refused.Object != "Attachment default/pod-2" ||
		refused.Field != "addresses" {
		t.Errorf("refused: %v", err)
	}
	d.take()
	if got := attached(d.inForce); got != "1" || len(c.status(t).Refused) > 0 {
		t.Errorf("attached %q, refused %v", got, c.status(t).Refused)
	}
}

// TestAttachRefusedWhole: where a whole snapshot is refused for another reason, everybody is told.
func TestAttachRefusedWhole(t *testing.T) {
	var s memory.Source
	c, d := following(t, &s)
	done := c.attach(t.Context(), pod(1))
	first, _ := d.next()
	d.nack(first, "")
	whole, _ := d.next()
	d.nack(whole, "NodeConfig lab (lab.yaml:1)")
	var refused *RefusedError
	if err := <-done; !errors.As(err, &refused) || refused.Object != "NodeConfig lab (lab.yaml:1)" {
		t.Errorf("refused: %v", err)
	}
	if got, _ := d.take(); attached(got) != "" {
		t.Errorf("attached %q", attached(got))
	}
}

// TestAttachClosed: a port that does not forward is none, and Attach says why.
func TestAttachClosed(t *testing.T) {
	var s memory.Source
	c, d := following(t, &s)
	done := c.attach(t.Context(), pod(1))
	got, _ := d.next()
	d.ackClosed(got, "default/pod-1", "no device vd1")
	var closed *ClosedError
	if err := <-done; !errors.As(err, &closed) || closed.Reason != "no device vd1" {
		t.Errorf("closed: %v", err)
	}
	if got, _ := d.take(); attached(got) != "" {
		t.Errorf("attached %q", attached(got))
	}
	done = c.attach(t.Context(), pod(2))
	d.take()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.Set(objects(t, blackhole("a", "10.0.0.0/8"))...)
	got, _ = d.next()
	d.ackClosed(got, "default/pod-2", "gone")
	eventually(t, "it is closed", func() bool { return errors.As(c.InForce("default/pod-2"), &closed) })
}

// TestAttachAway: while there is no dataplane, or no state, nothing can be attached, and nothing is left of it.
func TestAttachAway(t *testing.T) {
	var s memory.Source
	c := startNew(t, &s)
	away := func(when string) {
		t.Helper()
		var e *AwayError
		if err := <-c.attach(t.Context(), pod(1)); !errors.As(err, &e) {
			t.Errorf("%s: %v", when, err)
		}
		if err := c.Attachable(); !errors.As(err, &e) {
			t.Errorf("%s: attachable: %v", when, err)
		}
	}
	away("before the source is in step")
	s.Replace(objects(t, blackhole("a", "10.0.0.0/8")))
	away("without a dataplane")
	d := c.follow(t, nil)
	eventually(t, "the failure is seen", func() bool { return c.status(t).Failure != "" })
	away("without a node")
	s.Set(objects(t, node("a"))...)
	if got, _ := d.take(); attached(got) != "" {
		t.Errorf("attached %q", attached(got))
	}
	done := c.attach(t.Context(), pod(1))
	d.next()
	d.close()
	var e *AwayError
	if err := <-done; !errors.As(err, &e) {
		t.Errorf("the dataplane went: %v", err)
	}
	d = c.follow(t, d.inForce)
	if got, _ := d.take(); attached(got) != "" {
		t.Errorf("attached %q", attached(got))
	}
	done = c.attach(t.Context(), pod(1))
	d.next()
	c.stop()
	if err := <-done; !errors.As(err, &e) {
		t.Errorf("control stops: %v", err)
	}
}

// TestAttachTimeout: who does not wait any more has nothing attached.
func TestAttachTimeout(t *testing.T) {
	var s memory.Source
	c, d := following(t, &s)
	ctx, cancel := context.WithCancel(t.Context())
	done := c.attach(ctx, pod(1))
	got, _ := d.next()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	other := pod(1) // what is left of the first does not harm the second
	other.MAC[5] = 99
	again := c.attach(t.Context(), other)
	d.ackClosed(got, "default/pod-1", "of the first")
	for mac := byte(0); mac != 99; {
		got, _ := d.take()
		for _, p := range got.Ports {
			if p.Name == other.Port {
				mac = p.Station.Mac[5]
			}
		}
	}
	if err := <-again; err != nil {
		t.Error(err)
	}
}

// TestAttachedFromTheBeginning: attachments that are known are in the first snapshot, and settings are told.
func TestAttachedFromTheBeginning(t *testing.T) {
	var s memory.Source
	s.Replace(objects(t, "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\n"+
		"spec: {podCIDRs: [10.244.1.0/24], excludedAddresses: [10.244.1.9], mtu: 1400, workers: 3}"))
	told := make(chan Settings, 2)
	c := startWith(t, socketPath(t), Config{Source: &s, Attachments: []*compile.Attachment{pod(1), pod(2)},
		Settings: func(s Settings) { told <- s }})
	d := c.follow(t, nil)
	if got, _ := d.take(); attached(got) != "1 2" {
		t.Errorf("attached %q", attached(got))
	}
	want := Settings{Pools: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
		Excluded: []netip.Prefix{netip.MustParsePrefix("10.244.1.9/32")}, MTU: 1400, Workers: 3}
	if got := <-told; !got.equal(want) {
		t.Errorf("settings %+v", got)
	}
	s.Set(objects(t, node("a"))...)
	if got := <-told; !got.equal(Settings{}) {
		t.Errorf("settings %+v", got)
	}
}

// TestNumbersRunOut: what would fail for want of a port number is said beforehand.
func TestNumbersRunOut(t *testing.T) {
	var s memory.Source
	c, _ := following(t, &s)
	full := *c.state.Load()
	full.inForce = &api.Snapshot{Ports: make([]*api.Port, api.MaxPort)}
	c.state.Store(&full)
	if err := c.Attachable(); !errors.As(err, new(*NumbersError)) {
		t.Errorf("with every number in use: %v", err)
	}
}
