// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/viaduct-net/viaduct/cni/cnitest"
	"github.com/viaduct-net/viaduct/internal/netlab"
	"github.com/viaduct-net/viaduct/internal/testenv"
)

// reference is where Debian has the reference plugins.
const reference = "/usr/lib/cni"

// plugins is the directory of the built viaduct-cni.
var plugins string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "viaduct-cni")
	if err != nil {
		panic(err)
	}
	plugins = dir
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir, "./cmd/viaduct-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// rig is a node: a namespace that the plugin runs in, and a control.
type rig struct {
	*testing.T
	lab     *netlab.Lab
	host    *netlab.Namespace
	runDir  string
	control *cnitest.Control
	cni     *libcni.CNIConfig
}

func node(t *testing.T) *rig {
	t.Helper()
	testenv.Root(t)
	r := &rig{T: t, lab: netlab.New(), runDir: t.TempDir()}
	t.Cleanup(func() { r.ok(r.lab.Close()) })
	r.host = r.namespace("host")
	r.cni = libcni.NewCNIConfigWithCacheDir([]string{plugins, reference}, t.TempDir(), &inside{r.host})
	r.serve()
	t.Cleanup(func() { r.control.Close() })
	return r
}

func (r *rig) serve() {
	r.Helper()
	var err error
	r.control, err = cnitest.Serve(r.runDir)
	r.ok(err)
}

func (r *rig) namespace(name string) *netlab.Namespace {
	r.Helper()
	n, err := r.lab.Namespace(name)
	r.ok(err)
	return n
}

func (r *rig) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// inside runs plugins in a namespace.
type inside struct{ *netlab.Namespace }

func (i *inside) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	doErr := i.Do(func() error {
		out, err = (&invoke.RawExec{Stderr: io.Discard}).ExecPlugin(ctx, path, stdin, environ)
		return nil
	})
	return out, errors.Join(err, doErr)
}

func (i *inside) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

func (i *inside) Decode(data []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(data)
}

// pod is a container that waits for an interface.
type pod struct {
	*netlab.Namespace
	runtime *libcni.RuntimeConf
}

func (r *rig) pod(container string) *pod {
	r.Helper()
	n := r.namespace(container)
	return &pod{n, &libcni.RuntimeConf{ContainerID: container, NetNS: path(n), IfName: "eth0"}}
}

func path(n *netlab.Namespace) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.FD()) }

// list is a network configuration list of ours, with more keys, and of plugins behind it.
func (r *rig) list(cniVersion, more string, behind ...string) *libcni.NetworkConfigList {
	r.Helper()
	ours := fmt.Sprintf(`{"type": "viaduct-cni", "runDir": %q, "capabilities":
		{"portMappings": true, "bandwidth": true, "ips": true, "mac": true}%s}`, r.runDir, more)
	return r.chain(cniVersion, append([]string{ours}, behind...)...)
}

func (r *rig) chain(cniVersion string, links ...string) *libcni.NetworkConfigList {
	r.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(fmt.Sprintf(`{"cniVersion": %q, "name": "net", "plugins": [%s]}`,
		cniVersion, strings.Join(links, ","))))
	r.ok(err)
	return list
}

func (r *rig) add(list *libcni.NetworkConfigList, p *pod) *current.Result {
	r.Helper()
	result, err := r.cni.AddNetworkList(context.Background(), list, p.runtime)
	r.ok(err)
	return r.current(result)
}

func (r *rig) current(result types.Result) *current.Result {
	r.Helper()
	c, err := current.NewResultFromResult(result)
	r.ok(err)
	return c
}

func (r *rig) check(list *libcni.NetworkConfigList, p *pod) error {
	return r.cni.CheckNetworkList(context.Background(), list, p.runtime)
}

func (r *rig) del(list *libcni.NetworkConfigList, p *pod) error {
	return r.cni.DelNetworkList(context.Background(), list, p.runtime)
}

// links are the names of the devices of a namespace, but lo.
func (r *rig) links(n *netlab.Namespace) []string {
	r.Helper()
	links, err := n.Links().LinkList()
	r.ok(err)
	var names []string
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names
}

// clean fails the test unless nothing of ours is left.
func (r *rig) clean(pods ...*pod) {
	r.Helper()
	if left := r.links(r.host); len(left) > 0 {
		r.Errorf("left on the host: %v", left)
	}
	for _, p := range pods {
		if left := r.links(p.Namespace); len(left) > 0 {
			r.Errorf("left in %s: %v", p.Name(), left)
		}
	}
	if left := r.control.Leases(); len(left) > 0 {
		r.Errorf("left at control: %v", left)
	}
}

// run runs the plugin itself: its environment, its input, and the error it prints, nil when it succeeds.
func (r *rig) run(env map[string]string, stdin string) (string, *types.Error) {
	r.Helper()
	var out []byte
	var runErr error
	r.ok(r.host.Do(func() error {
		out, runErr = r.plugin(env, stdin).Output()
		return nil
	}))
	if runErr == nil {
		return string(out), nil
	}
	var exit *exec.ExitError
	failure := &types.Error{}
	if !errors.As(runErr, &exit) || exit.ExitCode() != 1 || json.Unmarshal(out, failure) != nil {
		r.Fatalf("%v: %s", runErr, out)
	}
	if failure.Msg == "" || strings.ContainsAny(failure.Msg, "\n") || strings.ContainsAny(failure.Details, "\n") {
		r.Errorf("not one line: %q, %q", failure.Msg, failure.Details)
	}
	return string(out), failure
}

// plugin is a run of the plugin; the namespace is that of the thread that starts it.
func (r *rig) plugin(env map[string]string, stdin string) *exec.Cmd {
	c := exec.Command(filepath.Join(plugins, "viaduct-cni"))
	c.Env = []string{"PATH=/usr/sbin:/usr/bin"}
	for key, value := range env {
		c.Env = append(c.Env, key+"="+value)
	}
	c.Stdin = strings.NewReader(stdin)
	return c
}

// code is that of the error that a plugin printed.
func code(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// another is a second interface of the same container.
func (p *pod) another(ifname string) *pod {
	runtime := *p.runtime
	runtime.IfName = ifname
	return &pod{p.Namespace, &runtime}
}

// sysctls are disable_ipv6 of devices, with blanks between.
func (p *pod) sysctls(r *rig, devices ...string) string {
	var values []string
	r.ok(p.Do(func() error {
		for _, d := range devices {
			value, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + d + "/disable_ipv6")
			if err != nil {
				return err
			}
			values = append(values, strings.TrimSpace(string(value)))
		}
		return nil
	}))
	return strings.Join(values, " ")
}

// end is an end of a pair that is not the plugin's.
func (r *rig) end(in *netlab.Namespace, device, address string) netlab.End {
	return netlab.End{In: in, Device: device, Addresses: []netip.Prefix{netip.MustParsePrefix(address)}}
}
