// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The qdisc stays when others have filters there, and theirs with it.
func TestFiltersOfOthers(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{})
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		theirs := &netlink.BpfFilter{Fd: program.FD(), Name: "theirs", DirectAction: true,
			FilterAttrs: netlink.FilterAttrs{LinkIndex: l.pod.ifindex, Parent: parent, Priority: 2, Handle: 1,
				Protocol: unix.ETH_P_ALL}}
		if err := netlink.FilterAdd(theirs); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.trunk.takeOff(portID), l.trunk.takeOff(portID)); err != nil {
			t.Error(err)
		}
		if program, qdisc := portHook(t, l.pod.ifindex); program != 0 || !qdisc {
			t.Errorf("the device has program %d, clsact %v", program, qdisc)
		}
		setPort(t, l.trunk, l.port)
		l.carries(t)
		if err := netlink.FilterDel(theirs); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.trunk.RemovePort(portID), l.trunk.RemovePort(portID)); err != nil {
		t.Error(err)
	}
	if program, _ := portHook(t, l.pod.ifindex); program == 0 {
		t.Error("a device without its port has lost its hook")
	}
	setPort(t, l.trunk, l.port)
	if err := l.trunk.takeOff(portID); err != nil {
		t.Error(err)
	}
	if _, qdisc := portHook(t, l.pod.ifindex); qdisc {
		t.Error("the qdisc is left")
	}
}

func TestPortsChangeHands(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{})
	first := l.pod
	l.pod = newVeth(t, vethOptions{in: l.ns, peerMAC: stationMAC[:]})
	l.port.IfIndex = l.pod.ifindex
	setPort(t, l.trunk, l.port) // the port moves to another device
	l.carries(t)
	if program, _ := portHook(t, first.ifindex); program == 0 {
		t.Error("the device before has lost its hook")
	}
	l.port.ID = 5
	setPort(t, l.trunk, l.port) // the device becomes another port's
	if err := l.trunk.RemovePort(portID); err != nil {
		t.Error(err)
	}
	if ids, err := l.trunk.Ports(); err != nil || !slices.Equal(ids, []uint32{5}) {
		t.Errorf("ports %v, %v", ids, err)
	}
	if program, _ := portHook(t, l.pod.ifindex); program == 0 {
		t.Error("the device lost its hook to the port before")
	}
}

// A device at which a hook cannot be replaced keeps the one it has, and nothing passes it.
func TestHookThatStays(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{})
	pod, stack := l.sender(t), openPacket(t, l.pod.ifindex, unix.ETH_P_IP)
	if err := l.trunk.fromPort.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.trunk.SetPort(l.port); err == nil {
		t.Fatal("a program that is closed was attached")
	}
	pod.send(t, portGoldens()[0].frame)
	await(t, "the hook to drop", func() bool {
		return countersOf(t, l.trunk, noPort)[UnknownDeviceDropped-FromPort].Packets == 1
	})
	if frame := stack.poll(); frame != nil {
		t.Errorf("the host's stack got %x", frame)
	}
}

func TestPortsThatCannotBe(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{})
	device := newVeth(t, vethOptions{})
	good := TrunkPort{ID: 5, IfIndex: device.ifindex}
	five := netip.MustParseAddr("10.0.0.1")
	for name, change := range map[string]func(*TrunkPort){
		"id 0":         func(p *TrunkPort) { p.ID = 0 },
		"id of 25 bit": func(p *TrunkPort) { p.ID = 1 << 24 },
		"no device":    func(p *TrunkPort) { p.IfIndex = 0 },
		"gone device":  func(p *TrunkPort) { p.IfIndex = 1 << 30 },
		"no host":      func(p *TrunkPort) { p.Host = true },
		"no address":   func(p *TrunkPort) { p.Addresses = []netip.Addr{{}} },
		"five IPv4":    func(p *TrunkPort) { p.Addresses = slices.Repeat([]netip.Addr{five}, 5) },
		"five IPv6":    func(p *TrunkPort) { p.Addresses = slices.Repeat([]netip.Addr{peer6}, 5) },
	} {
		p := good
		change(&p)
		err := l.trunk.SetPort(p)
		var addresses *AddressesError
		if err == nil || errors.As(err, &addresses) != (len(p.Addresses) == 5) ||
			errors.Is(err, ErrNoDevice) != (p.IfIndex != good.IfIndex || p.Host) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if ids, err := l.trunk.Ports(); err != nil || len(ids) != 1 {
		t.Errorf("ports %v, %v", ids, err)
	}
	if err := l.trunk.Attach(1<<30, 1); !errors.Is(err, ErrNoDevice) {
		t.Errorf("attach to no device: %v", err)
	}
	setPort(t, l.trunk, good)
	link, err := netlink.LinkByIndex(device.ifindex)
	if err != nil || netlink.LinkDel(link) != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.trunk.RemovePort(5), l.trunk.RemovePort(6)); err != nil {
		t.Errorf("remove a port whose device is gone: %v", err)
	}
}

// 250 ports cost no descriptors.
func TestManyPorts(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{PinDir: filepath.Join(bpffs(t), "trunk")})
	before := len(descriptors())
	for i := range 125 {
		v := newVeth(t, vethOptions{}) // both ends are ports
		for j, ifindex := range []int{v.ifindex, v.peer} {
			setPort(t, l.trunk, TrunkPort{ID: uint32(1000 + 2*i + j), IfIndex: ifindex})
		}
	}
	if after := len(descriptors()); after != before {
		t.Errorf("%d descriptors before, %d after: %v", before, after, descriptors())
	}
	if ids, err := l.trunk.Ports(); err != nil || len(ids) != 251 {
		t.Errorf("%d ports, %v", len(ids), err)
	}
	l.carries(t)
	if err := l.trunk.Detach(); err != nil {
		t.Error(err)
	}
	l.bare(t)
}

// Counters of a number that another port had begin anew, those of what was carried, too.
func TestCountersBeginAnew(t *testing.T) {
	l := newTrunkLab(t, 1, TrunkOptions{})
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	l.port.ID = 5
	setPort(t, l.trunk, l.port)
	carried := make([]carriedCounters, cpus)
	carried[0] = carriedCounters{From: counterValue{1, 60}, To: counterValue{2, 120}}
	carried[cpus-1].To.Packets += 7
	if err := l.trunk.maps["carried_counters"].Put(uint32(5), carried); err != nil {
		t.Fatal(err)
	}
	setPort(t, l.trunk, l.port) // replaced: they go on
	for _, want := range [][2]uint64{{1, 9}, {0, 0}} {
		is := countersOf(t, l.trunk, 5)
		if from, to := is[Carried-FromPort].Packets, is[CarriedTo-FromPort].Packets; from != want[0] || to != want[1] {
			t.Errorf("carried %d packets, and %d to it, want %v", from, to, want)
		}
		if err := l.trunk.RemovePort(5); err != nil {
			t.Fatal(err)
		}
		setPort(t, l.trunk, l.port)
	}
}
