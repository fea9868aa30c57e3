// SPDX-License-Identifier: Apache-2.0

package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/viaduct-net/viaduct/internal/netlab"
)

// reference is where Debian has the reference plugins.
const reference = "/usr/lib/cni"

// podSite is a node with pods, and a world behind its uplink.
//
//	pod 10.244.1.x ── vd… ┐
//	                      ├ node 192.0.2.1 ── up ── 192.0.2.2 world
//	viaduct0 10.244.1.1 ──┘
type podSite struct {
	*site
	world              *netlab.Namespace
	cni                *libcni.CNIConfig
	list               *libcni.NetworkConfigList // our plugin alone
	control, dataplane *daemon
}

// newPodSite is such a node with both daemons running and the plugin ready.
func newPodSite(t *testing.T, cidrs ...string) *podSite {
	t.Helper()
	return newPodSiteOf(t, programs.plain, cidrs...)
}

func newPodSiteOf(t *testing.T, bin string, cidrs ...string) *podSite {
	t.Helper()
	return newPodSiteWith(t, bin, "", cidrs...)
}

// newPodSiteWith is such a node with further lines in the spec of its NodeConfig.
func newPodSiteWith(t *testing.T, bin, more string, cidrs ...string) *podSite {
	t.Helper()
	p := newPodNode(t, bin, "node")
	p.join()
	if len(cidrs) == 0 {
		cidrs = []string{"10.244.1.0/24", "fd00:244:1::/64"}
	}
	p.write("node.yaml", nodeManifest("node", "{device: up, mode: kernel}"+more, cidrs, "192.0.2.1", "2001:db8::1"))
	p.startBoth()
	return p
}

// newPodNode is such a node without a world, in which nothing runs.
func newPodNode(t *testing.T, bin, name string) *podSite {
	t.Helper()
	p := &podSite{site: newNode(t, bin, name)}
	p.cni = libcni.NewCNIConfigWithCacheDir([]string{programs.plain, reference},
		filepath.Join(t.TempDir(), "cni"), inNode{p})
	p.list = p.plugins()
	return p
}

// join makes the world, which knows the way to pods, and joins it to the node.
func (p *podSite) join() {
	p.t.Helper()
	var err error
	p.world, err = p.lab.Namespace("world")
	p.must(err)
	p.must(p.lab.Veth(end(p.node, "up", "192.0.2.1/24", "2001:db8::1/64"),
		end(p.world, "up", "192.0.2.2/24", "2001:db8::2/64")))
	p.must(p.world.Route(netip.MustParsePrefix("10.244.0.0/16"), netip.MustParseAddr("192.0.2.1"), "up", 0))
	p.must(p.world.Route(netip.MustParsePrefix("fd00:244::/32"), netip.MustParseAddr("2001:db8::1"), "up", 0))
}

// nodeManifest is a node's NodeConfig, with more lines after its uplink's, and its Node.
func nodeManifest(name, uplink string, cidrs []string, addresses ...string) string {
	text := fmt.Sprintf("apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: %s}\n"+
		"spec:\n  podCIDRs: [\"%s\"]\n  uplink: %s\n", name, strings.Join(cidrs, `", "`), uplink)
	text += fmt.Sprintf("---\napiVersion: v1\nkind: Node\nmetadata: {name: %s}\nstatus:\n  addresses:\n", name)
	for _, a := range addresses {
		text += fmt.Sprintf("  - {type: InternalIP, address: %q}\n", a)
	}
	return text
}

func end(in *netlab.Namespace, device string, addresses ...string) netlab.End {
	e := netlab.End{In: in, Device: device}
	for _, a := range addresses {
		e.Addresses = append(e.Addresses, netip.MustParsePrefix(a))
	}
	return e
}

// plugins is a network configuration list: our plugin, and others chained behind it. Debian's reference plugins speak
// up to version 1.0.0 of the specification.
func (p *podSite) plugins(behind ...string) *libcni.NetworkConfigList {
	p.t.Helper()
	cniVersion := "1.1.0"
	if len(behind) > 0 {
		cniVersion = "1.0.0"
	}
	return p.listOf(cniVersion, "", behind...)
}

// listOf is such a list, with more keys for our plugin.
func (p *podSite) listOf(cniVersion, more string, behind ...string) *libcni.NetworkConfigList {
	p.t.Helper()
	list, err := libcni.NetworkConfFromBytes(p.conflist(cniVersion, more, behind...))
	p.must(err)
	return list
}

func (p *podSite) conflist(cniVersion, more string, behind ...string) []byte {
	if more != "" {
		more = ", " + more
	}
	ours := fmt.Sprintf(`{"type": "viaduct-cni", "runDir": %q,
		"capabilities": {"portMappings": true, "bandwidth": true, "ips": true, "mac": true}%s}`, p.run, more)
	return fmt.Appendf(nil, `{"cniVersion": %q, "name": "net", "plugins": [%s]}`, cniVersion,
		strings.Join(append([]string{ours}, behind...), ", "))
}

// inNode runs plugins in the node's namespace.
type inNode struct{ *podSite }

func (i inNode) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	doErr := i.node.Do(func() error {
		out, err = (&invoke.RawExec{Stderr: io.Discard}).ExecPlugin(ctx, path, stdin, environ)
		return nil
	})
	return out, errors.Join(err, doErr)
}

func (i inNode) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

func (i inNode) Decode(data []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(data)
}

// startBoth starts the daemons and waits until ADD will succeed.
func (p *podSite) startBoth() {
	p.t.Helper()
	p.dataplane, p.control = p.startDataplane(), p.startControl()
	p.willAdd()
}

func (p *podSite) willAdd() {
	p.t.Helper()
	p.soon("STATUS", func() (bool, error) {
		return !p.control.running() || !p.dataplane.running(), p.status()
	})
}

func (p *podSite) status() error {
	return p.cni.GetStatusNetworkList(context.Background(), p.list)
}

func (p *podSite) stopBoth() {
	p.t.Helper()
	p.control.stop()
	p.dataplane.stop()
}
