// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	controlapi "github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/daemon"
	"github.com/viaduct-net/viaduct/internal/process"
)

// dataplane follows a control process, and acks all that it is sent.
type dataplane struct {
	t       *testing.T
	stream  controlapi.Control_SyncClient
	inForce *controlapi.Snapshot
}

// run runs control over the source, until the test ends, with a dataplane that follows it.
func run(t *testing.T, source string) *dataplane {
	t.Helper()
	dir := t.TempDir()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- daemon.Run(ctx, daemon.Options{Run: dir, State: t.TempDir(), Source: source, Node: "node-a",
			Logger: zaptest.NewLogger(t)})
	}()
	conn, err := process.Dial(filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	limited, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	stream, err := controlapi.NewControlClient(conn).Sync(limited, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	d := &dataplane{t: t, stream: stream}
	d.send(&controlapi.FromDataplane{Message: &controlapi.FromDataplane_Hello{Hello: &controlapi.Hello{Node: "node-a"}}})
	return d
}

func (d *dataplane) send(m *controlapi.FromDataplane) {
	d.t.Helper()
	if err := d.stream.Send(m); err != nil {
		d.t.Fatal(err)
	}
}

// until takes what control sends until it is as wanted.
func (d *dataplane) until(what string, wanted func(*controlapi.Snapshot) bool) {
	d.t.Helper()
	for d.inForce == nil || !wanted(d.inForce) {
		m, err := d.stream.Recv()
		if err != nil {
			d.t.Fatalf("%s: %v, with %v in force", what, err, d.inForce)
		}
		if m.GetDelta() == nil {
			d.inForce = m.GetSnapshot()
		} else if d.inForce, err = m.GetDelta().Apply(d.inForce); err != nil {
			d.t.Fatal(err)
		}
		d.send(&controlapi.FromDataplane{Message: &controlapi.FromDataplane_Ack{
			Ack: &controlapi.Ack{Epoch: d.inForce.Epoch}}})
	}
}

// tables are what is in force, without the epoch and the files that objects came from.
func (d *dataplane) tables() *controlapi.Snapshot {
	s := proto.CloneOf(d.inForce)
	s.Epoch = 0
	for i := range s.Origins {
		s.Origins[i], _, _ = strings.Cut(s.Origins[i], " (")
	}
	return s
}

// TestControlPushesTheSameTables: a control of the API server and one of the same manifests give a dataplane the same;
// what it applies stands in the objects' status.
func TestControlPushesTheSameTables(t *testing.T) {
	c := admin(t)
	c.define()
	for _, o := range read(t, "testdata/cluster/clusternetworkpolicy.crd") {
		c.apply(o)
		c.established(o)
		t.Cleanup(func() {
			c.remove(o)
			c.wait(o.GetName()+" to go", func() bool { return !c.exists(o) })
		})
	}
	for _, name := range []string{"nodes.yaml", "pods.yaml", "routes.yaml"} {
		for _, o := range read(t, "testdata/cluster/"+name) {
			c.apply(o)
		}
	}
	kubeconfig, err := api.kubeconfig(api.address, token)
	if err != nil {
		t.Fatal(err)
	}
	anything := func(*controlapi.Snapshot) bool { return true }
	files, server := run(t, "dir:testdata/cluster"), run(t, "kubernetes:"+kubeconfig)
	files.until("the first state", anything)
	server.until("the first state", anything)
	if want, got := files.tables(), server.tables(); !proto.Equal(want, got) || len(want.Routes) == 0 {
		t.Errorf("files give\n%v\nand the API server\n%v", want, got)
	}

	added := route(t, "added", "{node: node-a, destination: 203.0.113.0/24, type: unreachable}")
	routes := len(server.inForce.Routes)
	c.apply(added)
	server.until("another route", func(s *controlapi.Snapshot) bool { return len(s.Routes) == routes+1 })
	c.eventually(added, "applied", func(_, conditions []any) bool {
		return says(conditions, 0, map[string]string{"type": "Applied", "status": "True"})
	})
	c.remove(added)
	server.until("the route gone", func(s *controlapi.Snapshot) bool { return len(s.Routes) == routes })
}
