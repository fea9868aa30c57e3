// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/viaduct-net/viaduct/control/compile"
	"github.com/viaduct-net/viaduct/control/model"
	"github.com/viaduct-net/viaduct/control/source"
	"github.com/viaduct-net/viaduct/control/source/memory"
	"github.com/viaduct-net/viaduct/internal/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func nodeConfig(t *testing.T, name string, mtu int) string {
	t.Helper()
	const text = "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: %s}\nspec: {mtu: %d}\n"
	return fmt.Sprintf(text, name, mtu)
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// over runs a source with a --config file over it, and returns what it says.
func over(t *testing.T, s source.Source, file string) (*configured, <-chan source.Event) {
	t.Helper()
	c, err := newConfigured(s, file, "lab")
	if err != nil {
		t.Fatal(err)
	}
	events, done := make(chan source.Event), make(chan error)
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		done <- c.Run(ctx, func(e source.Event) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c, events
}

// TestConfigFile: the file's NodeConfig is the node's, whatever the source says, and until it is right again the last
// good form of it.
func TestConfigFile(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "c.yaml"), nodeConfig(t, "x", 1400))
	var s memory.Source
	theirs, _ := model.Decode("theirs.yaml", []byte(nodeConfig(t, "lab", 9000)))
	s.Replace(theirs)
	c, events := over(t, &s, file)
	compiler := compile.New(compile.Node{Name: "lab"})
	mtu := func() uint32 {
		t.Helper()
		step, err := compiler.Compile(1)
		if err != nil {
			t.Fatal(err)
		}
		return step.Snapshot.Node.Mtu
	}
	compiler.Replace((<-events).Set)
	if got := mtu(); got != 1400 {
		t.Errorf("MTU %d, and the file says 1400", got)
	}
	again, _ := model.Decode("theirs.yaml", []byte(nodeConfig(t, "lab", 8000)))
	s.Set(again...)
	e := <-events
	compiler.Change(e.Set, e.Removed)
	s.Remove(theirs[0].Key)
	e = <-events
	compiler.Change(e.Set, e.Removed)
	if got := mtu(); got != 1400 {
		t.Errorf("MTU %d after the source's changed and went, and the file says 1400", got)
	}
	write(t, file, "kind: Nonsense")
	c.Reload()
	if e = <-events; len(e.Errors) != 1 || !strings.Contains(e.Errors[0].Error(), file) {
		t.Errorf("a wrong file: %v", e.Errors)
	}
	write(t, file, nodeConfig(t, "x", 1300))
	c.Reload()
	e = <-events
	compiler.Change(e.Set, e.Removed)
	if got := mtu(); got != 1300 || len(e.Errors) > 0 {
		t.Errorf("MTU %d, errors %v", got, e.Errors)
	}
}

func TestConfigFileHasToBeRight(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "a: [", nodeConfig(t, "a", 1400) + "---\n" + nodeConfig(t, "b", 1400),
		"apiVersion: v1\nkind: Node\nmetadata: {name: a}\n"} {
		if _, err := newConfigured(&memory.Source{}, write(t, filepath.Join(dir, "c.yaml"), text), "lab"); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if _, err := newConfigured(&memory.Source{}, filepath.Join(dir, "no"), "lab"); err == nil {
		t.Error("a file that is not there was taken")
	}
}

// TestStatusOfConfig: what is said of the file's NodeConfig is not said of the source's, also after a reload.
func TestStatusOfConfig(t *testing.T) {
	var s memory.Source
	s.Replace(nil)
	c, events := over(t, &s, write(t, filepath.Join(t.TempDir(), "c.yaml"), nodeConfig(t, "x", 1400)))
	ours := (<-events).Set[0]
	c.Reload()
	<-events
	route := &model.Object{Key: model.Key{Kind: "Route", Name: "a"}}
	c.Publish(source.Report{Node: "lab", Epoch: 1, Statuses: []source.Status{{Object: ours}, {Object: route}}})
	if r := s.Reports(); len(r) != 1 || len(r[0].Statuses) != 1 || r[0].Statuses[0].Object != route {
		t.Errorf("the source is told %+v", r)
	}
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	for spec, want := range map[string]string{
		"": "say where", "dir:": "no kind", "dir:/no/such": "no such directory", "etcd:": "no kind",
		"dir:/dev/null":                      "not a directory",
		"Etcd:https://root:secret@host:2379": `"Etcd"`, "kubernetes": "", "dir:" + dir: "",
		"etcd:http://127.0.0.1:1": "",
	} {
		o := Options{Source: spec}
		_, err := o.open("a")
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%q: %v, want %q", spec, err, want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("a password is printed: %v", err)
		}
	}
}

func TestNodeNames(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		flag, environment, source string
		want                      compile.Node
	}{
		{"a", "b", "dir:x", compile.Node{Name: "a"}},
		{"", "b", "dir:x", compile.Node{Name: "b"}},
		{"", "", "dir:x", compile.Node{Name: host, Sole: true}},
		{"", "", "kubernetes", compile.Node{Name: host}},
	} {
		t.Setenv("NODE_NAME", row.environment)
		o := Options{Node: row.flag, Source: row.source}
		if got, err := o.node(); err != nil || got != row.want {
			t.Errorf("%+v: %+v, %v", row, got, err)
		}
	}
}

// TestProbes: the endpoints answer, and readiness follows the source.
func TestProbes(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	manifests := t.TempDir()
	write(t, filepath.Join(manifests, "node.yaml"), nodeConfig(t, "a", 1400))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- Run(ctx, Options{Run: t.TempDir(), State: t.TempDir(), Source: "dir:" + manifests, Node: "a",
			Metrics: address, Logger: zap.NewNop()})
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		r, err := client.Get("http://" + address + path)
		if err != nil {
			return 0, err.Error()
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(body)
	}
	until := func(what string, so func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("never: " + what)
			}
		}
	}
	until("ready", func() bool { code, _ := get("/readyz"); return code == http.StatusOK })
	if code, body := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if _, body := get("/metrics"); !strings.Contains(body, "viaduct_control_objects{kind=\"NodeConfig\"} 1") {
		t.Errorf("/metrics: %s", body)
	}
	if err := os.Rename(manifests, manifests+".away"); err != nil {
		t.Fatal(err)
	}
	until("not ready", func() bool {
		code, body := get("/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(body, "trouble")
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWrongMetricsAddress: nothing says ready before all listens.
func TestWrongMetricsAddress(t *testing.T) {
	var ready strings.Builder
	err := Run(t.Context(), Options{Run: t.TempDir(), State: t.TempDir(), Source: "dir:" + t.TempDir(),
		Metrics: "256.0.0.1:1", Logger: zap.NewNop(), Ready: &ready})
	var setUp *process.SetUpError
	if !errors.As(err, &setUp) || ready.Len() > 0 {
		t.Errorf("%v, said %q", err, ready.String())
	}
}
