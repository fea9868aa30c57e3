// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/viaduct-net/viaduct/internal/netlab"
	"github.com/viaduct-net/viaduct/tools/show"
)

// The addresses of the topology. The host on the right also has floating ones, which the route that changes leads to.
var (
	left4, left6         = netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00:1::2")
	gateway4, gateway6   = netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00:1::1")
	wide4, wide6         = netip.MustParseAddr("10.2.0.2"), netip.MustParseAddr("fd00:2::2")
	narrow4, narrow6     = netip.MustParseAddr("10.3.0.2"), netip.MustParseAddr("fd00:3::2")
	floating4, floating6 = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd00:9::1")
)

const (
	jumboMTU    = 60000
	narrowMTU   = 1500
	readyWithin = 20 * time.Second
	stopWithin  = 10 * time.Second
)

//go:embed manifests/*.yaml
var manifests embed.FS

// network is the topology, the dataplane in its middle, and the sockets of the step in hand.
type network struct {
	lab                 *netlab.Lab
	left, middle, right *netlab.Namespace
	from, to            *netlab.Namespace // of the step in hand
	pods                []pod
	inodes              []uint64
	directory           string
	lock                *os.File // says that the directory is in use
	dataplane           *netlab.Process
	log                 *tail
	client              *show.Client
	program             string // viaduct
	bin                 string // directory of the programs

	mu      sync.Mutex
	sockets []io.Closer
}

// build makes the topology and starts the dataplane. The network it returns has to be closed also after an error.
func build(ctx context.Context, path string) (*network, error) {
	n := &network{lab: netlab.New(), log: &tail{}, program: path, bin: filepath.Dir(path)}
	var err error
	if n.directory, n.lock, err = claimDirectory(); err != nil {
		return n, err
	}
	for _, step := range []func() error{n.makeNamespaces, n.makeLinks, n.makeRoutes, n.writeManifests} {
		if err := step(); err != nil {
			return n, err
		}
	}
	return n, n.start(ctx, path)
}

func (n *network) makeNamespaces() (err error) {
	for _, of := range []struct {
		namespace **netlab.Namespace
		name      string
	}{{&n.left, "left"}, {&n.middle, "viaduct"}, {&n.right, "right"}} {
		if *of.namespace, err = n.lab.Namespace(of.name); err != nil {
			return err
		}
		inode, err := (*of.namespace).Inode()
		if err != nil {
			return err
		}
		n.inodes = append(n.inodes, inode)
		// The right host hears on one link what it answers by another: that is no spoofing here.
		for _, which := range []string{"all", "default"} {
			if err := (*of.namespace).Sysctl("net/ipv4/conf/"+which+"/rp_filter", "0"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *network) makeLinks() error {
	for _, l := range []struct {
		host     *netlab.Namespace
		device   string
		mtu      int
		prefixes []string
	}{
		{n.left, "left", jumboMTU, []string{"10.1.0.2/24", "fd00:1::2/64"}},
		{n.right, "wide", jumboMTU, []string{"10.2.0.2/24", "fd00:2::2/64"}},
		{n.right, "narrow", narrowMTU, []string{"10.3.0.2/24", "fd00:3::2/64"}},
	} {
		host := netlab.End{In: l.host, Device: l.device, MTU: l.mtu}
		for _, p := range l.prefixes {
			host.Addresses = append(host.Addresses, netip.MustParsePrefix(p))
		}
		if err := n.lab.Veth(netlab.End{In: n.middle, Device: l.device, MTU: l.mtu}, host); err != nil {
			return err
		}
	}
	return nil
}

func (n *network) makeRoutes() error {
	for _, r := range []struct {
		host             *netlab.Namespace
		destination, via string
		device           string
	}{
		{n.left, "10.0.0.0/8", "10.1.0.1", "left"},
		{n.left, "fd00::/16", "fd00:1::1", "left"},
		{n.right, "10.1.0.0/24", "10.2.0.1", "wide"},
		{n.right, "fd00:1::/64", "fd00:2::1", "wide"},
		{n.right, "10.4.1.0/24", "10.2.0.1", "wide"},
	} {
		via, destination := netip.MustParseAddr(r.via), netip.MustParsePrefix(r.destination)
		if err := r.host.Route(destination, via, r.device, 0); err != nil {
			return err
		}
	}
	for _, a := range []netip.Addr{floating4, floating6} {
		if err := n.right.Address("lo", netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	return nil
}

func (n *network) manifestDir() string { return filepath.Join(n.directory, "manifests") }

func (n *network) runDir() string { return filepath.Join(n.directory, "run") }

func (n *network) writeManifests() error {
	if err := os.CopyFS(n.directory, manifests); err != nil {
		return fmt.Errorf("write manifests: %w", err)
	}
	return nil
}

// start runs the dataplane in the middle and waits until its ports forward.
func (n *network) start(ctx context.Context, path string) error {
	run := n.runDir()
	cmd := exec.Command(path, "up", "--cleanup", "--manifests", n.manifestDir(), "--run", run,
		"--state", filepath.Join(n.directory, "state"), "--bpf", filepath.Join(n.directory, "bpf"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start the dataplane: %w", err)
	}
	cmd.Stderr = n.log
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		lines <- strings.TrimSpace(line)
	}()
	if n.dataplane, err = n.lab.Start(n.middle, cmd); err != nil {
		_ = out.Close()
		return err
	}
	select {
	case line := <-lines:
		if line != "ready" {
			select { // let it say why
			case <-n.dataplane.Done():
			case <-time.After(time.Second):
			}
			return fmt.Errorf("the dataplane did not start: %s", n.log.last())
		}
	case <-time.After(readyWithin):
		return fmt.Errorf("the dataplane was not ready within %v: %s", readyWithin, n.log.last())
	case <-ctx.Done():
		return errInterrupted
	}
	n.client, err = show.Connect(run)
	return err
}

// close undoes build, as far as it came.
func (n *network) close() error {
	n.closeSockets()
	var errs []error
	if n.client != nil {
		errs = append(errs, n.client.Close())
	}
	if n.dataplane != nil {
		_ = n.dataplane.Stop(stopWithin) // how it ended was judged by the last step
	}
	errs = append(errs, n.lab.Close())
	if n.directory != "" {
		errs = append(errs, os.RemoveAll(n.directory))
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}

// own notes a socket to be closed at the end of the step.
func own[T io.Closer](n *network, socket T, err error) (T, error) {
	if err != nil {
		return socket, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sockets = append(n.sockets, socket)
	return socket, nil
}

func (n *network) closeSockets() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.sockets {
		_ = s.Close()
	}
	n.sockets = nil
}

// tail keeps the end of what the dataplane logs.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > tailSize {
		t.text = t.text[len(t.text)-tailSize:]
	}
	return len(p), nil
}

// last returns the last line logged.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(t.text)
	if line := text[bytes.LastIndexByte(text, '\n')+1:]; len(line) > 0 {
		return string(line)
	}
	return "it said nothing"
}

func network4(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}
