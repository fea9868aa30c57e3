// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/viaduct-net/viaduct/perf/rig"
)

// Pod is a network namespace that a network wires.
type Pod struct {
	ID string // of the container
	In *rig.Namespace
}

// Interface is the name of a pod's device.
const Interface = "eth0"

// podCIDR is a network's own where each is on a node of its own.
const podCIDR = "10.244.0.0/20"

// Network wires pods to a node by a CNI plugin, which is run as a container runtime runs it: a process for each
// operation, in the node's network namespace. It is used once: Start, then Stop.
type Network struct {
	name    string
	plugin  string // path
	plugins string // directory in which it finds others: host-local
	daemons *viaduct
	config  map[string]any           // beside cniVersion and name
	furnish func() map[string][]byte // more manifests by the names of their files; nil: none
	spec    string                   // more of viaduct's NodeConfig, by lines
	host    string                   // name of the node
	cidr    string                   // of its pods

	node  *rig.Namespace
	dir   string
	input []byte // the configuration as the plugin reads it
}

// Networks are the names that NewNetwork takes.
func Networks() []string { return []string{"trunk", "direct", "bridge", "ptp"} }

// NewNetwork makes a network: viaduct's, by its attachments' names, or one of the reference plugins with host-local.
func NewNetwork(name string, p Programs) (*Network, error) {
	n := &Network{
		name: name, plugins: p.Reference, plugin: filepath.Join(p.Reference, name), host: nodeName, cidr: podCIDR,
	}
	switch name {
	case "trunk", "direct":
		n.plugin = p.Plugin
		n.daemons = &viaduct{name: name, binary: p.Dataplane, flags: p.Flags}
		n.config = map[string]any{"cniVersion": "1.1.0", "attach": name}
	case "bridge":
		n.config = map[string]any{"cniVersion": "1.0.0", "bridge": "cni0", "isGateway": true, "mtu": jumbo}
	case "ptp":
		n.config = map[string]any{"cniVersion": "1.0.0", "mtu": jumbo}
	default:
		return nil, fmt.Errorf("network %q: want one of %s", name, strings.Join(Networks(), ", "))
	}
	n.config["name"], n.config["type"] = name, filepath.Base(n.plugin)
	return n, nil
}

// jumbo is the MTU of all pods' links, as viaduct makes them: routes bound it.
const jumbo = 65535

// Name is the one that it was made by.
func (n *Network) Name() string { return n.name }

// Missing says what this machine lacks, "" if nothing.
func (n *Network) Missing() string {
	if missing := executable(n.plugin); missing != "" {
		return missing
	}
	if n.daemons != nil {
		return n.daemons.Missing(rig.Options{})
	}
	return executable(filepath.Join(n.plugins, "host-local"))
}

// PIDs of the processes that run all the time.
func (n *Network) PIDs() []int {
	if n.daemons == nil {
		return nil
	}
	return n.daemons.PIDs()
}

// Start prepares the node, and returns when pods can be added. Daemons run on the given CPUs. After an error nothing is
// left.
func (n *Network) Start(ctx context.Context, node *rig.Namespace, cpus []int) error {
	n.node = node
	if err := n.start(ctx, cpus); err != nil {
		_ = n.Stop() // that a program has ended is what err says
		return fmt.Errorf("start network %s: %w", n.name, err)
	}
	return nil
}

func (n *Network) start(ctx context.Context, cpus []int) (err error) {
	if n.daemons != nil {
		return n.startDaemons(ctx, cpus)
	}
	if n.dir, err = os.MkdirTemp("", "viaduct-perf-"); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	n.config["ipam"] = map[string]any{"type": "host-local", "dataDir": n.dir, "subnet": n.cidr,
		"routes": []any{map[string]any{"dst": "0.0.0.0/0"}}}
	n.input, err = json.Marshal(n.config)
	return err
}

func (n *Network) startDaemons(ctx context.Context, cpus []int) error {
	v := n.daemons
	if err := v.directory(); err != nil {
		return err
	}
	n.config["runDir"] = v.run()
	input, err := json.Marshal(n.config)
	if err != nil {
		return err
	}
	n.input = input
	manifests := n.manifests()
	if err := os.MkdirAll(manifests, 0o755); err != nil {
		return fmt.Errorf("make manifest directory: %w", err)
	}
	err = writeFile(filepath.Join(manifests, "node.yaml"), func(w io.Writer) {
		fmt.Fprintf(w, "apiVersion: viaduct.dev/v1alpha1\nkind: NodeConfig\nmetadata: {name: %s}\n", n.host)
		fmt.Fprintf(w, "spec:\n  workers: 1\n  podCIDRs: [%s]\n%s", n.cidr, n.spec)
	})
	if err == nil && n.furnish != nil {
		err = n.write(n.furnish())
	}
	if err != nil {
		return err
	}
	if err := v.launch(ctx, n.node, cpus, manifests, "--node", n.host); err != nil {
		return err
	}
	if err := n.awaitStatus(ctx); err != nil {
		return fmt.Errorf("%w; %s: %s", err, v.controlBinary(), v.control.output.last())
	}
	return nil
}

func (n *Network) manifests() string { return filepath.Join(n.daemons.dir, "manifests") }

func (n *Network) write(files map[string][]byte) error {
	for name, text := range files {
		if err := n.Write(name, text); err != nil {
			return err
		}
	}
	return nil
}

// Write puts a file into viaduct's directory of manifests, or another one in its place, whole at once.
func (n *Network) Write(name string, text []byte) error {
	aside := filepath.Join(n.manifests(), "."+name)
	if err := os.WriteFile(aside, text, 0o600); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	if err := os.Rename(aside, filepath.Join(n.manifests(), name)); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}

// Socket is where viaduct's dataplane answers.
func (n *Network) Socket() string { return filepath.Join(n.daemons.run(), "dataplane.sock") }

// awaitStatus asks the plugin until it says that ADD will succeed.
func (n *Network) awaitStatus(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		_, err := n.run("STATUS", nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Add wires a pod and says how long the plugin ran.
func (n *Network) Add(p *Pod) (time.Duration, error) { return n.run("ADD", p) }

// Del takes the pod's wiring away and says how long the plugin ran.
func (n *Network) Del(p *Pod) (time.Duration, error) { return n.run("DEL", p) }

// Version asks the plugin for its versions, which it does nothing for but start, and says how long it ran.
func (n *Network) Version() (time.Duration, error) { return n.run("VERSION", nil) }

// run executes the plugin for one operation. The time is from before its start until it has ended.
func (n *Network) run(command string, p *Pod) (took time.Duration, err error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(n.plugin)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(n.input), &stdout, &stderr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CNI_COMMAND=" + command,
		"CNI_PATH=" + filepath.Dir(n.plugin) + ":" + n.plugins}
	if p != nil {
		cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+p.ID, "CNI_NETNS="+p.In.Path(), "CNI_IFNAME="+Interface,
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+p.ID)
	}
	err = n.node.Do(func() error {
		start := time.Now()
		err := cmd.Run()
		took = time.Since(start)
		return err
	})
	if err != nil {
		said := strings.Join(strings.Fields(stdout.String()+stderr.String()), " ")
		return 0, fmt.Errorf("%s by %s: %w: %s", command, n.plugin, err, said)
	}
	return took, nil
}

// Stop ends what Start began. Devices go with their namespaces.
func (n *Network) Stop() error {
	var errs []error
	if n.daemons != nil {
		errs = append(errs, n.daemons.Stop())
	}
	if n.dir != "" {
		errs = append(errs, os.RemoveAll(n.dir))
		n.dir = ""
	}
	return errors.Join(errs...)
}
