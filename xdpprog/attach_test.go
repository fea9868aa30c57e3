// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func bpffs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "bpf")
	for range 2 { // the second finds it mounted
		if err := MountBPFFS(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount once: %v", err)
		}
	})
	return dir
}

func attach(t *testing.T, options Options, ifindex int, how AttachMode) *Port {
	t.Helper()
	p, err := attempt(options, ifindex, how)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func attempt(options Options, ifindex int, how AttachMode) (*Port, error) {
	options.Queues = 1
	p, err := Load(options)
	if err != nil {
		return nil, err
	}
	if _, err := p.Attach(ifindex, how); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func entries(t *testing.T, dir string) string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range found {
		if !strings.HasSuffix(e.Name(), ".debug") { // the kernel's own, in the root of each bpffs
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

func TestAttachModes(t *testing.T) {
	w := newWire(t)
	for how, mode := range map[AttachMode]DriverMode{"": Native, Auto: Native, NativeOnly: Native,
		GenericOnly: Generic} {
		p := attach(t, Options{}, w.ifindex, how)
		if w.has(t, mode); p.mode != mode {
			t.Errorf("%q reports %s", how, p.mode)
		}
		if err := p.Check(); err != nil {
			t.Error(err)
		}
		if _, err := p.Attach(w.ifindex, how); err == nil {
			t.Error("attached twice")
		}
		if err := errors.Join(p.Detach(), p.Close()); err != nil {
			t.Error(err)
		}
		w.has(t, NotAttached)
	}
	p := attach(t, Options{}, w.ifindex, Auto)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	w.has(t, NotAttached) // without pins it goes with the process
	if _, err := attempt(Options{}, w.ifindex, "fast"); err == nil {
		t.Error("a mode of no meaning was taken")
	}
}

// Fragments: a driver refuses programs that know none at this MTU.
func TestAttachAtJumboMTU(t *testing.T) {
	w := newWire(t)
	setMTU := func(name string) error {
		l, err := netlink.LinkByName(name)
		return errors.Join(err, netlink.LinkSetMTU(l, 60000))
	}
	if err := setMTU(w.name); err != nil {
		t.Fatal(err)
	}
	w.inPeer(t, func() error { return setMTU(w.name + "p") })
	for _, mode := range []Mode{Owned, Shared} {
		p := attach(t, Options{Mode: mode}, w.ifindex, NativeOnly)
		w.has(t, Native)
		if err := p.Detach(); err != nil {
			t.Error(err)
		}
	}
}

// The loopback driver has no XDP.
func TestDriverWithoutXDP(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p := attach(t, Options{Mode: Shared}, 1, Auto)
	if p.mode != Generic {
		t.Errorf("attached to loopback: %s", p.mode)
	}
	if err := p.Detach(); err != nil {
		t.Error(err)
	}
	_, err := attempt(Options{Mode: Shared}, 1, NativeOnly)
	var missing *NotSupportedError
	if !errors.As(err, &missing) || !errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "generic") {
		t.Errorf("native on loopback: %v", err)
	}
	features, err := DeviceFeatures(1)
	if err != nil || features[0].Present {
		t.Errorf("features of loopback: %v, %v", features, err)
	}
}

func TestFeatures(t *testing.T) {
	w := newWire(t)
	for _, f := range Features("") {
		if !f.Present && f.Name != "bpffs" {
			t.Errorf("%s", f)
		}
	}
	features, err := DeviceFeatures(w.ifindex)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"XDP native": true, "XDP redirect": true, "AF_XDP zero copy": false}
	for _, f := range features {
		if present, ok := want[f.Name]; ok && present != f.Present {
			t.Errorf("%s", f)
		}
	}
	if _, err := DeviceFeatures(1 << 30); !errors.Is(err, ErrNoDevice) {
		t.Errorf("features of no device: %v", err)
	}
	missing := &NotSupportedError{Feature: "tcx", Since: "6.6", Err: unix.EINVAL}
	if got := missing.Error(); got != "tcx is missing (Linux 6.6 has it): invalid argument" {
		t.Error(got)
	}
}

func TestBusyDevice(t *testing.T) {
	w := newWire(t)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "of_another", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, flags := range []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode} {
		l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: w.ifindex, Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		_, err = attempt(Options{PinDir: filepath.Join(bpffs(t), "p")}, w.ifindex, Auto)
		var busy *BusyError
		if !errors.As(err, &busy) || !errors.Is(err, ErrBusy) || busy.Name != "of_another" || busy.Program == 0 {
			t.Errorf("attach to a busy device: %v", err)
		}
		if info, err := l.Info(); err != nil || info.Program != w.has(t, busy.Mode).program {
			t.Errorf("the other's program was disturbed: %v", err)
		}
		l.Close()
	}
}

func TestVanishedDevice(t *testing.T) {
	w := newWire(t)
	dir := filepath.Join(bpffs(t), "p")
	p := attach(t, Options{PinDir: dir}, w.ifindex, Auto)
	gone, err := netlink.LinkByIndex(w.ifindex)
	if err = errors.Join(err, netlink.LinkDel(gone)); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); !errors.Is(err, ErrNoDevice) {
		t.Errorf("check: %v", err)
	}
	if _, err := attempt(Options{}, w.ifindex, Auto); !errors.Is(err, ErrNoDevice) {
		t.Errorf("attach: %v", err)
	}
	again := newWire(t) // its port's pins are those of the vanished one
	second := attach(t, Options{PinDir: dir}, again.ifindex, Auto)
	again.has(t, Native)
	if err := errors.Join(second.Check(), p.Close(), second.Detach()); err != nil {
		t.Error(err)
	}
	again.has(t, NotAttached)
	third := attach(t, Options{PinDir: dir}, again.ifindex, Auto)
	_ = netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: again.name}})
	if err := third.Detach(); err != nil {
		t.Errorf("detach from a vanished device: %v", err)
	}
}

