// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/viaduct-net/viaduct/internal/netlab"
	"github.com/viaduct-net/viaduct/internal/testenv"
)

// sweeping has the rig's service look into a namespace in which the devices are.
func sweeping(t *testing.T, r *rig, how Sweep, devices ...string) *netlab.Namespace {
	t.Helper()
	testenv.Root(t)
	lab := netlab.New()
	t.Cleanup(func() { check(t, lab.Close()) })
	host, err := lab.Namespace("host")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range devices {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := host.Links().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "p" + name}); err != nil {
			t.Fatal(err)
		}
	}
	if how.Links, err = OpenLinks(netns.NsHandle(host.FD())); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.service.Sweep(ctx, how) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
		how.Links.Close()
	})
	return host
}

// TestSweep: what has no device goes, at once where that is heard of; what has one, or is being added, stays.
func TestSweep(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	f := r.follow()
	for i := range 3 {
		if _, err := r.client.Add(t.Context(), request(i)); err != nil {
			t.Fatal(err)
		}
	}
	var one reader
	unlock, err := r.service.keys.lock(t.Context(), one.key(request(2).Key))
	if err != nil {
		t.Fatal(err)
	}
	host := sweeping(t, r, Sweep{Grace: 20 * time.Millisecond, Every: time.Hour}, "vd1", "vdx")
	r.eventually("what had no device is gone", func() bool { return f.ports() == "default/pod-1 default/pod-2" })
	link, err := host.Links().LinkByName("vd1")
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Links().LinkDel(link); err != nil {
		t.Fatal(err)
	}
	r.eventually("what lost its device is gone", func() bool { return f.ports() == "default/pod-2" })
	unlock()
	if link, err = host.Links().LinkByName("vdx"); err != nil {
		t.Fatal(err)
	}
	if err := host.Links().LinkDel(link); err != nil { // it looks again
		t.Fatal(err)
	}
	r.eventually("nothing is left", func() bool { return r.store.Len() == 0 })
}

// TestGrace: a device that is missing for a short time is not missed.
func TestGrace(t *testing.T) {
	r := start(t, t.TempDir(), 0)
	r.follow()
	if _, err := r.client.Add(t.Context(), request(1)); err != nil {
		t.Fatal(err)
	}
	w := &sweeper{Service: r.service, Sweep: Sweep{Grace: time.Hour, Every: 2 * time.Hour}}
	host := sweeping(t, r, Sweep{Every: time.Hour})
	links, err := OpenLinks(netns.NsHandle(host.FD()))
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	w.Links = links
	if after := w.sweep(); after > time.Hour || len(w.missed) != 1 {
		t.Errorf("looks again after %v, misses %v", after, w.missed)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "vd1"
	if err := host.Links().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "p"}); err != nil {
		t.Fatal(err)
	}
	if w.sweep(); len(w.missed) != 0 || r.store.Len() != 1 {
		t.Errorf("misses %v, %d attachments", w.missed, r.store.Len())
	}
}
