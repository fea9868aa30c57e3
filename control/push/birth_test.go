// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/source/memory"
)

// awaiting is a control that waits for pods, with a dataplane that has taken a first snapshot.
func awaiting(t *testing.T, s *memory.Source, within time.Duration) (*control, *dataplane) {
	t.Helper()
	s.Replace(objects(t, node("a"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}"))
	c := startWith(t, socketPath(t), Config{Source: s, AwaitPods: within})
	d := c.follow(t, nil)
	d.take()
	eventually(t, "the ack is seen", func() bool { return c.Attachable() == nil })
	return c, d
}

func podObject(name string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: web}}"
}

// labelled are the labels of the identities of a snapshot's pods.
func labelled(s *api.Snapshot) string {
	var list []string
	for _, id := range s.GetIdentities() {
		list = append(list, strings.Join(id.Labels, ","))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// TestAwaitPod: what the dataplane first hears of a port has the labels of its pod.
func TestAwaitPod(t *testing.T) {
	var s memory.Source
	c, d := awaiting(t, &s, time.Hour)
	first, second := c.attach(t.Context(), pod(1)), c.attach(t.Context(), pod(2))
	s.Set(objects(t, blackhole("a", "10.0.0.0/8"))...)
	if got, _ := d.take(); attached(got) != "" {
		t.Fatalf("attached %q before the pod was known", attached(got))
	}
	s.Set(objects(t, podObject("pod-2"))...)
	if got, _ := d.take(); attached(got) != "2" || labelled(got) != "app=web" {
		t.Errorf("attached %q with labels %q", attached(got), labelled(got))
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
	select {
	case err := <-first:
		t.Errorf("the other one: %v", err)
	default:
	}
	s.Set(objects(t, podObject("pod-1"))...)
	if got, _ := d.take(); attached(got) != "1 2" {
		t.Errorf("attached %q", attached(got))
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	nameless := pod(3)
	nameless.PodNamespace, nameless.PodName = "", ""
	done := c.attach(t.Context(), nameless)
	if got, _ := d.take(); attached(got) != "1 2 3" {
		t.Errorf("what is no pod's waits: %q", attached(got))
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAwaitNamespace: its labels are the pod's as well.
func TestAwaitNamespace(t *testing.T) {
	var s memory.Source
	c, d := awaiting(t, &s, time.Hour)
	elsewhere := pod(1)
	elsewhere.PodNamespace = "shop"
	done := c.attach(t.Context(), elsewhere)
	s.Set(objects(t, strings.Replace(podObject("pod-1"), "name: pod-1", "name: pod-1, namespace: shop", 1),
		blackhole("a", "10.0.0.0/8"))...)
	if got, _ := d.take(); attached(got) != "" {
		t.Fatalf("attached %q before the namespace was known", attached(got))
	}
	s.Set(objects(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}}")...)
	got, _ := d.take()
	if attached(got) != "1" || !slices.Contains(got.Identities[0].NamespaceLabels, "team=a") {
		t.Errorf("attached %q, identities %v", attached(got), got.Identities)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAwaitSuccessor: a pod that was made again under its name is not taken for the one before.
func TestAwaitSuccessor(t *testing.T) {
	var s memory.Source
	c, d := awaiting(t, &s, time.Hour)
	of := func(labels, annotations string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: pod-1, uid: u, labels: {" + labels + "}, annotations: {" +
			annotations + "}}"
	}
	s.Set(objects(t, of("app: old", ""))...)
	again := pod(1)
	again.PodUID = "u-2"
	done := c.attach(t.Context(), again)
	s.Set(objects(t, blackhole("a", "10.0.0.0/8"))...)
	if got, _ := d.take(); attached(got) != "" {
		t.Fatalf("attached %q as the pod before", attached(got))
	}
	s.Set(objects(t, of("app: new", "kubernetes.io/config.mirror: u-2"))...)
	if got, _ := d.take(); attached(got) != "1" || labelled(got) != "app=new" {
		t.Errorf("attached %q with labels %q", attached(got), labelled(got))
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAwaitInVain: who has waited for long enough is told what is missing, and nothing of it is left.
func TestAwaitInVain(t *testing.T) {
	var s memory.Source
	c, d := awaiting(t, &s, 20*time.Millisecond)
	var away *AwayError
	err := c.Attach(t.Context(), []*compile.Attachment{pod(1)}, nil)
	if !errors.As(err, &away) || away.Alone || !strings.Contains(away.Reason, "Pod default/pod-1 within 20ms") {
		t.Errorf("error %v", err)
	}
	s.Set(objects(t, podObject("pod-1"), blackhole("a", "10.0.0.0/8"))...)
	if got, _ := d.take(); attached(got) != "" {
		t.Errorf("attached %q, which nobody waits for", attached(got))
	}
}

// TestAwaitOvertaken: a removal, and the end of the caller's patience, end the wait.
func TestAwaitOvertaken(t *testing.T) {
	var s memory.Source
	c, d := awaiting(t, &s, time.Hour)
	r := &request{set: []*compile.Attachment{pod(1)}, ctx: t.Context(), done: make(chan error, 1)}
	c.requests.put(r) // as Attach does; now it is there for sure
	ctx, cancel := context.WithCancel(t.Context())
	given := c.attach(ctx, pod(2))
	s.Set(objects(t, blackhole("a", "10.0.0.0/8"))...)
	d.take()
	c.Detach([]string{"default/pod-1"})
	var refused *RefusedError
	if err := <-r.done; !errors.As(err, &refused) {
		t.Errorf("removed: %v", err)
	}
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	s.Set(objects(t, podObject("pod-1"), podObject("pod-2"), blackhole("b", "11.0.0.0/8"))...)
	if got, _ := d.take(); attached(got) != "" {
		t.Errorf("attached %q, which nobody waits for", attached(got))
	}
}

// TestAwaitAway: without a dataplane that is what is said, at once.
func TestAwaitAway(t *testing.T) {
	var s memory.Source
	c, d := awaiting(t, &s, time.Hour)
	done := c.attach(t.Context(), pod(1))
	d.close()
	var away *AwayError
	if err := <-done; !errors.As(err, &away) || away.Reason != noFollower {
		t.Errorf("error %v", err)
	}
}
