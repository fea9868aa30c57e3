// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/api/attach"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/lease"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/push"
	"github.com/viaduct-net/viaduct/control/source/memory"
	"github.com/viaduct-net/viaduct/internal/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a control of one node with the service on its socket, over a directory of its own.
type rig struct {
	testing.TB
	dir     string
	source  *memory.Source
	store   *lease.Store
	service *Service
	server  *push.Server
	client  attach.AttachmentsService
	stop    func()
}

const config = "{podCIDRs: [10.244.1.0/24, \"fd00:1::/64\"], mtu: 1450, workers: 3}"

func nodeConfig(t testing.TB, spec string) []*model.Object {
	t.Helper()
	list, errs := model.Decode("lab.yaml", []byte(
		"apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\nspec: "+spec))
	if len(errs) > 0 {
		t.Fatal(errs[0])
	}
	return list
}

// start starts a control in the directory, until the test's end or stop.
func start(t testing.TB, dir string, within time.Duration) *rig {
	t.Helper()
	r := &rig{TB: t, dir: dir, source: &memory.Source{}}
	r.source.Replace(nodeConfig(t, config))
	var err error
	if r.store, err = lease.Open(filepath.Join(dir, "leases.db")); err != nil {
		t.Fatal(err)
	}
	r.service = New(Config{Store: r.store, Logger: zap.NewNop(), Within: within})
	r.server = push.New(push.Config{
		Source: r.source, Node: compile.Node{Name: "lab"}, Logger: zap.NewNop(),
		Attachments: Known(r.store), Settings: r.service.Configure, Pools: r.service.Pools,
	})
	r.service.Use(r.server)
	sockets := map[string]net.Listener{}
	for _, name := range []string{"control.sock", "cni.sock"} {
		if sockets[name], err = process.Listen(context.Background(), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	g := grpc.NewServer(grpc.Creds(process.Credentials()))
	api.RegisterControlServer(g, r.server)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(sockets["control.sock"]) })
	running.Go(func() { check(t, r.service.Serve(ctx, sockets["cni.sock"])) })
	running.Go(func() { check(t, r.server.Run(ctx)) })
	connection, err := net.Dial("unix", filepath.Join(dir, "cni.sock"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(connection)
	r.client = attach.NewAttachmentsClient(client)
	r.stop = sync.OnceFunc(func() {
		cancel()
		g.Stop()
		running.Wait()
		check(t, r.store.Close())
		_ = client.Close()
	})
	t.Cleanup(r.stop)
	return r
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// follower is a dataplane that does as it is told.
type follower struct {
	mu      sync.Mutex
	inForce *api.Snapshot
	held    bool              // it does not answer
	refuse  string            // Nack.object; empty: it acks
	closed  map[string]string // ports, and why
	changed chan struct{}     // has one element after each change of what is above
}

// follow has a dataplane follow until the test's end.
func (r *rig) follow() *follower {
	r.Helper()
	conn, err := process.Dial(filepath.Join(r.dir, "control.sock"))
	if err != nil {
		r.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := api.NewControlClient(conn).Sync(ctx)
	if err != nil {
		r.Fatal(err)
	}
	f := &follower{changed: make(chan struct{}, 1), closed: map[string]string{}}
	check(r, stream.Send(&api.FromDataplane{Message: &api.FromDataplane_Hello{Hello: &api.Hello{}}}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.run(ctx, stream)
	}()
	r.Cleanup(func() {
		cancel()
		<-done
		_ = conn.Close()
	})
	r.eventually("the dataplane follows", func() bool { return r.server.Attachable() == nil })
	return f
}

func (f *follower) run(ctx context.Context, stream api.Control_SyncClient) {
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		next := m.GetSnapshot()
		if next == nil {
			if next, err = m.GetDelta().Apply(f.inForce); err != nil {
				panic(err)
			}
		}
		for f.isHeld() {
			select {
			case <-f.changed:
			case <-ctx.Done():
				return
			}
		}
		_ = stream.Send(f.answer(next))
	}
}

func (f *follower) isHeld() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *follower) answer(next *api.Snapshot) *api.FromDataplane {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, origin := range next.Origins {
		if f.refuse != "" && origin == f.refuse {
			return &api.FromDataplane{Message: &api.FromDataplane_Nack{Nack: &api.Nack{
				Epoch: next.Epoch, Object: f.refuse, Field: "limits[0]", Reason: "too low"}}}
		}
	}
	f.inForce = next
	ack := &api.Ack{Epoch: next.Epoch}
	for _, p := range next.Ports {
		if reason := f.closed[p.Name]; reason != "" {
			ack.Closed = append(ack.Closed, &api.ClosedPort{Port: p.Id, Reason: reason})
		}
	}
	return &api.FromDataplane{Message: &api.FromDataplane_Ack{Ack: ack}}
}

// tell changes what the follower does.
func (f *follower) tell(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// ports are the names of those in force, but for the host's.
func (f *follower) ports() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, p := range f.inForce.GetPorts() {
		if p.Name != "host" {
			names = append(names, p.Name)
		}
	}
	return strings.Join(names, " ")
}

// request is a good one, of the i-th container.
func request(i int) *attach.AddRequest {
	return &attach.AddRequest{
		Key:   &attach.Key{Network: "net", Container: fmt.Sprint("c", i), Interface: "eth0"},
		Netns: "/run/netns/x", PodNamespace: "default", PodName: fmt.Sprint("pod-", i), Device: fmt.Sprint("vd", i),
		Mac: []byte{2, 0, 0, 0, byte(i >> 8), byte(i)},
	}
}

// wants checks the code of an error; OK: there is none.
func (r *rig) wants(what string, err error, want codes.Code) {
	r.Helper()
	if status.Code(err) != want {
		r.Errorf("%s: %v, want %s", what, err, want)
	}
}

func (r *rig) eventually(what string, is func() bool) {
	r.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("never: %s", what)
		}
	}
}
