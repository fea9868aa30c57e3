// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/viaduct-net/viaduct/internal/netlab"
	"github.com/viaduct-net/viaduct/xdpprog"
)

// site is two hosts with a node between them, each in a namespace of its own, and the node's directories.
//
//	left 10.1.0.2 ── l0 ── 10.1.0.1 node 10.2.0.1 ── r0 ── 10.2.0.2, 10.2.0.3 right
//	     10.8.0.1                                          10.9.0.1
type site struct {
	t                 *testing.T
	bin               string
	lab               *netlab.Lab
	left, node, right *netlab.Namespace
	name              string // the node's
	run, state, bpf   string
	manifests         string
	ending            []string // flags by which nothing is left once the dataplane stops
	daemons           []*daemon
}

func newSite(t *testing.T, bin string) *site {
	t.Helper()
	s := newNode(t, bin, "lab")
	s.ending = []string{"--cleanup"}
	for name, ns := range map[string]**netlab.Namespace{"left": &s.left, "right": &s.right} {
		var err error
		*ns, err = s.lab.Namespace(name)
		s.must(err)
	}
	s.wire(s.left, "l0", "10.1.0.2/24", "fd00:1::2/64")
	s.wire(s.right, "r0", "10.2.0.2/24", "fd00:2::2/64", "10.2.0.3/24", "fd00:2::3/64")
	for _, of := range []struct {
		host *netlab.Namespace
		text string
	}{{s.left, "10.8.0.1/32"}, {s.left, "fd08::1/128"}, {s.right, "10.9.0.1/32"}, {s.right, "fd09::1/128"}} {
		s.must(of.host.Address("lo", netip.MustParsePrefix(of.text)))
	}
	return s
}

// newNode is a site of a node alone.
func newNode(t *testing.T, bin, name string) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{
		t: t, bin: bin, lab: netlab.New(), name: name, run: filepath.Join(dir, "run"),
		state: filepath.Join(dir, "state"), bpf: filepath.Join(dir, "bpf", "viaduct"),
		manifests: filepath.Join(dir, "manifests"),
	}
	t.Cleanup(s.close)
	var err error
	s.node, err = s.lab.Namespace(name)
	s.must(err)
	s.must(os.Mkdir(s.manifests, 0o755))
	s.mountPins()
	return s
}

// wire joins a host to the node by a veth pair with the same name at both ends.
func (s *site) wire(host *netlab.Namespace, device string, addresses ...string) {
	s.t.Helper()
	end := netlab.End{In: host, Device: device}
	for _, a := range addresses {
		end.Addresses = append(end.Addresses, netip.MustParsePrefix(a))
	}
	s.must(s.lab.Veth(end, netlab.End{In: s.node, Device: device}))
	s.must(host.Route(netip.MustParsePrefix("0.0.0.0/0"), end.Addresses[0].Addr().Prev(), device, 0))
	s.must(host.Route(netip.MustParsePrefix("::/0"), end.Addresses[1].Addr().Prev(), device, 0))
}

// mountPins mounts the bpffs here, not in a daemon's own mount namespace: hooks have to outlive the daemons.
func (s *site) mountPins() {
	s.t.Helper()
	at := filepath.Dir(s.bpf)
	s.must(xdpprog.MountBPFFS(at))
	s.t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			s.t.Errorf("unmount pins: %v", err)
		}
	})
}

func (s *site) close() {
	if err := s.lab.Close(); err != nil {
		s.t.Error(err)
	}
	for _, d := range s.daemons {
		d.checkWords()
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// within is how long anything may take that is waited for.
const within = 30 * time.Second

// eventually waits until is gives no error.
func (s *site) eventually(what string, is func() error) {
	s.t.Helper()
	s.soon(what, func() (bool, error) { return false, is() })
}

// soon is eventually with an is that may also say that its error is final.
func (s *site) soon(what string, is func() (final bool, err error)) {
	s.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		final, err := is()
		if err == nil {
			return
		}
		if final || time.Now().After(deadline) {
			s.t.Fatalf("waiting for %s: %v\n%s", what, err, s.tails())
		}
	}
}

// tails is the last words of the processes that run, for messages.
func (s *site) tails() string {
	var b strings.Builder
	for _, d := range s.daemons {
		if d.running() || d == s.daemons[len(s.daemons)-1] {
			b.WriteString("--- " + d.name + "\n" + d.stderr.last(20))
		}
	}
	return b.String()
}

// write puts a manifest into the directory as a whole: aside, then renamed.
func (s *site) write(name, text string) {
	s.t.Helper()
	aside := filepath.Join(filepath.Dir(s.manifests), "aside")
	s.must(os.WriteFile(aside, []byte(text), 0o644))
	s.must(os.Rename(aside, filepath.Join(s.manifests, name)))
}

func (s *site) remove(name string) {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.manifests, name)); !errors.Is(err, fs.ErrNotExist) {
		s.must(err)
	}
}

// nothingLeft checks what the programs have to have undone once they have stopped by themselves.
func (s *site) nothingLeft() {
	s.t.Helper()
	for _, device := range []string{"l0", "r0"} {
		link, err := s.node.Links().LinkByName(device)
		s.must(err)
		if xdp := link.Attrs().Xdp; xdp != nil && xdp.Attached {
			s.t.Errorf("a hook stayed on %s", device)
		}
	}
	for dir, may := range map[string][]string{
		s.run:               {"control.pid", "dataplane.pid"},
		s.state:             {"snapshot.pb", "snapshot.pb.lock", "learned.bin", "leases.db"},
		filepath.Dir(s.bpf): {"maps.debug", "progs.debug"}, // the kernel's own
	} {
		for _, name := range names(s.t, dir) {
			if !slices.Contains(may, name) {
				s.t.Errorf("%s is left in %s", name, dir)
			}
		}
	}
}

// names lists a directory; one that is not there is empty.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}
