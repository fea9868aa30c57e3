// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// The maps of the pods' hooks. All hooks of a node have the same ones, which a restarted dataplane takes over from
// their pins. The loader sets the size of those that hold ports.
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "port_counters.h"
#include "shared.h"
#include "to_trunk.h"

// By ifindex.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct station);
	__uint(max_entries, 1);
} stations SEC(".maps");

// By PortID.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct port);
	__uint(max_entries, 1);
} ports SEC(".maps");

// Whose an address is, as a PortID: those of stations but the host's.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ip_address);
	__type(value, __u32);
	__uint(max_entries, 1);
} addresses SEC(".maps");

// count notes the packet under its port and reason and returns the action, so that a verdict is one line.
static __always_inline int count(struct __sk_buff *skb, __u32 port, __u32 reason, int action)
{
	note(port, reason, skb->len);
	return action;
}

static __always_inline int drop(struct __sk_buff *skb, __u32 port, __u32 reason)
{
	return count(skb, port, reason, TC_ACT_SHOT);
}
