// SPDX-License-Identifier: Apache-2.0

package joint

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/viaduct-net/viaduct/control/api"
	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/push"
	"github.com/viaduct-net/viaduct/control/source/memory"
	"github.com/viaduct-net/viaduct/dataplane/follow"
	"github.com/viaduct-net/viaduct/dataplane/neighbor"
	"github.com/viaduct-net/viaduct/dataplane/tables"
	"github.com/viaduct-net/viaduct/internal/process"
)

// faulty makes real tables, of snapshots in which whatever is named "bad" says what the dataplane does not know: as if
// control did not know its rules.
type faulty struct {
	mu        sync.Mutex
	neighbors *neighbor.Table
	tables    *tables.Tables
	inForce   *api.Snapshot
}

func links(string) (tables.Link, bool) { return tables.Link{MTU: 1500, Up: true}, true }

func spoil(s *api.Snapshot) {
	for _, one := range s.GetServices() {
		if strings.Contains(one.Name, "bad") {
			one.Algorithm = 99
		}
	}
	for _, one := range s.GetPolicies() {
		if strings.Contains(one.Name, "bad") && len(one.Rules) > 0 {
			one.Rules[0].Action = 99
		}
	}
}

func (f *faulty) Apply(_ context.Context, s *api.Snapshot) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	spoil(s)
	t, err := tables.Build(f.tables, s, links, f.neighbors)
	return f.commit(t, s, err)
}

func (f *faulty) ApplyDelta(_ context.Context, d *api.Delta) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	spoil(d.GetSet())
	next, err := d.Apply(f.inForce)
	if err != nil {
		return err
	}
	t, err := tables.Update(f.tables, next, d, links)
	return f.commit(t, next, err)
}

func (f *faulty) commit(t *tables.Tables, s *api.Snapshot, err error) error {
	if err == nil {
		f.tables, f.inForce = t, s
	}
	return err
}

func (f *faulty) Closed() []*api.ClosedPort { return nil }

func (f *faulty) InForce() *api.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inForce
}

// has says what is in force: services by name, and policies with how many rules they have.
func (f *faulty) has() string {
	var list []string
	s := f.InForce()
	for _, one := range s.GetServices() {
		list = append(list, one.Name)
	}
	for _, one := range s.GetPolicies() {
		list = append(list, fmt.Sprintf("%s/%d", one.Name, len(one.Rules)))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// TestWithheld: what one object says that the dataplane does not take keeps no other from coming into force, and the
// dataplane's words about it reach those who look.
func TestWithheld(t *testing.T) {
	var source memory.Source
	objects := func(documents ...string) []*model.Object {
		list, errs := model.Decode("lab.yaml", []byte(strings.Join(documents, "\n---\n")))
		if len(errs) > 0 {
			t.Fatal(errs[0])
		}
		return list
	}
	service := func(name, address string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: web}\n"+
			"spec: {clusterIP: %s, ports: [{port: 80}]}", name, address)
	}
	policy := func(name string) string {
		return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: web}\n"+
			"spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}", name)
	}
	source.Replace(objects("apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: lab}\nspec: {}",
		service("good", "10.96.0.1"), service("bad", "10.96.0.2"), policy("good"), policy("bad")))
	control := push.New(push.Config{Source: &source, Node: compile.Node{Name: "lab"}, Logger: zap.NewNop()})
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := process.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(process.Credentials()))
	api.RegisterControlServer(server, control)
	f := &faulty{neighbors: neighbor.NewTable(neighbor.Config{})}
	client := follow.New(follow.Config{Socket: path, Node: "lab", Version: "1", Forwarder: f, Logger: zap.NewNop()})
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = control.Run(ctx) })
	group.Go(func() { _ = server.Serve(l) })
	group.Go(func() { _ = client.Run(ctx) })
	t.Cleanup(func() {
		stop()
		server.Stop()
		group.Wait()
	})
	comes := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); f.has() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("in force %q, want %q", f.has(), want)
			}
		}
	}
	comes("NetworkPolicy web/bad/0, NetworkPolicy web/good/1, web/good")
	source.Set(objects(service("other", "10.96.0.3"))...)
	comes("NetworkPolicy web/bad/0, NetworkPolicy web/good/1, web/good, web/other")
	reply, err := control.Status(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	said := ""
	for _, one := range reply.Refused {
		said += one.Object + ": " + one.Reason + "\n"
	}
	for _, want := range []string{"Service web/bad: the dataplane refuses it: 99 is not known; it is left out",
		"NetworkPolicy web/bad: the dataplane refuses it: 99 is not known; its subjects are isolated"} {
		if !strings.Contains(said, want) {
			t.Errorf("status says %q, want %q", said, want)
		}
	}
	if reply.Dataplane.Nacks != 2 {
		t.Errorf("%d nacks, want 2", reply.Dataplane.Nacks)
	}
	source.Remove(model.Key{Kind: "NetworkPolicy", Namespace: "web", Name: "bad"})
	comes("NetworkPolicy web/good/1, web/good, web/other")
}
