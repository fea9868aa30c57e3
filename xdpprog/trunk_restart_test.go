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
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// portHook returns the program at a device's ingress and whether the device has a clsact qdisc.
func portHook(t *testing.T, ifindex int) (program int, qdisc bool) {
	t.Helper()
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	filters, err := netlink.FilterList(device, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Handle == filterHandle {
			program = b.Id
		}
	}
	qdiscs, err := netlink.QdiscList(device)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		qdisc = qdisc || q.Type() == "clsact"
	}
	return program, qdisc
}

func idOf(t *testing.T, program *ebpf.Program) int {
	t.Helper()
	info, err := program.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return int(id)
}

// carries fails unless a frame of the pod's reaches userspace, and one of userspace's the pod.
func (l *trunkLab) carries(t *testing.T) {
	t.Helper()
	userspace, pod := openPacket(t, l.wire.peer, 3), l.sender(t)
	frame := portGoldens()[0].frame
	pod.send(t, frame)
	if got, _ := userspace.receive(t); string(got) != string(join(frame[:6], portMAC, frame[12:])) {
		t.Errorf("userspace got %x", got)
	}
	userspace.send(t, join(portMAC, frame[6:]))
	if got, _ := pod.receive(t); string(got) != string(join(stationMAC[:], frame[6:])) {
		t.Errorf("the pod got %x", got)
	}
}

const holdTrunkEnv = "XDPPROG_TEST_HOLD_TRUNK"

// holdTrunk is a process that sets up a pinned trunk with one port, says so, and waits to be killed.
func holdTrunk() {
	var dir string
	var trunk, port int
	_, err := fmt.Sscan(os.Getenv(holdTrunkEnv), &dir, &trunk, &port)
	t, loadErr := LoadTrunk(TrunkOptions{PinDir: dir})
	if err = errors.Join(err, loadErr); err == nil {
		err = errors.Join(t.Attach(trunk, 1), t.SetPort(station(port)))
	}
	fmt.Println("attached", err)
	select {}
}

func TestTrunkKilledAndAdopted(t *testing.T) {
	dir := filepath.Join(bpffs(t), "trunk")
	l := &trunkLab{wire: newVeth(t, vethOptions{}), ns: newPod(t)}
	l.pod = newVeth(t, vethOptions{in: l.ns, peerMAC: stationMAC[:]})
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", holdTrunkEnv, dir, l.wire.ifindex, l.pod.ifindex))
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
	l.carries(t)
	before, _ := portHook(t, l.pod.ifindex)

	for range 2 { // the second adopts what the first has closed
		l.trunk = loadTrunk(t, TrunkOptions{PinDir: dir})
		l.carries(t)
		if ids, err := l.trunk.Ports(); err != nil || !slices.Equal(ids, []uint32{portID}) {
			t.Errorf("ports %v, %v", ids, err)
		}
		attachTrunk(t, l.trunk, l.wire.ifindex, 1)
		setPort(t, l.trunk, station(l.pod.ifindex))
		after, _ := portHook(t, l.pod.ifindex)
		if after != before || after != idOf(t, l.trunk.fromPort) || tcxPrograms(t, l.wire.ifindex) != 1 {
			t.Errorf("program %d of the same build became %d, ours is %d", before, after, idOf(t, l.trunk.fromPort))
		}
		l.carries(t)
		if err := errors.Join(l.trunk.Close(), l.trunk.Close()); err != nil {
			t.Error(err)
		}
		before = after
		l.carries(t)
	}
	l.trunk = loadTrunk(t, TrunkOptions{PinDir: dir})
	if n := countersOf(t, l.trunk, portID)[0].Packets; n != 7 {
		t.Errorf("%d packets counted across restarts", n)
	}
	if err := errors.Join(l.trunk.Detach(), l.trunk.Detach()); err != nil { // without Attach
		t.Error(err)
	}
	l.bare(t)
	if left := entries(t, filepath.Dir(dir)); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// bare fails if anything of the hooks is left at the devices.
func (l *trunkLab) bare(t *testing.T) {
	t.Helper()
	if program, qdisc := portHook(t, l.pod.ifindex); program != 0 || qdisc {
		t.Errorf("the port's device has program %d, clsact %v", program, qdisc)
	}
	if n := tcxPrograms(t, l.wire.ifindex); n != 0 {
		t.Errorf("the trunk has %d programs", n)
	}
}

// Pinned maps of another size are replaced; the port goes on by its own until it is set.
func TestTrunkWithMorePorts(t *testing.T) {
	dir := filepath.Join(bpffs(t), "trunk")
	l := newTrunkLab(t, 1, TrunkOptions{PinDir: dir, MaxPorts: 1})
	other := newVeth(t, vethOptions{})
	if err := l.trunk.SetPort(TrunkPort{ID: 9, IfIndex: other.ifindex}); err == nil {
		t.Error("a second port found room for one")
	}
	if program, _ := portHook(t, other.ifindex); program != 0 {
		t.Error("a port that failed has a hook")
	}
	if err := l.trunk.Close(); err != nil {
		t.Fatal(err)
	}
	l.trunk = loadTrunk(t, TrunkOptions{PinDir: dir, MaxPorts: 2})
	l.carries(t)
	attachTrunk(t, l.trunk, l.wire.ifindex, 1)
	setPort(t, l.trunk, l.port)
	setPort(t, l.trunk, TrunkPort{ID: 9, IfIndex: other.ifindex})
	l.carries(t)
	if err := l.trunk.Detach(); err != nil {
		t.Error(err)
	}
	l.bare(t)
}

func TestTrunkUnpinned(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{})
	l.carries(t)
	if err := l.trunk.Close(); err != nil {
		t.Error(err)
	}
	if program, _ := portHook(t, l.pod.ifindex); program == 0 {
		t.Error("the hook at the port's device went with the process: what a pod sends is the host's stack's")
	}
}
