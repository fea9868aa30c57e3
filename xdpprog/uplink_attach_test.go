// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// atIngress are the programs at a device's ingress, in the order in which they run.
func atIngress(t *testing.T, ifindex int) (ids []ebpf.ProgramID) {
	t.Helper()
	all, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXIngress})
	must(t, err)
	for _, p := range all.Programs {
		ids = append(ids, p.ID)
	}
	return ids
}

func programID(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	must(t, err)
	id, _ := info.ID()
	return id
}

// The hook comes before the programs of others, and leaves them where they are.
func TestUplinkBesideOthers(t *testing.T) {
	device := newVeth(t, vethOptions{})
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	must(t, err)
	defer other.Close()
	theirs, err := link.AttachTCX(link.TCXOptions{Interface: device.ifindex, Program: other,
		Attach: ebpf.AttachTCXIngress})
	must(t, err)
	defer theirs.Close()
	s := loadServices(t, loadTrunk(t, TrunkOptions{MaxPorts: 1}), "")
	for range 2 {
		must(t, s.AttachUplink(device.ifindex))
		want := []ebpf.ProgramID{programID(t, s.fromUplink), programID(t, other)}
		if is := atIngress(t, device.ifindex); !slices.Equal(is, want) {
			t.Errorf("programs %v, want %v", is, want)
		}
	}
	if is := s.Uplinks(); !slices.Equal(is, []int{device.ifindex}) {
		t.Errorf("the hook is said to be at %v", is)
	}
	must(t, s.DetachUplink(device.ifindex))
	must(t, s.DetachUplink(device.ifindex))
	if is := atIngress(t, device.ifindex); !slices.Equal(is, []ebpf.ProgramID{programID(t, other)}) {
		t.Errorf("programs %v are left", is)
	}
}

func TestUplinkTakenOver(t *testing.T) {
	device, gone := newVeth(t, vethOptions{}), newVeth(t, vethOptions{})
	root := bpffs(t)
	trunkPins, pins := filepath.Join(root, "trunk"), filepath.Join(root, "services")
	trunk := loadTrunk(t, TrunkOptions{MaxPorts: 1, PinDir: trunkPins})
	first := loadServices(t, trunk, pins)
	must(t, first.AttachUplink(device.ifindex))
	must(t, first.AttachUplink(gone.ifindex))
	f := Frontend{ours4, unix.IPPROTO_TCP, 80}
	must(t, first.SetFrontend(f))
	must(t, first.SetAddress(ours4, AtFrontend|AtHost))
	must(t, first.Close())
	if n := len(atIngress(t, device.ifindex)); n != 1 {
		t.Fatalf("%d programs after Close", n)
	}
	must(t, netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: gone.ifindex}}))

	second := loadServices(t, trunk, pins)
	if is := second.Uplinks(); !slices.Contains(is, device.ifindex) || !slices.Contains(is, gone.ifindex) {
		t.Errorf("taken over: %v", is)
	}
	frontends, err := second.Frontends()
	must(t, err)
	addresses, err := second.Addresses()
	must(t, err)
	if !slices.Equal(frontends, []Frontend{f}) || len(addresses) != 1 || addresses[ours4] != AtFrontend|AtHost {
		t.Errorf("taken over: %v, %v", frontends, addresses)
	}
	must(t, second.AttachUplink(device.ifindex))
	if is := atIngress(t, device.ifindex); !slices.Equal(is, []ebpf.ProgramID{programID(t, second.fromUplink)}) {
		t.Errorf("programs %v", is)
	}
	must(t, second.RemoveFrontend(f))
	must(t, second.RemoveFrontend(f))
	must(t, second.SetAddress(ours4, 0))
	must(t, second.SetAddress(ours4, 0))
	must(t, second.DetachUplink(gone.ifindex))
	must(t, second.Detach())
	must(t, second.Detach())
	if _, err := os.Stat(pins); !errors.Is(err, os.ErrNotExist) || len(atIngress(t, device.ifindex)) != 0 {
		t.Errorf("after Detach: %v", err)
	}
}

func TestUplinkRefused(t *testing.T) {
	s := loadServices(t, loadTrunk(t, TrunkOptions{MaxPorts: 1}), "")
	if err := s.AttachUplink(1 << 20); !errors.Is(err, ErrNoDevice) {
		t.Errorf("no device: %v", err)
	}
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "xdpprogtun"}, Mode: netlink.TUNTAP_MODE_TUN}
	if err := netlink.LinkAdd(tun); err != nil {
		t.Fatal(err)
	}
	defer func() { must(t, netlink.LinkDel(tun)) }()
	if err := s.AttachUplink(tun.Index); !errors.Is(err, ErrNotSupported) {
		t.Errorf("a device without Ethernet: %v", err)
	}
}

// Packets from the wire: services' come out of the trunk, marked; the others reach the stack.
func TestUplinkOnTheWire(t *testing.T) {
	uplink, way := newVeth(t, vethOptions{}), newVeth(t, vethOptions{})
	trunk := loadTrunk(t, TrunkOptions{MaxPorts: 1})
	attachTrunk(t, trunk, way.ifindex, 1)
	s := loadServices(t, trunk, "")
	must(t, s.SetNode(Node{HostPort: hostPort}))
	must(t, s.SetFrontend(Frontend{ours4, unix.IPPROTO_UDP, frontPort}))
	must(t, s.SetAddress(ours4, AtFrontend))
	must(t, s.AttachUplink(uplink.ifindex))
	device, err := netlink.LinkByIndex(uplink.ifindex)
	must(t, err)
	client := netip.MustParseAddr("192.0.2.7")
	for _, port := range []uint16{frontPort + 1, frontPort} {
		frame := join(device.Attrs().HardwareAddr, []byte{2, 0, 0, 0, 0, 9},
			ipFamilies[0].packet(client, ours4, unix.IPPROTO_UDP, portsOf(9, port)))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: uplink.peer}))
		must(t, unix.Close(fd))
	}
	counts := map[Reason]uint64{}
	await(t, "both packets", func() bool {
		all, err := s.Counters()
		must(t, err)
		for _, c := range all {
			counts[c.Reason] = c.Packets
		}
		return counts[ServiceTaken] == 1 && counts[NotOursLeft] >= 1
	})
	await(t, "the packet behind the trunk", func() bool {
		l, err := netlink.LinkByIndex(way.peer)
		return err == nil && l.Attrs().Statistics.RxPackets == 1
	})
}
