// SPDX-License-Identifier: Apache-2.0

package xdpprog

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Feature is something of the kernel or of a device that the dataplane uses.
type Feature struct {
	Name    string // "XDP multi-buffer"
	Present bool
	Since   string // the first kernel that has it, "5.18"; empty where no version helps
	Detail  string // what it is for when present, what to do or what is lost when not
}

// String is one line: name, whether it is there, the version that has it, the detail.
func (f Feature) String() string {
	state := "yes"
	if !f.Present {
		state = "no"
		if f.Since != "" {
			state += ", Linux " + f.Since + " has it"
		}
	}
	return fmt.Sprintf("%s: %s: %s", f.Name, state, f.Detail)
}

// Features probes the running kernel and this process's capabilities. What cannot be asked without touching a device
// is told by the kernel's version. Hooks are pinned in the directory pins; empty: where systems mount a bpffs. Nothing
// stays behind.
func Features(pins string) []Feature {
	missing := MissingCapabilities()
	capabilities := "CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN are here"
	if missing != "" {
		capabilities = "missing " + missing
	}
	pins = cmp.Or(pins, defaultBPFFS)
	mounted, _ := onBPFFS(pins)
	return []Feature{
		{"capabilities", missing == "", "", capabilities},
		{"AF_XDP", hasXDPSockets(), "4.18", "frames reach userspace through it; nothing works without"},
		{"XDP bpf_link", !kernelBefore(5, 9), "5.9", "hooks are attached and replaced by it; by version"},
		{"eBPF memory outside RLIMIT_MEMLOCK", !kernelBefore(5, 11), "5.11",
			"without it `ulimit -l` must cover the maps; by version"},
		{"XDP multi-buffer", hasFragments(), "5.18", "hooks on devices whose MTU is over a page"},
		{"netdev netlink", hasFamily(), "6.3", "tells what a driver's XDP can"},
		{"AF_XDP multi-buffer", !kernelBefore(6, 6), "6.6", "packets larger than a frame; by version"},
		{"tcx", hasTCX(), "6.6", "the hook to_port at the trunk"},
		{"hooks of sockets", !kernelBefore(5, 14), "5.14", "node ports for the node's own processes; by version"},
		{"AF_XDP tx metadata", hasTxMetadata(), "6.8", "checksums completed by kernel or device"},
		{"bpffs", mounted, "", "on " + pins + "; a hook pinned there outlives its process"},
	}
}

const defaultBPFFS = "/sys/fs/bpf"

func kernelBefore(major, minor uint32) bool {
	version, err := features.LinuxVersionCode()
	return err == nil && version < major<<16|minor<<8
}

func hasXDPSockets() bool {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return errors.Is(err, unix.EPERM) // the family is there, the capability is not
	}
	unix.Close(fd)
	return true
}

func hasFragments() bool {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, Flags: unix.BPF_F_XDP_HAS_FRAGS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	if err != nil {
		return false
	}
	program.Close()
	return true
}

// hasTCX asks the loopback device, whose index is 1 in every namespace, for its tcx programs.
func hasTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
	return err == nil
}

var neededCapabilities = []struct {
	bit  uint
	name string
}{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_BPF, "CAP_BPF"},
}

// MissingCapabilities names those that the calling thread lacks, or nothing.
func MissingCapabilities() string {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return "" // no kernel that has XDP refuses this version
	}
	var missing []string
	for _, c := range neededCapabilities {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	return strings.Join(missing, ", ")
}
