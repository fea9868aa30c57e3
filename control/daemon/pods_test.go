// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/api/attach"
	"github.com/viaduct-net/viaduct/internal/process"
)

// running is a control with a dataplane that takes everything, and its log.
type running struct {
	plugin attach.AttachmentsService
	status func() *api.StatusReply
	log    *observer.ObservedLogs
	stop   func()
}

func runPods(t *testing.T, o Options) *running {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	o.Logger, o.Run = zap.New(core), t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done, followed := make(chan error, 1), make(chan struct{})
	go func() { done <- Run(ctx, o) }()
	conn, err := process.Dial(filepath.Join(o.Run, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	control := api.NewControlClient(conn)
	go func() {
		defer close(followed)
		for ctx.Err() == nil {
			takeAll(ctx, control)
			time.Sleep(time.Millisecond)
		}
	}()
	var plugin *ttrpc.Client
	for plugin == nil {
		if c, err := net.Dial("unix", filepath.Join(o.Run, "cni.sock")); err == nil {
			plugin = ttrpc.NewClient(c)
		}
	}
	r := &running{plugin: attach.NewAttachmentsClient(plugin), log: logs}
	r.status = func() *api.StatusReply {
		s, err := control.Status(ctx, &api.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		<-followed
		_ = plugin.Close()
		_ = conn.Close()
	}
	t.Cleanup(r.stop)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err = r.plugin.Ready(ctx, &attach.ReadyRequest{}); err == nil {
			return r
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// takeAll follows control and acks what it says, until the stream ends.
func takeAll(ctx context.Context, control api.ControlClient) {
	stream, err := control.Sync(ctx)
	if err != nil {
		return
	}
	_ = stream.Send(&api.FromDataplane{Message: &api.FromDataplane_Hello{Hello: &api.Hello{}}})
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		epoch := max(m.GetSnapshot().GetEpoch(), m.GetDelta().GetSet().GetEpoch())
		_ = stream.Send(&api.FromDataplane{Message: &api.FromDataplane_Ack{Ack: &api.Ack{Epoch: epoch}}})
	}
}

func addRequest(i int) *attach.AddRequest {
	return &attach.AddRequest{Key: &attach.Key{Network: "n", Container: fmt.Sprint("c", i), Interface: "eth0"},
		Netns: "/run/netns/x", Device: fmt.Sprint("vd", i), Mac: []byte{2, 0, 0, 0, 0, byte(i)}}
}

// TestPods: addresses outlive the process, and how many are left is said.
func TestPods(t *testing.T) {
	manifests, state := t.TempDir(), filepath.Join(t.TempDir(), "made")
	write(t, filepath.Join(manifests, "node.yaml"), "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\n"+
		"metadata: {name: a}\nspec: {podCIDRs: [10.244.1.0/28]}\n") // 12 addresses for pods
	o := Options{State: state, Source: "dir:" + manifests, Node: "a"}
	r := runPods(t, o)
	if _, err := r.plugin.Add(t.Context(), addRequest(0)); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r = runPods(t, o)
	if s := r.status(); s.Attachments != 1 || len(s.Pools) != 1 || s.Pools[0].Leased != 1 || s.Pools[0].Size != 12 {
		t.Errorf("status %v", s)
	}
	for i := range 11 {
		if _, err := r.plugin.Add(t.Context(), addRequest(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.log.FilterMessageSnippet("nearly exhausted").Len(); n != 1 {
		t.Errorf("%d warnings of a pool that is nearly exhausted", n)
	}
}

// TestPodsMetrics: what is leased is measured.
func TestPodsMetrics(t *testing.T) {
	o := Options{State: t.TempDir(), Run: t.TempDir(), Logger: zap.NewNop()}
	p, err := openPods(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(p.service.Metrics())
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

// TestLeasesThatCannotBeRead: nothing is begun over addresses that may be in use.
func TestLeasesThatCannotBeRead(t *testing.T) {
	state := t.TempDir()
	write(t, filepath.Join(state, "leases.db"), "torn")
	err := Run(t.Context(), Options{Run: t.TempDir(), State: state, Source: "dir:" + t.TempDir(), Logger: zap.NewNop()})
	if err == nil || !strings.Contains(err.Error(), "leases.db") {
		t.Errorf("it runs: %v", err)
	}
	if text, _ := os.ReadFile(filepath.Join(state, "leases.db")); string(text) != "torn" {
		t.Errorf("the file was changed: %q", text)
	}
}