// A failure at either commit point leaves the device and the pins as they were.
func TestFailureAtCommit(t *testing.T) {
	w, root := newWire(t), bpffs(t)
	options := Options{PinDir: filepath.Join(root, "eth0.100"), Queues: 1}
	injected := errors.New("injected")
	failing := func() *Port {
		p, err := Load(options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		p.rename = func(string, string) error { return injected }
		p.update = func(link.Link, *ebpf.Program) error { return injected }
		return p
	}
	if _, err := failing().Attach(w.ifindex, Auto); !errors.Is(err, injected) {
		t.Errorf("attach: %v", err)
	}
	w.has(t, NotAttached)
	if left := entries(t, root); left != "" {
		t.Errorf("left behind: %s", left)
	}
	first := attach(t, options, w.ifindex, Auto)
	pins, program := entries(t, first.pins), w.has(t, Native).program
	if _, err := failing().Attach(w.ifindex, Auto); !errors.Is(err, injected) {
		t.Errorf("adopt: %v", err)
	}
	if now := w.has(t, Native).program; now != program || entries(t, first.pins) != pins {
		t.Errorf("program %d became %d, pins %q became %q", program, now, pins, entries(t, first.pins))
	}
	if err := errors.Join(first.Check(), first.Detach()); err != nil {
		t.Error(err)
	}
	if left := entries(t, root); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// An attempt killed between attaching and its commit point does not count as someone else's program.
func TestKilledBeforeCommit(t *testing.T) {
	w, root := newWire(t), bpffs(t)
	options := Options{PinDir: filepath.Join(root, "p"), Queues: 1}
	killed, err := Load(options)
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := killed.attachFirst(device{ifindex: w.ifindex}, []DriverMode{Native})
	if err = errors.Join(err, killed.pinAside(l), l.Close(), killed.Close()); err != nil {
		t.Fatal(err)
	}
	w.has(t, Native)
	if err := attach(t, options, w.ifindex, Auto).Detach(); err != nil {
		t.Error(err)
	}
	w.has(t, NotAttached)
	if left := entries(t, root); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// A hook that is pinned in another driver mode than is asked for gives way to one in that mode.
func TestAdoptInAnotherMode(t *testing.T) {
	w, root := newWire(t), filepath.Join(bpffs(t), "ports")
	options := Options{PinDir: filepath.Join(root, "eth0.100"), Queues: 1}
	if err := attach(t, options, w.ifindex, NativeOnly).Close(); err != nil {
		t.Fatal(err)
	}
	w.has(t, Native)
	p := attach(t, options, w.ifindex, GenericOnly)
	w.has(t, Generic)
	if err := p.Check(); err != nil || p.Adopted() {
		t.Errorf("adopted %v, %v", p.Adopted(), err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p = attach(t, options, w.ifindex, Auto); !p.Adopted() {
		t.Error("a pinned hook is not taken over")
	}
	w.has(t, Generic)
	if list, err := PinnedPorts(root); err != nil || !slices.Equal(list, []string{"eth0.100"}) {
		t.Errorf("pinned are %v, %v", list, err)
	}
	if err := p.Detach(); err != nil {
		t.Error(err)
	}
	if list, err := PinnedPorts(filepath.Join(root, "nowhere")); err != nil || list != nil {
		t.Errorf("pinned are %v, %v", list, err)
	}
}

const holdEnv = "XDPPROG_TEST_HOLD"

// holdPinned is a process that attaches a pinned hook, says so, and waits to be killed.
func holdPinned() {
	dir, index, _ := strings.Cut(os.Getenv(holdEnv), " ")
	ifindex, _ := strconv.Atoi(index)
	p, err := attempt(Options{Mode: Shared, PinDir: dir}, ifindex, Auto)
	if err == nil {
		err = p.SetAddresses(ourPrefixes)
	}
	fmt.Println("attached", err)
	select {}
}

func TestKillAndAdopt(t *testing.T) {
	w := newWire(t)
	dir := filepath.Join(bpffs(t), "p")
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", holdEnv, dir, w.ifindex))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.StdoutPipe()
	if err = errors.Join(err, c.Start()); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "attached <nil>\n" {
		t.Fatal(line, err)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	program := w.has(t, Native).program

	p := attach(t, Options{Mode: Shared, PinDir: dir}, w.ifindex, Auto)
	if w.has(t, Native).program != program {
		t.Error("the same build's program was verified again")
	}
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	expect(t, p, goldens()[0].frame, NoSocketDropped) // it knows the addresses
	owned := attach(t, Options{Mode: Owned, PinDir: dir, OnAbsence: Pass}, w.ifindex, Auto)
	if err := p.Check(); err == nil {
		t.Error("check says that another's program is ours")
	}
	expect(t, owned, goldens()[2].frame, NoSocketPassed) // mode and setting are the new ones
	if err := errors.Join(p.Close(), owned.Close()); err != nil {
		t.Error(err)
	}
	w.has(t, Native)
	if err := errors.Join(RemovePinned(dir), RemovePinned(dir)); err != nil {
		t.Error(err)
	}
	w.has(t, NotAttached)
}

// A port whose queues changed takes over what fits, and makes and pins the rest.
func TestAdoptWithMoreQueues(t *testing.T) {
	w := newWire(t)
	options := Options{PinDir: filepath.Join(bpffs(t), "p")}
	first := attach(t, options, w.ifindex, Auto)
	expect(t, first, goldens()[0].frame, NoSocketDropped)
	options.Queues = 4
	second, err := Load(options)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := second.Attach(w.ifindex, Auto); err != nil {
		t.Fatal(err)
	}
	if err := second.SetSocket(3, xdpSocket(t)); err != nil {
		t.Error(err)
	}
	if second.loaded.reused || len(programPins(t, second.pins)) != 1 {
		t.Error("a program with another map was taken over")
	}
	if n := read(t, second)[NoSocketDropped].Packets; n == 0 {
		t.Error("the counters did not go on")
	}
	sockets, err := ebpf.LoadPinnedMap(filepath.Join(second.pins, "sockets"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if sockets.Close(); sockets.MaxEntries() != 4 {
		t.Errorf("pinned are %d sockets", sockets.MaxEntries())
	}
	if err := second.Detach(); err != nil {
		t.Error(err)
	}
}
