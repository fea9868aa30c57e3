// SPDX-License-Identifier: Apache-2.0

// Package xdpprog loads, attaches and feeds the eBPF hooks. Through the XDP hook from_wire frames reach the dataplane's
// AF_XDP sockets. A Port is the hook at one device:
//
//	Load ─► SetAddresses, SetSocket ─► Attach ─► Check, Counters ─► Close (keeps pins) or Detach (removes all)
//
// The programs stand in bpf/: from_wire_owned.c gives every packet to userspace, from_wire_shared.c only what is
// addressed to us. With a pin directory the hook outlives the process: the next Load takes over the maps and the next
// Attach replaces the program in one update, so that no packet meets a device without a hook.
//
// A Trunk is the hooks of pods, bpf/from_port.c and bpf/to_port.c, between which and userspace a veth pair carries the
// packets of all ports, each marked with its PortID in a MAC address:
//
//	LoadTrunk ─► Attach, SetPort, RemovePort ─► Counters ─► Close (keeps pins and hooks) or Detach (removes all)
//
// Services is the hooks by which services get what would otherwise be the host's: bpf/from_uplink.c at the devices by
// which the host reaches the network, and bpf/node_sockets.c at the cgroup of its sockets:
//
//	Trunk.LoadServices ─► SetNode, SetPods, SetFrontend, SetAddress ─► AttachUplink, AttachCgroup ─► Close or Detach
//
// A FlowTable is the kernel's flow table, by which hooks carry flows that userspace has decided about (bpf/carry.h). It
// is memory that userspace writes, and is loaded before the hooks that use it:
//
//	LoadFlowTable ─► Memory ─► TrunkOptions.Flows, Options.Flows ─► Close (keeps pins) or Remove
//
// Devices are those of the calling thread's network namespace.
package xdpprog

//go:generate -command bpf2go go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang -no-global-types
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" owned bpf/from_wire_owned.c
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" shared bpf/from_wire_shared.c
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" wireTC bpf/from_wire_tc.c
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" fromPort bpf/from_port.c
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" toPort bpf/to_port.c
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" fromUplink bpf/from_uplink.c
//go:generate bpf2go -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" nodeSockets bpf/node_sockets.c
