// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source/memory"
	"github.com/viaduct-net/viaduct/internal/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// objects decodes documents.
func objects(t testing.TB, documents ...string) []*model.Object {
	t.Helper()
	list, errs := model.Decode("lab.yaml", []byte(strings.Join(documents, "\n---\n")))
	if len(errs) > 0 {
		t.Fatal(errs[0])
	}
	return list
}

func node(devices ...string) string {
	ports := ""
	for _, d := range devices {
		ports += "{name: on-" + d + ", device: " + d + "}, "
	}
	return "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\nspec: {ports: [" + ports + "]}"
}

func blackhole(name, destination string) string {
	return fmt.Sprintf("apiVersion: viaduct.dev/v1alpha1\nkind: Route\nmetadata: {name: %s}\n"+
		"spec: {destination: %s, type: blackhole}", name, destination)
}

func key(name string) model.Key { return model.Key{Kind: "Route", Name: name} }

// control is a server on a socket.
type control struct {
	*Server
	path string
	stop func()
}

// start runs a server until the test's end, or stop.
func start(t *testing.T, s *memory.Source, path string) *control {
	t.Helper()
	return startWith(t, path, Config{Source: s})
}

func startWith(t *testing.T, path string, cfg Config) *control {
	t.Helper()
	cfg.Node, cfg.Version, cfg.Logger = compile.Node{Name: "lab"}, "1", zap.NewNop()
	c := &control{Server: New(cfg), path: path}
	l, err := process.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(process.Credentials()))
	api.RegisterControlServer(g, c.Server)
	ctx, cancel := context.WithCancel(context.Background())
	done, served := make(chan error, 1), make(chan struct{})
	go func() { done <- c.Server.Run(ctx) }()
	go func() {
		defer close(served)
		_ = g.Serve(l)
	}()
	stopped := false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		g.Stop()
		<-served
	}
	t.Cleanup(c.stop)
	return c
}

func startNew(t *testing.T, s *memory.Source) *control {
	t.Helper()
	return start(t, s, socketPath(t))
}

func socketPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "control.sock")
}

// dataplane is the other end: it keeps what it acks, as the dataplane does.
type dataplane struct {
	t       *testing.T
	stream  api.Control_SyncClient
	inForce *api.Snapshot
	close   func()
}

// dial opens a stream, without a hello.
func (c *control) dial(t *testing.T) *dataplane {
	t.Helper()
	conn, err := process.Dial(c.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	stream, err := api.NewControlClient(conn).Sync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d := &dataplane{t: t, stream: stream, close: func() {
		cancel()
		_ = conn.Close()
	}}
	t.Cleanup(d.close)
	return d
}

// follow opens a stream and says hello.
func (c *control) follow(t *testing.T, inForce *api.Snapshot) *dataplane {
	t.Helper()
	d := c.dial(t)
	d.inForce = inForce
	d.say(&api.FromDataplane{Message: &api.FromDataplane_Hello{Hello: &api.Hello{Version: "2", InForce: inForce}}})
	return d
}

func (d *dataplane) say(m *api.FromDataplane) {
	d.t.Helper()
	if err := d.stream.Send(m); err != nil {
		d.t.Fatal(err)
	}
}

// next is what the next message makes of what is in force, and whether it was a delta.
func (d *dataplane) next() (s *api.Snapshot, delta bool) {
	d.t.Helper()
	m, err := d.stream.Recv()
	if err != nil {
		d.t.Fatal(err)
	}
	if m.GetSnapshot() != nil {
		return m.GetSnapshot(), false
	}
	if s, err = m.GetDelta().Apply(d.inForce); err != nil {
		d.t.Fatal(err)
	}
	return s, true
}

func (d *dataplane) ack(s *api.Snapshot) {
	d.t.Helper()
	d.inForce = s
	d.say(&api.FromDataplane{Message: &api.FromDataplane_Ack{Ack: &api.Ack{Epoch: s.Epoch, ApplyNanoseconds: 5}}})
}

func (d *dataplane) nack(s *api.Snapshot, object string) {
	d.t.Helper()
	d.say(&api.FromDataplane{Message: &api.FromDataplane_Nack{Nack: &api.Nack{
		Epoch: s.Epoch, Object: object, Field: "spec.x", Reason: "does not fit",
	}}})
}

// take acks the next message, and returns what is in force then.
func (d *dataplane) take() (s *api.Snapshot, delta bool) {
	d.t.Helper()
	s, delta = d.next()
	d.ack(s)
	return s, delta
}

// ended returns how the stream ended; messages before that are left aside.
func (d *dataplane) ended() *status.Status {
	d.t.Helper()
	for {
		if _, err := d.stream.Recv(); err != nil {
			return status.Convert(err)
		}
	}
}

// routes are the origins of a snapshot's routes, in order of destination.
func routes(s *api.Snapshot) string {
	var list []string
	for _, r := range s.GetRoutes() {
		name, _, _ := strings.Cut(s.Origins[r.Origin], " (")
		list = append(list, strings.TrimPrefix(name, "Route "))
	}
	return strings.Join(list, " ")
}

// eventually waits for what becomes true by itself.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (c *control) status(t *testing.T) *api.StatusReply {
	t.Helper()
	s, err := c.Status(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
