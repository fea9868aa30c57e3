// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/dataplane/api"
	"github.com/viaduct-net/viaduct/internal/netlab"
)

// pod is a namespace that the CNI plugin has wired.
type pod struct {
	*netlab.Namespace
	config    *libcni.RuntimeConf
	addresses []netip.Addr
}

// podAddress is the address of the pod with the index: leases are given out in order, from the second usable address of
// the node's pod CIDR on.
func podAddress(index, family int) netip.Addr {
	first := netip.MustParseAddr("10.4.1.2")
	if family == 6 {
		first = netip.MustParseAddr("fd00:4:0:1::2")
	}
	for range index {
		first = first.Next()
	}
	return first
}

// between runs a step with other ends than the hosts.
func between(
	ends func(n *network) (from, to *netlab.Namespace), run func(context.Context, *network) (string, error),
) func(context.Context, *network) (string, error) {
	return func(ctx context.Context, n *network) (string, error) {
		if len(n.pods) < len(podNames) {
			return "", errors.New("there are no pods")
		}
		n.from, n.to = ends(n)
		return run(ctx, n)
	}
}

func podToPod(n *network) (from, to *netlab.Namespace) {
	return n.pods[0].Namespace, n.pods[1].Namespace
}
func nodeToPod(n *network) (from, to *netlab.Namespace)  { return n.middle, n.pods[1].Namespace }
func podToRight(n *network) (from, to *netlab.Namespace) { return n.pods[0].Namespace, n.right }

// cni runs do as a container runtime does: from the node's namespace, with the plugin found in the program's directory.
func (n *network) cni(do func(runtime *libcni.CNIConfig, list *libcni.NetworkConfigList) error) error {
	text, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "viaduct",
		"plugins": []any{map[string]any{"type": "viaduct-cni", "runDir": n.runDir()}},
	})
	if err != nil {
		return err
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return err
	}
	runtime := libcni.NewCNIConfigWithCacheDir([]string{n.bin}, filepath.Join(n.directory, "cni"), nil)
	return n.middle.Do(func() error { return do(runtime, list) })
}

// podNames are those that the plugin wires, in order.
var podNames = []string{"a", "b", "c"}

// addPods wires the pods by the plugin.
func addPods(ctx context.Context, n *network) (string, error) {
	var words []string
	for _, name := range podNames {
		ns, err := n.lab.Namespace("pod " + name)
		if err != nil {
			return "", err
		}
		p := pod{Namespace: ns, config: &libcni.RuntimeConf{
			ContainerID: "demo-" + name, IfName: "eth0", NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD()),
			Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "demo"}, {"K8S_POD_NAME", name}},
		}}
		start := time.Now()
		if err := n.add(ctx, &p); err != nil {
			return "", err
		}
		took := time.Since(start)
		n.pods = append(n.pods, p)
		words = append(words, fmt.Sprintf("%s has %s after %v", name, strings.Trim(fmt.Sprint(p.addresses), "[]"),
			took.Round(100*time.Microsecond)))
	}
	return strings.Join(words, ", "), nil
}

func (n *network) add(ctx context.Context, p *pod) error {
	return n.cni(func(runtime *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		made, err := runtime.AddNetworkList(ctx, list, p.config)
		if err != nil {
			return err
		}
		result, err := types100.NewResultFromResult(made)
		if err != nil {
			return err
		}
		for _, ip := range result.IPs {
			a, _ := netip.AddrFromSlice(ip.Address.IP)
			p.addresses = append(p.addresses, a.Unmap())
		}
		want := []netip.Addr{podAddress(len(n.pods), 4), podAddress(len(n.pods), 6)}
		if !slices.Equal(p.addresses, want) {
			return fmt.Errorf("the pod has %v, want %v", p.addresses, want)
		}
		return runtime.CheckNetworkList(ctx, list, p.config)
	})
}

// forge has a pod send in the other's name: none of it leaves the pod's hook, which counts it.
func forge(ctx context.Context, n *network) (string, error) {
	if len(n.pods) < 2 {
		return "", errors.New("there are no pods")
	}
	const count = 100
	if err := n.pods[0].Do(func() error { return sendForged(n.pods[1].addresses[0], count) }); err != nil {
		return "", err
	}
	for {
		reply, err := n.client.Ledger(ctx, "demo/a")
		if err != nil {
			return "", err
		}
		if name := forged(reply, count); name != "" {
			return fmt.Sprintf("%d packets with another pod's address: dropped at the hook (%s)", count, name), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("the hook counts %v", reply.Ports)
		case <-time.After(time.Millisecond):
		}
	}
}

// forged is the counter of the hook that shows what was forged.
func forged(reply *api.LedgerReply, count uint64) string {
	for _, p := range reply.Ports {
		for name, n := range p.Hook {
			if n == count && strings.Contains(name, "source") {
				return name
			}
		}
	}
	return ""
}

// sendForged sends UDP packets from an address that is not ours, as whoever may open a packet socket can.
func sendForged(source netip.Addr, count int) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	frame := append([]byte{0x02, 0x76, 0x64, 0, 0, 0}, eth0.Attrs().HardwareAddr...)
	frame = append(frame, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0)
	frame = append(append(frame, source.AsSlice()...), wide4.AsSlice()...)
	frame = append(frame, 0, 9, 0, 9, 0, 8, 0, 0)
	for range count {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: eth0.Attrs().Index}); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// removePods undoes addPods, and checks that nothing of the pods is left on the node.
func removePods(ctx context.Context, n *network) (string, error) {
	var slowest time.Duration
	for _, p := range n.pods {
		start := time.Now()
		err := n.cni(func(runtime *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
			return runtime.DelNetworkList(ctx, list, p.config)
		})
		if err != nil {
			return "", err
		}
		slowest = max(slowest, time.Since(start))
	}
	links, err := n.middle.Links().LinkList()
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "vd") {
			return "", fmt.Errorf("%s stayed", l.Attrs().Name)
		}
	}
	if err := n.awaitNoPods(ctx); err != nil {
		return "", err
	}
	n.pods = nil
	return fmt.Sprintf("devices, ports and leases are gone, %v for the slowest", slowest.Round(100*time.Microsecond)), nil
}

// awaitNoPods waits until the dataplane has no port of a pod: it hears of a removal a moment later.
func (n *network) awaitNoPods(ctx context.Context) error {
	for {
		reply, err := n.client.Ports(ctx, "")
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(reply.Ports, func(p *api.Port) bool { return strings.HasPrefix(p.Name, "demo/") }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("ports of pods stayed")
		case <-time.After(time.Millisecond):
		}
	}
}
