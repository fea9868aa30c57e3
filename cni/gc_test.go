// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const none = `, "cni.dev/valid-attachments": []`

func TestCollect(t *testing.T) {
	r := node(t)
	list := r.list("1.1.0", "")
	stays, goes, forgotten, other := r.pod("stays"), r.pod("goes"), r.pod("forgotten"), r.pod("other")
	r.add(list, forgotten)
	r.control.Forget()
	r.add(list, stays)
	r.add(list, goes)
	elsewhere := r.list("1.1.0", "")
	elsewhere.Name = "elsewhere"
	r.add(elsewhere, other)

	// To the plugin itself: libcni would delete what it has in its cache.
	valid := `, "cni.dev/valid-attachments": [{"containerID": "stays", "ifname": "eth0"}]`
	for range 2 {
		if out, err := r.run(environment(stays, "CNI_COMMAND", "GC"), r.configuration(valid)); err != nil {
			t.Fatal(out)
		}
		r.ok(r.check(list, stays))
		r.ok(r.check(elsewhere, other))
		if left := append(r.links(goes.Namespace), r.links(forgotten.Namespace)...); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if left := r.control.Leases(); len(left) != 2 {
			t.Errorf("left: %v", left)
		}
	}
	r.ok(r.cni.GCNetworkList(context.Background(), list, &libcni.GCArgs{}))
	r.ok(r.cni.GCNetworkList(context.Background(), elsewhere, &libcni.GCArgs{
		ValidAttachments: []types.GCAttachment{{ContainerID: "other", IfName: "eth0"}}}))
	r.ok(r.check(elsewhere, other))
	if links := r.links(r.host); len(links) != 1 {
		t.Errorf("%v", links)
	}
}

func TestCollectWithoutAList(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	r.add(list, p)
	for more, want := range map[string]uint{"": 7, `, "cni.dev/valid-attachments": 5`: 6} {
		if out, err := r.run(environment(p, "CNI_COMMAND", "GC"), r.configuration(more)); err == nil || err.Code != want {
			t.Error(out)
		}
	}
	r.ok(r.check(list, p))
}

// What control names is removed only if it is a device of ours.
func TestCollectTouchesNothingElse(t *testing.T) {
	r := node(t)
	list, p := r.list("1.1.0", ""), r.pod("one")
	device := r.add(list, p).Interfaces[0].Name
	l, err := r.host.Links().LinkByName(device)
	r.ok(err)
	r.ok(r.host.Links().LinkSetAlias(l, "mine"))
	if out, err := r.run(environment(p, "CNI_COMMAND", "GC"), r.configuration(none)); err != nil {
		t.Fatal(out)
	}
	if links := r.links(r.host); !slices.Equal(links, []string{device}) {
		t.Errorf("%v", links)
	}
}

func TestCollectWithoutControl(t *testing.T) {
	r := node(t)
	p := r.pod("one")
	if out, err := r.run(environment(p, "CNI_COMMAND", "GC"),
		r.configuration(none+`, "runDir": "/nonexistent"`)); err == nil || err.Code != 11 {
		t.Error(out)
	}
	r.control.Before(func(context.Context, string) error { return status.Error(codes.Internal, "no") })
	if out, err := r.run(environment(p, "CNI_COMMAND", "GC"), r.configuration(none)); err == nil || err.Code != 999 {
		t.Error(out)
	}
}

func TestStatus(t *testing.T) {
	r := node(t)
	list := r.list("1.1.0", "")
	r.ok(r.cni.GetStatusNetworkList(context.Background(), list))
	r.control.Before(func(context.Context, string) error {
		return status.Error(codes.ResourceExhausted, "no address of 10.244.1.0/24 is free")
	})
	err := r.cni.GetStatusNetworkList(context.Background(), list)
	if code(err) != types.ErrPluginNotAvailable || !strings.HasSuffix(err.Error(),
		"; no address of 10.244.1.0/24 is free") {
		t.Error(err)
	}
	r.control.Before(nil)
	for more, want := range map[string]uint{`, "runDir": "/nonexistent"`: 50, `, "attach": "x"`: 7} {
		if err := r.cni.GetStatusNetworkList(context.Background(), r.list("1.1.0", more)); code(err) != want {
			t.Errorf("%s: %v", more, err)
		}
	}
}
